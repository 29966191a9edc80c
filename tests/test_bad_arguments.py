"""Every argument of every public callable: a wrong name, type or value is an error before a model is loaded."""

import argparse
import collections.abc
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import transformers
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput

from hf_dwt import DistillationArguments, DistillationTrainer, assess_teacher, cli, from_weak_teacher
from hf_dwt.callbacks import DrawRun, PushRun, RecordRun, SummarizeRun
from hf_dwt.errors import _RENAMED, ArgumentError, DistillationError, SetupError
from hf_dwt.growth import plan_growth
from hf_dwt.kinds import COUNT
from hf_dwt.option_checks import _NUMBERS, _choices
from hf_dwt.publish.upload import Destination
from hf_dwt.training.trainer import _STOCK

from .models import tiny
from .training import arguments

# ---- every public callable, tried with arguments made from its signature ----

TEACHER = "nobody/that-is-never-loaded"
TEXTS = ["some text"]
POOL: list[Any] = [-3, 2.5, math.nan, True, "nope", b"nope", ["nope"], {"nope": 1}, ("nope",), object(), print, int]
"""Values of every kind: those that an annotation does not allow are tried."""
SIZES, SEEDS = [0, -1, 1.0, True], [-1, 2**32, 0.5]


@dataclasses.dataclass(frozen=True)
class Public:
    """A public callable.

    call: with these arguments it would go on to load a model, or end.
    plain: arguments that are right.
    hints: of arguments whose annotation says less than what is allowed.
    ranges: argument -> values of the right type that are out of range.
    """

    call: Callable[..., Any]
    plain: dict[str, Any] = dataclasses.field(default_factory=dict)
    hints: dict[str, Any] = dataclasses.field(default_factory=dict)
    ranges: dict[str, list[Any]] = dataclasses.field(default_factory=dict)


def _growth(call: Callable[..., Any]) -> Public:
    taken = inspect.signature(plan_growth).parameters
    sizes = [name for name, parameter in taken.items() if parameter.annotation == int | None]
    named = {name: ["nope", ""] for name in ("init", "rest", "new_rows", "depth")}
    ranges = {**named, **dict.fromkeys(sizes, SIZES), "seed": SEEDS, "symmetry": [-0.1, math.inf, math.nan]}
    loading = {"dtype": ["float33"], "revision": [3], "subfolder": [3], "trust_remote_code": ["yes"], "token": [3]}
    return Public(call, {"teacher": TEACHER, "hidden_size": 32}, {"auto_class": str | type}, {**ranges, **loading})


_OWN = {f.name for f in dataclasses.fields(DistillationArguments)} - {
    f.name for f in dataclasses.fields(TrainingArguments)
}
_BELOW = {name: [*([0] if kind is COUNT else []), -1, math.nan, math.inf, True] for name, kind in _NUMBERS.items()}
PUBLIC = {
    "DistillationArguments": Public(
        DistillationArguments,
        {"output_dir": "unused", "use_cpu": True},
        dict.fromkeys(("soft_weight_schedule", "soft_term"), str | Callable) | {"teacher_cache": str | Path | None},
        {
            **_BELOW,
            "temperature": [*_BELOW["temperature"], 0],
            **{name: ["nope", ""] for name in (*_choices(), "soft_weight_schedule", "soft_term")},
            "soft_weight_schedule_kwargs": ["nope", "[1]", {"nope": 1}, {3: 1}],
            "teacher_model_init_kwargs": ["nope", "[1]"],
        },
    ),
    "DistillationTrainer": Public(
        DistillationTrainer,
        {"model": tiny("bert")},
        {"teacher_model": str | nn.Module, "model_init": Callable},
        {"eval_dataset": [{"a": 3}], "callbacks": [[3], [print]], "optimizers": [(None,), ("sgd", None)]},
    ),
    "from_weak_teacher": _growth(from_weak_teacher),
    "plan_growth": _growth(plan_growth),
    "assess_teacher": Public(
        assess_teacher,
        {"teacher": TEACHER, "dataset": TEXTS},
        {
            "teacher": str | nn.Module,
            "dataset": Sequence,
            "data_collator": Callable | None,
            "processing_class": PreTrainedTokenizerBase | None,
        },
        {
            "dataset": [[], [3], [{"content": "text"}], [{"text": 3}], {"train": TEXTS}, iter(TEXTS)],
            "student": [{"hiden_size": 32}, {"hidden_size": 0}, {"init": "remap"}],
            "samples": SIZES,
            "batch_size": SIZES,
            "seed": SEEDS,
            "device": ["nope"],
            "dtype": ["float33"],
            "revision": [3],
        },
    ),
    "PushRun": Public(PushRun, {"to": "me/student"}, {}, {"when": ["always", ""]}),
    "RecordRun": Public(RecordRun),
    "DrawRun": Public(DrawRun, {"record": RecordRun()}),
    "SummarizeRun": Public(SummarizeRun, {"record": RecordRun()}),
    "Destination": Public(Destination, {"repo_id": "me/student"}),
}


def fits(value: Any, hint: Any) -> bool:
    """Whether an annotation allows a value."""
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is collections.abc.Sequence:
        return isinstance(value, list | tuple) and all(fits(item, part) for item in value for part in parts)
    if origin is collections.abc.Mapping:
        return isinstance(value, Mapping) and all(fits(item, part) for item in value.values() for part in parts[1:])
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, origin) and (origin is bool or not isinstance(value, bool))


def misspelt(name: str, known: Sequence[str]) -> str:
    """With two letters changed in place, or the last one twice, where that is no name of another."""
    middle = len(name) // 2
    swapped = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    return next(word for word in (swapped, name + name[-1], name + "_") if word not in known)


def bad(public: Public) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(what is wrong, the argument that should be named, arguments) of everything that is tried."""
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(public.call).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    source = public.call.__init__ if inspect.isclass(public.call) else inspect.unwrap(public.call)
    hints = {name: parameter.annotation for name, parameter in parameters.items()}
    hints |= typing.get_type_hints(inspect.unwrap(source)) | public.hints
    for name in parameters:
        wrong = misspelt(name, list(parameters))
        yield name, wrong, {**public.plain, wrong: public.plain.get(name)}
        for value in POOL:
            inherited = public.call is DistillationArguments and name not in _OWN
            # What stock arguments accept beside numbers and truth values is theirs to check.
            theirs = inherited and (not numeric(hints[name]) or isinstance(value, int | float))
            if not theirs and not fits(value, hints[name]):
                yield "", name, {**public.plain, name: value}
    for name, values in public.ranges.items():
        for value in values:
            yield "", name, {**public.plain, name: value}


def numeric(hint: Any) -> bool:
    return set(typing.get_args(hint) or (hint,)) <= {int, float, bool, type(None)}


class Loaded(BaseException):
    """Something was loaded; no handler of exceptions takes it for one of its own."""


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **named: Any) -> None:
        raise Loaded

    for name in ("PreTrainedModel", "AutoConfig", "AutoTokenizer", "AutoModelForMaskedLM", "PreTrainedConfig"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", load)
    monkeypatch.setattr(Trainer, "__init__", load)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("name", PUBLIC)
def test_whatever_is_wrong_is_named_before_anything_is_loaded(name: str) -> None:
    accepted = []
    for right, argument, given in bad(PUBLIC[name]):
        try:
            PUBLIC[name].call(**given)
        except DistillationError as error:
            problems = error.problems if isinstance(error, SetupError) else [error]
            named = [
                problem
                for problem in problems
                if problem.argument.split("[")[0] in (argument, *_blamed(given, argument))
            ]
            if not named or (right and repr(right) not in named[0].fix):
                accepted.append(f"{argument}={given.get(argument)!r} -> {error}")
        except BaseException as error:
            accepted.append(f"{argument}={given.get(argument)!r} -> {type(error).__name__}: {error}")
        else:
            accepted.append(f"{argument}={given.get(argument)!r} -> accepted")
    assert not accepted, "\n".join(accepted)


def _blamed(given: dict[str, Any], argument: str) -> list[str]:
    """Names inside a value that may be blamed in its place."""
    return [str(key) for key in given[argument]] if isinstance(given[argument], dict) else []


def test_the_right_arguments_would_go_on(nothing_is_loaded: None) -> None:
    """What is refused is refused for what was changed: as they are, all of them get to where something is loaded."""
    for name in ("from_weak_teacher", "plan_growth", "assess_teacher", "DistillationTrainer"):
        with pytest.raises(Loaded):
            PUBLIC[name].call(**PUBLIC[name].plain)
    for name in ("PushRun", "RecordRun", "DrawRun", "SummarizeRun", "Destination"):
        PUBLIC[name].call(**PUBLIC[name].plain)
    assert PUBLIC["DistillationArguments"].call(**PUBLIC["DistillationArguments"].plain).soft_weight == 1.0


# ---- the command line ----


def commands(folder: Path) -> dict[str, list[str]]:
    """Command lines that would go on to load something."""
    text = folder / "text.txt"
    text.write_text("text")
    run, plan = folder / "run.yaml", folder / "plan.yaml"
    run.write_text(f"program: mlm\nteacher: {TEACHER}\nhidden_size: 32\ntrain_file: {text}\n")
    plan.write_text(f"teacher: {TEACHER}\ntrain_dataset: {text}\nstages: [{{steps: 1, mask: 0.15}}]\n")
    return {
        "assess": ["assess", TEACHER, "--text", str(text)],
        "grow": ["grow", TEACHER, "--hidden-size", "32", "--out", str(folder / "student")],
        "cache": ["cache", "--export", str(folder / "out"), "--teacher", TEACHER, str(folder / "data")],
        "card": ["card", str(folder)],
        "push": ["push", str(folder), "me/student"],
        "stages": ["stages", str(plan)],
        "train": ["train", str(run)],
    }


def options(command: str) -> list[argparse.Action]:
    parser = argparse.ArgumentParser()
    cli.COMMANDS[command](parser)
    return [
        action for action in parser._actions if action.option_strings and not isinstance(action, argparse._HelpAction)
    ]


def bad_lines(command: str, line: list[str]) -> Iterator[tuple[list[str], str]]:
    """(command line, what its error has to say)."""
    yield [misspelt(command, []), *line[1:]], f"Did you mean '{command}'?"
    flags = [option for action in options(command) for option in action.option_strings]
    for action in options(command):
        (flag,) = action.option_strings
        value = [] if action.nargs == 0 else ["1"]
        yield [*line, "--" + misspelt(flag[2:], [known[2:] for known in flags]), *value], f"Did you mean '{flag}'?"
        if action.type is int:
            yield [*line, flag, "nope"], flag
            least = -1 if flag == "--seed" else 0
            yield [*line, flag, str(least)], flag[2:].replace("-", "_")
        if action.choices is not None or flag in ("--init", "--depth"):
            yield [*line, flag, "nope"], flag[2:]


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("command", cli.COMMANDS)
def test_whatever_is_wrong_in_a_command_is_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = []
    for line, words in bad_lines(command, commands(tmp_path)[command]):
        try:
            code = cli.main(line)
        except SystemExit as error:
            code = error.code  # type: ignore[assignment]
        said = capsys.readouterr().err
        if code not in (1, 2) or words not in said or "Traceback" in said:
            wrong.append(f"{' '.join(line)} -> {code} {said}")
    assert not wrong, "\n".join(wrong)


def test_enough_is_tried(tmp_path: Path) -> None:
    called = {name: sum(1 for _ in bad(public)) for name, public in PUBLIC.items()}
    called |= {f"hf-dwt {name}": sum(1 for _ in bad_lines(name, line)) for name, line in commands(tmp_path).items()}
    print(f"{sum(called.values())} bad inputs: {called}")
    assert sum(called.values()) >= 300 and all(called.values())


# ---- the trainer's signature ----


def test_the_trainers_signature_is_the_installed_trainers_and_three_more() -> None:
    stock, ours = (inspect.signature(kind).parameters for kind in (Trainer, DistillationTrainer))
    plain = [(p.name, p.kind, p.default) for p in stock.values()]
    assert [(p.name, p.kind, p.default) for p in ours.values()][: len(plain)] == plain
    rest = {name: ours[name].kind for name in list(ours)[len(plain) :]}
    assert rest == {
        "teacher_model": inspect.Parameter.KEYWORD_ONLY,
        "teacher_processing_class": inspect.Parameter.KEYWORD_ONLY,
        "peft_config": inspect.Parameter.KEYWORD_ONLY,
        "newer": inspect.Parameter.VAR_KEYWORD,
    }
    hints = typing.get_type_hints(DistillationTrainer.__init__)
    assert hints["newer"] is typing.Never  # a type checker refuses what this would swallow
    assert not {name for name in stock if hints[name] is Any}
    trained, theirs = (inspect.signature(kind.train).parameters for kind in (DistillationTrainer, Trainer))
    assert [(p.name, p.kind, p.default) for p in trained.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    assert typing.get_type_hints(DistillationTrainer.train)["return"] is TrainOutput


def test_an_argument_that_a_later_trainer_takes_passes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, original = [], Trainer.__init__

    def later(self: Any, *args: Any, newest: int = 0, **named: Any) -> None:
        taken.append(newest)
        original(self, *args, **named)

    monkeypatch.setattr(Trainer, "__init__", later)
    monkeypatch.setattr("hf_dwt.training.trainer._STOCK", [*_STOCK, "newest"])
    more: dict[str, Any] = {"newest": 3}
    DistillationTrainer(tiny("bert"), arguments(tmp_path), **more)
    assert taken == [3]


@pytest.mark.parametrize(
    ("name", "right"), [("trian_dataset", "train_dataset"), ("teacher_modle", "teacher_model"), *_RENAMED.items()]
)
def test_a_misspelt_argument_of_the_trainer_is_named(name: str, right: str, tmp_path: Path) -> None:
    known = set(inspect.signature(DistillationTrainer).parameters)
    with pytest.raises(ArgumentError) as error:
        DistillationTrainer(tiny("bert"), arguments(tmp_path), **{name: 3})  # type: ignore[arg-type]
    assert error.value.argument == name and (repr(right) in error.value.fix) == (right in known)
