"""What each of a list of stages does, and what is wrong with it, before anything runs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import DataCollator, DataCollatorForLanguageModeling, TrainerCallback

from ..argument_types import trainer_problems
from ..arguments import DistillationArguments
from ..errors import ArgumentError, TeacherError, arguments_as, first_line, of_each, raise_all
from ..growth.building import build
from ..growth.gradients import gradient_map
from ..publish.run_record import StageEntry
from ..tasks import Task, find_task
from ..teachers.composed import ComposedTeacher, TeacherSource
from ..teachers.loading import open_config, shown_task
from ..training.setup.check import Examples, Processor
from ..training.setup.hidden_plan import make_hidden_plan
from ..training.setup.sources import OneTeacher
from ..training.trainer import DistillationTrainer
from .checks import data_problems
from .heads import BodyOf
from .moments import moment_problems, moments_file
from .records import describe, is_finished, other_plan_problems
from .stage import PREVIOUS, Stage, data_words, growth_words, named
from .students import Source, StudentPlan, plan_first_student, plan_later_student
from .table import Row, terms


@dataclass(frozen=True)
class Run:
    """What the stages have in common, as the arguments of `run_stages` name it."""

    student: Source | None
    teacher: TeacherSource | BodyOf | None
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
        student: how it is made.
        teacher, dataset, eval_dataset, collator: of its run.
    """

    number: int
    stage: Stage
    args: DistillationArguments
    student: StudentPlan
    teacher: TeacherSource | BodyOf | None
    dataset: Examples
    eval_dataset: Examples | Mapping[str, Examples] | None
    collator: DataCollator | None

    @property
    def folder(self) -> Path:
        """Of its run: checkpoints, the student at its end, and `stage.json`."""
        return Path(str(self.args.output_dir))

    @property
    def made(self) -> str:
        """What becomes of its student before it trains."""
        return growth_words(self.stage) + (f" ({self.student.change})" if self.student.change is not None else "")

    @property
    def taught_by(self) -> str:
        """Its teacher in a word; a student of an earlier stage by its folder."""
        if self.stage.follows and isinstance(self.teacher, str) and self.number > 1:
            return Path(self.teacher).name
        return "none" if self.teacher is None else named(self.teacher)

    @property
    def row(self) -> Row:
        """Its line of the table."""
        return Row(
            number=self.number,
            stage=self.stage.name,
            student="; ".join(filter(None, [self.made, f"{self.student.after.num_parameters():,} parameters"])),
            teacher=self.taught_by,
            data=data_words(self.dataset),
            loss=terms({**vars(self.args), **({"soft_weight": 0.0} if self.teacher is None else {})}),
            mask=self.stage.mask,
            steps=self.stage.steps,
        )

    @property
    def description(self) -> dict[str, object]:
        """What decides its result, as `stage.json` keeps it."""
        source = self.student.source if self.number == 1 else PREVIOUS
        return describe(self.stage, self.args, source, self.taught_by, self.dataset)

    @property
    def entry(self) -> StageEntry:
        """Its place in `run.json` and the card of the stages from it on."""
        row = self.row
        return {
            "name": self.folder.name,
            "made": self.made,
            "parameters": self.student.after.num_parameters(),
            "teacher": None if self.teacher is None else row.teacher,
            "data": row.data,
            "loss": row.loss,
            "mask": row.mask,
            "steps": row.steps,
        }


def make_plan(stages: Sequence[Stage], common: Run) -> list[PlannedStage]:
    """The stages of a run, in their order.

    Raises:
        DistillationError: see `plan_stages`.
    """
    planned: list[PlannedStage] = []
    arguments = of_each("stages", stages, lambda index, stage: _arguments(stage, index + 1, len(stages), common.args))
    for index, (stage, args) in enumerate(zip(stages, arguments, strict=True)):
        with arguments_as(f"stages[{index}].{{}}".format):  # what follows depends on its student
            planned.append(_plan(stage, index + 1, args, planned[-1] if planned else None, common))
    raise_all(other_plan_problems(common.args.output_dir, {one.folder: one.description for one in planned}))
    return planned


def _plan(
    stage: Stage, number: int, args: DistillationArguments, last: PlannedStage | None, common: Run
) -> PlannedStage:
    """One stage; `last` is the one before."""
    teacher = _teacher(stage, last, common.teacher)
    if last is None:
        student = plan_first_student(stage, common.student, teacher)
    else:
        student = plan_later_student(stage, last.folder, last.student.after, teacher)
    if stage.optimizer == "grown":
        raise_all(moment_problems(None if last is None else last.args, args))
        if last is not None and is_finished(last.folder):
            moments_file(last.folder)
        if student.growth is not None:
            with arguments_as(lambda argument: f"grow[{argument!r}]"):
                gradient_map(student.growth)
    shown = _shown(stage, last, teacher)
    task = find_task(student.after)
    _require_task(shown, task, args)
    make_hidden_plan(student.after, shown, _read(shown, task, args), args, args)
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
        "model": student.after,
        "model_init": None,
        "peft_config": None,
        "args": args,
        "train_dataset": dataset,
        "eval_dataset": eval_dataset,
        "data_collator": collator,
        "processing_class": common.processing_class,
        "callbacks": common.callbacks,
        "teacher_model": shown,
    }
    raise_all(trainer_problems(of_the_trainer))
    raise_all(data_problems(task, args, dataset, eval_dataset, collator))
    return PlannedStage(number, stage, args, student, teacher, dataset, eval_dataset, collator)


def _arguments(stage: Stage, number: int, of: int, args: DistillationArguments) -> DistillationArguments:
    """The run's with those of the stage; of a run that is pushed, the last stage is."""
    run_folder = Path(str(args.output_dir))
    changes: dict[str, Any] = {"output_dir": str(run_folder / f"{number}-{stage.name}"), "max_steps": stage.steps}
    if args.push_to_hub:
        changes |= {
            "push_to_hub": number == of,
            "hub_model_id": args.hub_model_id or run_folder.absolute().name,
        }
    return replace(args, **{**changes, **stage.arguments})


def _teacher(
    stage: Stage, last: PlannedStage | None, of_the_run: TeacherSource | BodyOf | None
) -> TeacherSource | BodyOf | None:
    if stage.follows and last is not None:
        return str(last.folder)
    return of_the_run if stage.teacher is None or stage.follows else stage.teacher


def _shown(stage: Stage, last: PlannedStage | None, teacher: TeacherSource | BodyOf | None) -> TeacherSource | None:
    """The teacher as it is known before anything runs; a model without weights for one that is yet to be made."""
    if stage.follows and last is not None:
        return last.student.after
    return teacher.change()[1].after if isinstance(teacher, BodyOf) else teacher


def _require_task(teacher: TeacherSource | None, task: Task, args: DistillationArguments) -> None:
    given: Any = args.teacher_model_init_kwargs  # JSON is a dict by now
    found = shown_task(teacher, given)
    if found is not None and found.name != task.name:
        problem = f"is for {found.name}, where the student is for {task.name}."
        fix = "Give a teacher of that task, change the student's with `task`, or give BodyOf(teacher, head=...)."
        raise TeacherError("teacher", named(teacher), problem, fix)


def _read(teacher: TeacherSource | None, task: Task, args: DistillationArguments) -> OneTeacher | None:
    """A single teacher without its weights, once every teacher that is an id or a path has shown its config."""
    given: Any = args.teacher_model_init_kwargs
    if isinstance(teacher, ComposedTeacher):
        for source in teacher.sources.values():
            _read(source, task, args)
    elif isinstance(teacher, str | os.PathLike):
        with arguments_as(lambda argument: "teacher" if argument == "teacher_model" else argument):
            config = open_config(teacher, given)
        if args.hidden_term is not None:
            return OneTeacher(build(getattr(transformers, task.auto_class), config, "meta"))
    return OneTeacher(teacher) if isinstance(teacher, nn.Module) else None


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
