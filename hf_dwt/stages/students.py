"""The student of a stage before it trains: what it starts from, and what becomes of that."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from transformers import PreTrainedModel

from ..errors import ArgumentError, DistillationError, arguments_as
from ..growth import GrowthPlan, plan_growth
from ..growth.api import from_weak_teacher, plan_later_growth
from ..growth.building import build
from ..growth.checkpoint import open_teacher
from ..tasks import find_task
from ..teachers.composed import TeacherSource
from .heads import BodyOf, HeadChange, change_head, head_source, task_named
from .stage import Stage

Source: TypeAlias = str | Path | PreTrainedModel
"""What a student starts from: an id, a path or a model."""


@dataclass(frozen=True)
class StudentPlan:
    """How the student of a stage is made.

    Args:
        source: what it starts from.
        before: that model on the meta device.
        grow: arguments of its growth; None where it does not grow.
        growth: the plan of that.
        change: of its task, once it has grown; None where it has that task already.
        after: the student on the meta device, as it trains.
    """

    source: Source
    before: PreTrainedModel
    grow: Mapping[str, Any] | None
    growth: GrowthPlan | None
    change: HeadChange | None
    after: PreTrainedModel

    def make(self, seed: int) -> PreTrainedModel:
        """The student, with its weights; a model of the user's stays as it is.

        Args:
            seed: of a head that is new.
        """
        source = self.source
        if self.grow is not None:
            student: PreTrainedModel = from_weak_teacher(source, **self.grow)
        elif isinstance(source, PreTrainedModel):
            student = copy.deepcopy(source)
        else:
            student = type(self.before).from_pretrained(source)
        return student if self.change is None else self.change.apply(student, seed)


def plan_first_student(stage: Stage, student: Source | None, teacher: TeacherSource | BodyOf | None) -> StudentPlan:
    """Of the first stage, from the student of the run, or grown from the teacher of the stage.

    Raises:
        DistillationError: there is neither, or it cannot be read, grown or changed.
    """
    source = student
    if source is None and stage.grow is not None and isinstance(teacher, str | Path | PreTrainedModel):
        source = teacher
    if source is None:
        problem = "is missing, and the first stage grows none of a single teacher."
        fix = "Give the model, id or path to start from; or in the first stage `grow`, and one model as its teacher."
        raise ArgumentError("student", None, problem, fix)
    try:
        before = open_teacher(source, None, {}).skeleton
    except DistillationError as error:
        name = "student" if student is not None else "teacher"
        raise type(error)(name, error.value, error.problem, error.fix) from error
    growth = None
    if stage.grow is not None:
        with arguments_as("grow[{!r}]".format):
            growth = plan_growth(source, **stage.grow)
    return _student_plan(stage, source, before, growth, teacher)


def plan_later_student(
    stage: Stage, source: Path, before: PreTrainedModel, teacher: TeacherSource | BodyOf | None
) -> StudentPlan:
    """Of a later stage, from the student of the stage before.

    Args:
        source: its folder.
        before: that student on the meta device.
    """
    growth = None
    if stage.grow is not None:
        with arguments_as("grow[{!r}]".format):
            growth = plan_later_growth(before, str(source), stage.grow)
    return _student_plan(stage, str(source), before, growth, teacher)


def _student_plan(
    stage: Stage,
    source: Source,
    before: PreTrainedModel,
    growth: GrowthPlan | None,
    teacher: TeacherSource | BodyOf | None,
) -> StudentPlan:
    after = before if growth is None else build(type(before), growth.config, "meta")
    change = None
    if stage.task is not None and stage.task != find_task(after).name:
        task = task_named(stage.task)
        change = change_head(after, task, head_source(teacher, task), stage.num_labels)
        after = change.after
    elif stage.num_labels is not None and stage.num_labels != (known := after.config.num_labels):
        problem = f"is not the number of classes of the student, {known}, which has that task already."
        raise ArgumentError("num_labels", stage.num_labels, problem, f"Leave it out, or give {known}.")
    return StudentPlan(source, before, stage.grow, growth, change, after)
