"""Parts: whatever a registry holds is found by arguments, help, errors, card and docs without another line."""

import importlib.util
import math
import re
import runpy
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import HfArgumentParser

from hf_dwt import arguments
from hf_dwt.data.criteria import CRITERIA
from hf_dwt.errors import ArgumentError
from hf_dwt.growth import NEW_ROWS, RESTS
from hf_dwt.growth.depth.rules import DEPTHS
from hf_dwt.growth.strategies import INITS
from hf_dwt.kinds import Bounds
from hf_dwt.objective import SOFT_TERMS, Targets
from hf_dwt.objective.corrections import CORRECTIONS
from hf_dwt.objective.corrections.record import TRUTH, CorrectionPart
from hf_dwt.objective.divergences import get_soft_term
from hf_dwt.objective.divergences.record import Divergence
from hf_dwt.objective.hidden import HIDDEN_TERMS
from hf_dwt.objective.hidden.record import HiddenTerm
from hf_dwt.objective.scaling import SCALINGS
from hf_dwt.parts import PAPER, Part, Reference, registry
from hf_dwt.programs import PROGRAMS
from hf_dwt.publish.card import model_card
from hf_dwt.publish.run_record import RunRecord
from hf_dwt.schedules import SCHEDULES, choices
from hf_dwt.schedules.record import Factors, Schedule
from hf_dwt.teachers.cache.formats import FORMATS
from hf_dwt.teachers.placement import PLACEMENTS
from hf_dwt.teachers.several import WEIGHTINGS
from hf_dwt.teachers.several.rewards import REWARDS
from hf_dwt.training.record import objective_section
from hf_dwt.tuning import SCORES, SUPPORTS

from .training import arguments as training_arguments

DOCS = Path(__file__).parents[1] / "docs"
REGISTRIES: dict[str, Any] = {
    "schedules": choices(),
    "divergences": SOFT_TERMS,
    "corrections": CORRECTIONS,
    "hidden terms": HIDDEN_TERMS,
    "weightings": WEIGHTINGS,
    "rewards": REWARDS,
    "scalings": SCALINGS,
    "formats": FORMATS,
    "placements": PLACEMENTS,
    "criteria": CRITERIA,
    "strategies": INITS,
    "rests": RESTS,
    "new rows": NEW_ROWS,
    "depth rules": DEPTHS,
    "supports": SUPPORTS,
    "scores": SCORES,
    "programs": PROGRAMS,
}
PARTS = [pytest.param(part, id=f"{kind}-{name}") for kind, of in REGISTRIES.items() for name, part in of.items()]


def halves(progress: float, *, at: float = 0.5) -> Factors:
    return 1.0, 2.0 if progress < at else 0.5


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.exp() * (student - teacher)).sum(-1)


HALVES = Schedule(
    "halves", "twice, then half", halves, "1 and 2, then 0.5", (Reference("the halves", "Halving", "1234.56789"),)
)
REVERSE_KL = Divergence(
    "reverse_kl", "KL(student || teacher)", reverse_kl, "seeks modes", (Reference("it", "Reversing", "9876.54321"),)
)


def halved(student: Tensor, teacher: Any, labels: Tensor, progress: float, *, by: float = 2.0) -> Targets:
    return Targets(teacher, row_weight=torch.full((len(labels),), 1.0 / by))


HALVED = CorrectionPart(
    "halved",
    "half of each row",
    halved,
    "a factor of 1/2",
    (Reference("the half", "Halving again", "2345.67891"),),
    reads=TRUTH,
)


def distance(student: Tensor, supervisor: Tensor, examples: Tensor, *, power: float = 2.0) -> Tensor:
    return (student - supervisor).abs().pow(power).sum(-1)


DISTANCE = HiddenTerm(
    "distance",
    "how far apart",
    distance,
    "at least 0",
    (Reference("the distance", "Apart", "3456.78912"),),
    weight=2.0,
)


@dataclass(frozen=True)
class New:
    """A part that a test makes.

    argument: the field of `DistillationArguments` that chooses it.
    """

    registry: dict[str, Any]
    part: Part[..., Any]
    argument: str


NEW = {
    "schedule": New(SCHEDULES, HALVES, "soft_weight_schedule"),
    "divergence": New(SOFT_TERMS, REVERSE_KL, "soft_term"),
    "correction": New(CORRECTIONS, HALVED, "teacher_correction"),
    "hidden term": New(HIDDEN_TERMS, DISTANCE, "hidden_term"),
}


@pytest.fixture(params=NEW)
def new(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> New:
    found = NEW[request.param]
    monkeypatch.setitem(found.registry, found.part.name, found.part)
    return found


@pytest.fixture
def arguments_as_imported_now(new: New, monkeypatch: pytest.MonkeyPatch) -> type:
    """`DistillationArguments` of a process that starts with the part: help texts are made at the import."""
    spec = importlib.util.spec_from_file_location("hf_dwt.again", str(arguments.__file__))
    again = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, again)
    spec.loader.exec_module(again)
    return again.DistillationArguments


def test_arguments_and_errors_know_a_new_part(new: New) -> None:
    args = training_arguments("unused", **{new.argument: new.part.name})
    if new.argument == "soft_term":
        drawn = torch.randn(2, 3, 5, dtype=torch.float64).log_softmax(-1)
        torch.testing.assert_close(get_soft_term(args.soft_term)(*drawn), reverse_kl(*drawn))
    elif new.argument == "teacher_correction":
        drawn = torch.randn(2, 3, 5)
        assert args.correction()(*drawn, torch.arange(3), 0.0).row_weight.tolist() == [0.5] * 3
    elif new.argument == "hidden_term":
        drawn = torch.randn(2, 3, 5)
        torch.testing.assert_close(args.hidden()(*drawn, torch.arange(3)), distance(*drawn, torch.arange(3)))
    else:
        assert args.schedule()(0.25) == (1.0, 2.0)
    assert args.to_dict()[new.argument] == new.part.name
    assert training_arguments("unused", **{new.argument: new.part}).to_dict()[new.argument] == new.part.name
    with pytest.raises(ArgumentError, match=f"Did you mean '{new.part.name}'.*Available: .*{new.part.name}"):
        training_arguments("unused", **{new.argument: new.part.name + "s"})


def test_the_command_line_helps_with_a_new_part(new: New, arguments_as_imported_now: type) -> None:
    clause = f"{new.part.name} ({new.part.title})"
    before, after = (
        " ".join(HfArgumentParser(kind).format_help().split())
        for kind in (arguments.DistillationArguments, arguments_as_imported_now)
    )
    assert clause not in before and clause in after
    line = ["--output_dir", "unused", "--use_cpu", f"--{new.argument}", new.part.name]
    (args,) = HfArgumentParser(arguments.DistillationArguments).parse_args_into_dataclasses(line)
    assert getattr(args, new.argument) == new.part.name


CHOOSING = [
    "soft_weight_schedule",
    "soft_term",
    "teacher_correction",
    "hidden_term",
    "soft_loss_scaling",
    "teacher_cache_form",
    "teacher_placement",
]


@pytest.mark.parametrize("argument", CHOOSING)
def test_the_help_names_every_part(argument: str) -> None:
    parts = {
        "teacher_placement": PLACEMENTS,
        "soft_weight_schedule": choices(),
        "soft_term": SOFT_TERMS,
        "teacher_correction": CORRECTIONS,
        "hidden_term": HIDDEN_TERMS,
        "soft_loss_scaling": SCALINGS,
        "teacher_cache_form": {name: part for name, part in FORMATS.items() if part.vocabulary},
    }
    helps = {field.name: field.metadata["help"] for field in fields(arguments.DistillationArguments) if field.metadata}
    for name, part in parts[argument].items():
        assert f"{name} ({part.title})" in helps[argument]


def card(**chosen: Any) -> str:
    objective = objective_section(training_arguments("unused", **chosen), has_teacher=True)
    return str(model_card(RunRecord(teacher={"name": "weak"}, objective=objective)))


@pytest.mark.parametrize("name", choices())
def test_the_card_cites_each_schedule_but_the_papers(name: str) -> None:
    text = card(soft_weight_schedule=name)
    for reference in choices()[name].references:
        assert (f"{reference.what}: {reference.title}" in text) == (reference.arxiv != PAPER)


def test_the_card_cites_a_new_part(new: New) -> None:
    """By its name, or given as a record that is in no registry."""
    unregistered = replace(new.part, name="of my own")
    (reference,) = new.part.references
    cited = f"{reference.what}: {reference.title} ([arXiv:{reference.arxiv}]"
    assert cited in card(**{new.argument: new.part.name}) and cited in card(**{new.argument: unregistered})
    assert cited not in card()


def test_a_table_of_the_docs_has_a_new_part(new: New) -> None:
    tables = runpy.run_path(str(DOCS / "parts.py"))
    pages = {page: tables["written"](page.read_text(encoding="utf-8")) for page in DOCS.glob("*.md")}
    row = rf'^\| `"{new.part.name}"` \| {re.escape(new.part.title.replace("|", chr(92) + "|"))} \|'
    (found,) = [text for text in pages.values() if re.search(row, text, re.MULTILINE)]
    assert f"https://arxiv.org/abs/{new.part.references[0].arxiv}" in found


def test_the_tables_of_the_docs_are_what_the_records_say() -> None:
    tables = runpy.run_path(str(DOCS / "parts.py"))
    pages = {page.name: page.read_text(encoding="utf-8") for page in DOCS.glob("*.md")}
    for name in tables["TABLES"]:
        assert sum(text.count(f"<!-- {name} -->") for text in pages.values()) == 1, name
    for name, text in pages.items():
        assert tables["written"](text) == text, f"docs/{name}: run python docs/parts.py"


@pytest.mark.parametrize("part", PARTS)
def test_a_record_is_whole(part: Part[..., Any]) -> None:
    """What is shown of it is there; its defaults lie in its bounds; a number of a paper is one."""
    assert part.name and part.title
    assert all(part.parameters[name] in bounds for name, bounds in part.bounds.items())
    assert all(re.fullmatch(r"\d{4}\.\d{4,5}", one.arxiv) for one in part.references if one.arxiv)
    assert all(one.what and one.title for one in part.references)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_record_has_the_promise_that_tables_show(kind: str) -> None:
    assert all(part.promise for part in REGISTRIES[kind].values())


@pytest.mark.parametrize("part", SCHEDULES.values(), ids=SCHEDULES)
def test_every_parameter_of_a_schedule_has_bounds(part: Schedule) -> None:
    assert part.bounds.keys() == part.parameters.keys()


def test_a_record_that_contradicts_itself_or_another_is_refused() -> None:
    with pytest.raises(ValueError, match="halves has no parameter when"):
        Schedule("halves", "twice, then half", halves, bounds={"when": Bounds(0, 1)})
    with pytest.raises(ValueError, match="two parts have the same name: halves, halves"):
        registry(HALVES, HALVES)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "words"),
    [
        (Bounds(), [0, 0.5, 1e9], [-1e-9, math.inf, math.nan, True, "1", None], "from 0 upwards"),
        (Bounds(0, 1, above=True), [1e-9, 1], [0, 1.1, False], "above 0 to 1"),
        (Bounds(1), [1, 2.5], [0, 0.99], "from 1 upwards"),
        (Bounds(above=True), [1e-300], [0, -1, math.inf], "above 0"),
        (Bounds(0, 2**32 - 1), [0, 2**32 - 1], [-1, 2**32], "from 0 to 4294967295"),
    ],
)
def test_bounds(bounds: Bounds, inside: list[Any], outside: list[Any], words: str) -> None:
    assert all(value in bounds for value in inside) and not any(value in bounds for value in outside)
    assert str(bounds) == words
