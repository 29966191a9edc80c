"""What each of a list of stages does, and what is wrong with it, before anything runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import (
    DataCollator,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    TrainerCallback,
)

from ..argument_types import trainer_problems
from ..arguments import DistillationArguments
from ..errors import ArgumentError, DistillationError, SetupError, first_line, raise_all
from ..growth import GrowthPlan, plan_growth
from ..growth.api import plan_later_growth
from ..growth.building import build
from ..growth.checkpoint import open_teacher
from ..tasks import find_task
from ..teachers.composed import TeacherSource
from ..training.setup import Examples, Processor
from ..training.trainer import DistillationTrainer
from .checks import data_problems
from .records import describe, other_plan_problems
from .stage import Stage, data_words, growth_words, named
from .table import Row, terms

Source = str | Path | PreTrainedModel
"""What a student starts from: an id, a path or a model."""


@dataclass(frozen=True)
class Run:
    """What the stages have in common, as the arguments of `run_stages` name it."""

    student: Source | None
    teacher: TeacherSource | None
    args: DistillationArguments
    train_dataset: Examples | None
    eval_dataset: Examples | Mapping[str, Examples] | None
    processing_class: Processor | None
    data_collator: DataCollator | None
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None
    trainer_class: type[DistillationTrainer]
    more: Mapping[str, Any]


@dataclass(frozen=True)
class PlannedStage:
    """A stage with all that its run is made of.

    Args:
        number: from 1.
        stage: as the user gave it.
        args: of its run.
        source: what its student starts from.
        before: that model on the meta device.
        after: the student on the meta device, as it trains.
        growth: from the one to the other; None where it does not grow.
        teacher, dataset, eval_dataset, collator: of its run.
    """

    number: int
    stage: Stage
    args: DistillationArguments
    source: Source
    before: PreTrainedModel
    after: PreTrainedModel
    growth: GrowthPlan | None
    teacher: TeacherSource | None
    dataset: Examples
    eval_dataset: Examples | Mapping[str, Examples] | None
    collator: DataCollator | None

    @property
    def folder(self) -> Path:
        """Of its run: checkpoints, the student at its end, and `stage.json`."""
        return Path(str(self.args.output_dir))

    @property
    def row(self) -> Row:
        """Its line of the table."""
        words = growth_words(self.stage)
        return Row(
            number=self.number,
            stage=self.stage.name,
            student=f"{words + '; ' if words else ''}{self.after.num_parameters():,} parameters",
            teacher="none" if self.teacher is None else named(self.teacher),
            data=data_words(self.dataset),
            loss=terms(vars(self.args)),
            mask=self.stage.mask,
            steps=self.stage.steps,
        )

    @property
    def description(self) -> dict[str, object]:
        """What decides its result, as `stage.json` keeps it."""
        return describe(self.stage, self.args, self.source, self.teacher, self.dataset)


def make_plan(stages: Sequence[Stage], common: Run) -> list[PlannedStage]:
    """The stages of a run, in their order.

    Raises:
        DistillationError: see `plan_stages`.
    """
    planned: list[PlannedStage] = []
    problems: list[DistillationError] = []
    for number, stage in enumerate(stages, start=1):
        with _problems_of(f"stages[{number - 1}]", problems):
            planned.append(_plan(stage, number, len(stages), planned[-1] if planned else None, common))
        if len(planned) < number:  # what follows depends on its sizes
            break
    raise_all(problems)
    raise_all(other_plan_problems(common.args.output_dir, {one.folder: one.description for one in planned}))
    return planned


def _plan(stage: Stage, number: int, of: int, last: PlannedStage | None, common: Run) -> PlannedStage:
    """One stage; `last` is the one before."""
    args = _arguments(stage, number, of, common.args)
    teacher = _teacher(stage, last, common.teacher)
    source, before = _start(stage, last, teacher, common.student)
    growth = None if stage.grow is None else _growth(source, before, stage.grow, first=last is None)
    after = before if growth is None else build(type(before), growth.config, "meta")
    collator = stage.data_collator or common.data_collator
    if stage.mask is not None:
        collator = _masking(stage.mask, common.processing_class)
    dataset = common.train_dataset if stage.dataset is None else stage.dataset
    own = stage.eval_dataset is not None or stage.dataset is not None
    eval_dataset = stage.eval_dataset if own else common.eval_dataset
    if dataset is None:
        problem = "is missing: the stage has nothing to train on."
        raise ArgumentError("dataset", None, problem, "Give it, or train_dataset for all stages.")
    of_the_trainer = {
        "model": after,
        "model_init": None,
        "peft_config": None,
        "args": args,
        "train_dataset": dataset,
        "eval_dataset": eval_dataset,
        "data_collator": collator,
        "processing_class": common.processing_class,
        "callbacks": common.callbacks,
        "teacher_model": teacher,
    }
    raise_all(trainer_problems(of_the_trainer))
    raise_all(data_problems(find_task(after), args, dataset, eval_dataset, collator))
    return PlannedStage(number, stage, args, source, before, after, growth, teacher, dataset, eval_dataset, collator)


def _arguments(stage: Stage, number: int, of: int, args: DistillationArguments) -> DistillationArguments:
    """The run's with those of the stage; of a run that is pushed, the last stage is."""
    run_folder = Path(str(args.output_dir))
    changes: dict[str, Any] = {"output_dir": str(run_folder / f"{number}-{stage.name}"), "max_steps": stage.steps}
    if args.push_to_hub:
        changes |= {
            "push_to_hub": number == of,
            "hub_model_id": args.hub_model_id or run_folder.absolute().name,
        }
    return replace(args, **changes, **stage.arguments)


def _teacher(stage: Stage, last: PlannedStage | None, of_the_run: TeacherSource | None) -> TeacherSource | None:
    if stage.follows and last is not None:
        return str(last.folder)
    return of_the_run if stage.teacher is None or stage.follows else stage.teacher


def _start(
    stage: Stage, last: PlannedStage | None, teacher: TeacherSource | None, student: Source | None
) -> tuple[Source, PreTrainedModel]:
    """What the student of a stage starts from, and that model on the meta device."""
    if last is not None:
        return str(last.folder), last.after
    found = student
    if found is None and stage.grow is not None and isinstance(teacher, str | Path | PreTrainedModel):
        found = teacher
    if found is None:
        problem = "is missing, and the first stage grows none of a single teacher." if stage.grow else "is missing."
        fix = "Give a model, an id or a path; or in the first stage `grow`, and one model as its teacher."
        raise ArgumentError("student", None, problem, fix)
    try:
        return found, open_teacher(found, None, {}).skeleton
    except DistillationError as error:
        name = "student" if student is not None else "teacher"
        raise type(error)(name, error.value, error.problem, error.fix) from error


def _growth(source: Source, before: PreTrainedModel, grow: Mapping[str, Any], first: bool) -> GrowthPlan:
    try:
        return plan_growth(source, **grow) if first else plan_later_growth(before, str(source), grow)
    except DistillationError as error:
        raise SetupError([_about("grow", one) for one in _each(error)]) from error


def _masking(mask: float, tokenizer: Processor | None) -> DataCollator:
    """A collator that masks a share of the tokens, as transformers does it."""
    if tokenizer is None:
        problem = "needs a tokenizer, which knows the token of a mask."
        raise ArgumentError("mask", mask, problem, "Give processing_class, or a data_collator instead of mask.")
    try:
        collator: DataCollator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mask)  # type: ignore[arg-type]
    except (ValueError, AttributeError) as error:
        fix = "Give the tokenizer of a masked language model as processing_class."
        raise ArgumentError("mask", mask, f"cannot be had: {first_line(error)}", fix) from error
    return collator


def _each(error: DistillationError) -> Sequence[DistillationError]:
    return error.problems if isinstance(error, SetupError) else [error]


def _about(argument: str, problem: DistillationError) -> DistillationError:
    return type(problem)(f"{argument}[{problem.argument!r}]", problem.value, problem.problem, problem.fix)


@contextmanager
def _problems_of(stage: str, problems: list[DistillationError]) -> Iterator[None]:
    """In the block what is wrong is added to `problems`, as of a stage."""
    try:
        yield
    except DistillationError as error:
        problems += [type(one)(f"{stage}.{one.argument}", one.value, one.problem, one.fix) for one in _each(error)]
