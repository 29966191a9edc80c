"""One stage, as a user gives it, and a list of them that prints as a table."""

import inspect
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import DataCollator

from ..arguments import DistillationArguments
from ..errors import ArgumentError, DistillationError, raise_all, unknown_argument, unknown_name
from ..growth import plan_growth
from ..growth.arguments import LOADING
from ..kinds import COUNT, Bounds, Kind, number
from ..publish.describe import public_name
from ..tasks import TASKS
from ..teachers.composed import TeacherSource
from ..training.setup.check import Examples
from .heads import BodyOf
from .table import Row, table, terms

PREVIOUS = "previous"
"""In place of a stage's teacher: the student of the stage before."""
OPTIMIZERS = {
    "fresh": "Adam's moments start at 0, as in any run",
    "grown": "those of the stage before, mapped as the parameters were grown",
}
NAMES = [task.name for task in TASKS]

# What a stage has in the place of an argument of the run -> the word for it.
_OWN = {"max_steps": "steps", "num_train_epochs": "steps", "teacher_model": "teacher", "train_dataset": "dataset"}
_KEPT = ("output_dir", "teacher_cache_only")  # of the run as a whole
_NAME = Kind(
    lambda value: isinstance(value, str) and value.isprintable() and not set(value) & set("/\\") and value != "",
    "is no name of a folder.",
    "Give a word without slashes.",
)
_MASK = number(Bounds(0, 1, above=True), "is no share of tokens to predict.")


@dataclass(frozen=True, init=False)
class Stage:
    """One run of `DistillationTrainer` in a list of them.

    Args:
        steps: of the optimizer.
        grow: arguments of `hf_dwt.from_weak_teacher`, by which the student of the stage before grows first; in the
            first stage the `student` of the run, or where there is none its teacher.
        mask: share of tokens to predict, in (0, 1]: makes a `DataCollatorForLanguageModeling` of the run's
            `processing_class`. None leaves the collator of the run.
        teacher: Hub id, path, model or any other teacher of `DistillationTrainer`, or a `BodyOf`; "previous" for the
            student of the stage before (in the first stage: the teacher of the run). None is the teacher of the run.
        dataset: to train on; None is that of the run.
        eval_dataset: to evaluate on; None is that of the run where `dataset` is, too.
        data_collator: None is that of the run.
        name: of its folder, behind its number.
        task: name of the task that the student changes to before it trains, such as "text-classification": its body
            stays, and its head is that of the stage's teacher where the widths allow, else new. None leaves the task.
        num_labels: classes of that task; None takes those of the stage's teacher.
        optimizer: "fresh", or "grown": Adam's moments of the stage before, mapped as the parameters were grown.
        **arguments: any argument of `DistillationArguments` that differs from those of the run, but `output_dir`.

    Raises:
        ArgumentError: an argument that neither has, or a value of another kind; several at once as a `SetupError`.
    """

    steps: int
    grow: Mapping[str, Any] | None = None
    mask: float | None = None
    teacher: TeacherSource | BodyOf | None = None
    dataset: Examples | None = None
    eval_dataset: Examples | Mapping[str, Examples] | None = None
    data_collator: DataCollator | None = None
    name: str = "stage"
    task: str | None = None
    num_labels: int | None = None
    optimizer: str = "fresh"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        *,
        steps: int | None = None,
        grow: Mapping[str, Any] | None = None,
        mask: float | None = None,
        teacher: TeacherSource | BodyOf | None = None,
        dataset: Examples | None = None,
        eval_dataset: Examples | Mapping[str, Examples] | None = None,
        data_collator: DataCollator | None = None,
        name: str = "stage",
        task: str | None = None,
        num_labels: int | None = None,
        optimizer: str = "fresh",
        **arguments: Any,
    ) -> None:
        own = {key: value for key, value in locals().items() if key not in ("self", "arguments")}
        kept = arguments.pop("arguments", {})  # of the stage that dataclasses.replace makes another of
        arguments = {**kept, **arguments}
        raise_all([*_problems(own), *_argument_problems(arguments, list(own))])
        for key, value in {**own, "arguments": arguments}.items():
            object.__setattr__(self, key, value)

    @property
    def follows(self) -> bool:
        """Whether the student of the stage before teaches."""
        return isinstance(self.teacher, str) and self.teacher == PREVIOUS


def _problems(own: Mapping[str, Any]) -> list[DistillationError]:
    """What is wrong with the arguments of a stage itself."""
    if own["steps"] is None:
        problem = "is missing: a stage is as long as it says."
        return [ArgumentError("steps", None, problem, "Give the number of optimizer steps.")]
    kinds = {"steps": COUNT, "mask": _MASK.or_none(), "name": _NAME, "num_labels": COUNT.or_none()}
    problems = [kind.error(name, own[name]) for name, kind in kinds.items() if not kind.is_right(own[name])]
    for name, known in (("task", [None, *NAMES]), ("optimizer", list(OPTIMIZERS))):
        if own[name] not in known:
            problems.append(unknown_name(name, own[name], [word for word in known if word]))
    if own["num_labels"] is not None and own["task"] is None:
        problem = "has no effect without task."
        problems.append(ArgumentError("num_labels", own["num_labels"], problem, "Name the task, or leave it out."))
    if own["mask"] is not None and own["data_collator"] is not None:
        problem, fix = "stands beside a data_collator, which makes the labels.", "Give one of them."
        problems.append(ArgumentError("mask", own["mask"], problem, fix))
    return problems + _growth_problems(own["grow"])


def _growth_problems(grow: object) -> list[DistillationError]:
    if grow is None:
        return []
    if not isinstance(grow, Mapping) or not all(isinstance(name, str) for name in grow):
        fix = "Give arguments of from_weak_teacher, such as {'num_hidden_layers': 4}."
        return [ArgumentError("grow", grow, "is no dict of arguments.", fix)]
    known = [*list(inspect.signature(plan_growth).parameters)[1:-1], *LOADING]
    wrong = [unknown_argument(name, value, known, "from_weak_teacher") for name, value in grow.items()]
    return [
        type(one)(f"grow[{one.argument!r}]", one.value, one.problem, one.fix)
        for one in wrong
        if one.argument not in known
    ]


def _argument_problems(arguments: Mapping[str, object], own: list[str]) -> list[DistillationError]:
    """Names that are no argument of a run, and those that a stage has another word for."""
    known = [f.name for f in fields(DistillationArguments) if f.init and f.name not in (*_OWN, *_KEPT)]
    problems: list[DistillationError] = []
    for name, value in arguments.items():
        if name in _OWN:
            problems.append(ArgumentError(name, value, "is no argument of a stage.", f"Give {_OWN[name]}."))
        elif name in _KEPT:
            problems.append(ArgumentError(name, value, "is of the run, and of no stage.", "Give it in args."))
        elif name not in known:
            problems.append(unknown_argument(name, value, [*own, *known], "Stage or DistillationArguments"))
    return problems


class Stages(list[Stage]):
    """A list of stages that prints as a table of what they say themselves; `plan_stages` has the rest."""

    def __str__(self) -> str:
        defaults = {f.name: f.default for f in fields(DistillationArguments)}
        rows = [
            Row(
                number=number,
                stage=stage.name,
                student=growth_words(stage),
                teacher=named(stage.teacher) if stage.teacher is not None else "the run's",
                data=data_words(stage.dataset) if stage.dataset is not None else "the run's",
                loss=terms({**defaults, **stage.arguments}),
                mask=stage.mask,
                steps=stage.steps,
            )
            for number, stage in enumerate(self, start=1)
        ]
        return table(rows)


def growth_words(stage: Stage) -> str:
    """What a stage does with its student before it trains."""
    grown = ", ".join(f"{name}={named(value)}" for name, value in (stage.grow or {}).items())
    moments = "grown moments" if stage.optimizer != "fresh" else ""
    return "; ".join(filter(None, [grown, moments, stage.task]))


def named(value: object) -> str:
    """A teacher, or a value of an argument, in a word; of a path its last part."""
    if isinstance(value, str | Path):
        return public_name(value)
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {named(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(named, value)) + "]"
    found = (getattr(value, name, None) for name in ("name_or_path", "__qualname__", "description"))
    return public_name(next((one for one in found if isinstance(one, str) and one), type(value).__name__))


def data_words(dataset: object) -> str:
    """The name of a data set where it has one, and its length where it has one."""
    name = getattr(getattr(dataset, "info", None), "dataset_name", None)
    count = f" ({len(dataset):,})" if isinstance(dataset, Sized) else ""
    return f"{name or type(dataset).__name__}{count}"
