"""The plan of a growth: what is done with every parameter, printed before a weight is read, and then carried out."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig, PreTrainedModel

from .arguments import Arguments, errors_about
from .building import build, own_randomness
from .checkpoint import Teacher, open_teacher
from .config.larger import larger_config, padded_vocabulary
from .config.names import SIZES
from .depth.rules import order
from .plan_lines import parameter_lines
from .proxy.model import Proxies
from .report import GrowthReport, Outcome, layer_lines, size_lines
from .rests import RESTS
from .strategies import INITS
from .strategy import SETTINGS, Choice, Init, Strategy, unplanned
from .student import changed_numbers, check_shapes, own_initialisation
from .vocabulary import NEW_ROWS, Shares, with_rows_of, without_new_rows
from .width.mapping import Plan

if TYPE_CHECKING:

    class GrownModel(PreTrainedModel):
        """What type checkers know of a student: a stock transformers model that carries its report."""

        growth_report: GrowthReport

else:
    GrownModel = PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What carrying out a plan needs beside it; no weight of the teacher has been read.

    Args:
        source: the teacher.
        teacher: the same, with as many rows of tokens and positions as the student has.
        shares: of elements with new rows.
        strategy: which fills the student; of "auto" that which chooses.
        steps: what the strategy planned.
        options: of the strategy.
        rest: its name, for the report.
        seed: of all that is random.
        arguments: the caller's.
    """

    source: Teacher
    teacher: Teacher
    shares: Shares
    strategy: Strategy
    steps: Plan | Choice
    options: Mapping[str, object]
    rest: str
    seed: int
    arguments: Arguments


@dataclass(frozen=True)
class GrowthPlan:
    """What a growth does; `print(plan)` shows it and `apply` does it.

    Args:
        teacher: id, path or class name.
        strategy: which fills the student; of "auto" the one it chooses.
        config: the student's.
        sizes: attribute of the config -> (teacher's value, student's), for every number that changes.
        steps: name of a student's parameter or buffer -> how it is made; what has none keeps its initialisation.
        sources: name of a student's parameter -> the teacher's that it is made from, None if there is none; empty
            where `init` is a function of your own.
        parameters: (teacher's, student's) number of parameters.
        bytes_per_parameter: in the teacher's dtype.
        notes: what "auto" chooses, and why the better ones were refused.
        options: name -> value of what the caller may set of the strategy, and of new rows where there are any.
    """

    teacher: str
    strategy: Strategy
    config: PreTrainedConfig
    sizes: Mapping[str, tuple[int | None, int | None]]
    steps: Plan
    sources: Mapping[str, str | None]
    parameters: tuple[int, int]
    bytes_per_parameter: int
    notes: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    work: Work = field(repr=False, kw_only=True)

    @property
    def init(self) -> str:
        """Name of the strategy."""
        return self.strategy.name

    @property
    def exact(self) -> bool:
        """Whether the student will compute what its teacher does."""
        return self.strategy.exact

    @property
    def memory(self) -> int:
        """Bytes that the student takes while it is grown, together with the teacher where that is read."""
        read = self.parameters if self.strategy.reads_teacher else self.parameters[1:]
        return sum(read) * self.bytes_per_parameter

    def apply(self) -> GrownModel:
        """The student, as `from_weak_teacher` returns it; now the teacher's weights are read.

        Raises:
            GrowthError: weights that cannot be read, or with which an exact strategy is not exact.
        """
        work = self.work
        with errors_about(work.arguments):
            initialised = functools.partial(own_initialisation, work.source, self.config, work.seed)
            student = initialised(skip=work.strategy.writes_all)
            given = {"steps": work.steps, "build_again": initialised}
            with own_randomness(work.seed):
                filled = work.strategy.fill(student, work.teacher, {**work.options, **given})
        outcome = filled if isinstance(filled, Outcome) else Outcome(filled)
        outcome = replace(outcome, parameters=without_new_rows(outcome.parameters, work.shares))
        grown: GrownModel = student.eval()
        grown.growth_report = _report(work, student, outcome)
        return grown

    def __str__(self) -> str:
        small, large = self.parameters
        models = "teacher and student" if self.strategy.reads_teacher else "the student"
        head = [
            f"{self.teacher}: {small:,} -> {large:,} parameters, {self.memory / 2**20:,.0f} MiB for {models}",
            f"init={self.init}: {self.strategy.promise}",
            *(f"  {note}" for note in self.notes),
        ]
        if self.options:
            head.append("  with " + ", ".join(f"{name}={value}" for name, value in self.options.items()))
        parameters = parameter_lines(self.steps, self.strategy, self.work.source.skeleton)
        return "\n".join([*head, *size_lines(self.sizes), *layer_lines(self.sources), *parameters])


def make_growth_plan(arguments: Arguments, loading: Arguments) -> GrowthPlan:
    """The plan for arguments of `plan_growth`, and of `from_pretrained`, that were checked."""
    source = open_teacher(arguments["teacher"], arguments["auto_class"], loading)
    vocabulary = padded_vocabulary(source.config, arguments["vocab_size"], arguments["pad_vocab_to_multiple_of"])
    sizes = {role: arguments[role] for role in SIZES} | {"vocab_size": vocabulary}
    strategy = _strategy(arguments["init"])
    seed, depth = arguments["seed"], arguments["depth"] or strategy.depth
    config = larger_config(source.config, sizes, arguments["config_overrides"], functools.partial(order, depth))
    check_shapes(source.skeleton, config, depth)
    rows, rest = arguments["new_rows"], arguments["rest"]
    teacher, shares = with_rows_of(source, config, NEW_ROWS[rows] if isinstance(rows, str) else rows, seed)
    student = build(type(source.skeleton), config, "meta")
    options = {
        "rest": RESTS[rest] if isinstance(rest, str) else rest,
        "depth": depth,
        "symmetry": arguments["symmetry"],
        "seed": seed,
        "proxies": Proxies(teacher.skeleton, student.config, seed),
        "strategies": INITS,
    }
    steps = strategy.planned(student, teacher, options)
    chosen = steps if isinstance(steps, Choice) else Choice(strategy.name, steps)
    made_from = {n: chosen.steps[n].source if n in chosen.steps else None for n, _ in student.named_parameters()}
    settings = {name: options[name] for name in SETTINGS} | {"rest": _name(rest)}
    filling = INITS[chosen.init] if chosen is steps else strategy
    taken = {name: value for name, value in settings.items() if name == "seed" or name in filling.parameters}
    return GrowthPlan(
        teacher=source.name,
        strategy=filling,
        config=config,
        sizes=changed_numbers(source.config, config),
        steps=chosen.steps,
        sources=made_from if strategy.plan else {},
        parameters=(source.skeleton.num_parameters(), student.num_parameters()),
        bytes_per_parameter=source.skeleton.dtype.itemsize,
        notes=(f"auto would choose {chosen.init}", *chosen.refused) if chosen is steps else (),
        options=taken | ({"new_rows": _name(rows)} if shares else {}),
        work=Work(source, teacher, shares, strategy, steps, options, _name(rest), seed, arguments),
    )


def _strategy(init: str | Init) -> Strategy:
    """The record of a name or a function; a function that is in no registry has no plan."""
    if isinstance(init, str):
        return INITS[init]
    if isinstance(init, Strategy):
        return init
    return next((strategy for strategy in INITS.values() if strategy.function is init), unplanned(init))


def _report(work: Work, student: PreTrainedModel, outcome: Outcome) -> GrowthReport:
    source, parameters = work.source, outcome.parameters
    untrained = tuple(sorted(source.untrained)) if any(s.name for s in parameters.values()) else ()
    if untrained:
        logger.warning(
            "%d parameters are not in the teacher's checkpoint, so the student's are not the teacher's either: %s. "
            "If the checkpoint was trained for another task, name its class in auto_class.",
            len(untrained),
            ", ".join(untrained),
        )
    return GrowthReport(
        teacher=source.name,
        init=work.strategy.name,
        rest=work.rest,
        seed=work.seed,
        sizes=changed_numbers(source.config, student.config),
        parameters=parameters,
        untrained=untrained,
        preserved=outcome.preserved,
        difference=outcome.difference,
        notes=outcome.notes,
        unproven=outcome.unproven,
        references=INITS.get(outcome.init, work.strategy).references,
    )


def _name(choice: object) -> str:
    named = choice if isinstance(choice, str) else getattr(choice, "name", getattr(choice, "__name__", ""))
    return named or type(choice).__name__
