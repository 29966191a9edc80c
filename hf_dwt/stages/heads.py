"""Another head on the same body: the student of another task, and a teacher whose head is another model's."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import ArgumentError, DistillationError, TaskError, first_line
from ..growth.building import build, own_randomness
from ..growth.checkpoint import Teacher, open_teacher
from ..growth.origins import tensors
from ..publish.describe import public_name
from ..tasks import TASKS, Task, find_task
from ..teachers.composed import TeacherSource

Origin = Literal["body", "head", "new"]
_LABELS = ("id2label", "label2id", "problem_type")


@dataclass(frozen=True)
class HeadChange:
    """What becomes of each tensor of a model that gets another head.

    Args:
        after: the model on the meta device.
        origins: name of its parameter or persistent buffer -> "body", kept bit for bit; "head", of the model that has
            such a head; or "new", as its class initialises it.
        head: the model that has such a head, or None.
    """

    after: PreTrainedModel
    origins: Mapping[str, Origin]
    head: Teacher | None

    def apply(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        """The model with the other head, on the CPU in evaluation mode; `seed` is that of what is new."""
        config = copy.deepcopy(self.after.config)
        config.dtype = model.dtype
        with own_randomness(seed):
            made: PreTrainedModel = build(type(self.after), config, "cpu").eval()
        sources = {"body": tensors(model)}
        if self.head is not None and "head" in self.origins.values():
            sources["head"] = tensors(self.head.model)
        with torch.no_grad():
            for name, tensor in tensors(made).items():
                if (origin := self.origins[name]) in sources:
                    tensor.copy_(sources[origin][name])
        made.name_or_path = model.name_or_path  # where it is written how its body was grown
        if (report := getattr(model, "growth_report", None)) is not None:
            made.growth_report = report
        return made

    def __str__(self) -> str:
        """As the plan has it: "the body kept, classifier of weak-topics, pooler new"."""
        parts = ["the body kept"]
        for origin, words in (("head", f"of {public_name(self.head.name)}" if self.head else ""), ("new", "new")):
            names = dict.fromkeys(name.rpartition(".")[0] for name, one in self.origins.items() if one == origin)
            if names:
                parts.append(f"{', '.join(names)} {words}")
        return "; ".join(parts)


def change_head(before: PreTrainedModel, task: Task, head: Teacher | None, num_labels: int | None) -> HeadChange:
    """The same body for another task.

    Body and head are told apart by `base_model_prefix`. A module behind the body, or of the body where that had none
    (a pooler), is that of `head` where all of its tensors have the same names and shapes there, else new.

    Args:
        before: the model, on the meta device perhaps.
        task: what it is to be for.
        head: a model of that task, whose labels the new one has; None where there is none.
        num_labels: classes, where no model has them.

    Raises:
        TaskError: the architecture has no model for that task, or no body of its own.
        ArgumentError: the number of classes is not known, or another than that of `head`.
    """
    config = _with_labels(before.config, task, None if head is None else head.config, num_labels)
    try:
        after = build(getattr(transformers, task.auto_class), config, "meta")
    except ValueError as error:
        problem = f"is no task of {type(before).__name__}: {first_line(error)}"
        raise TaskError("task", task.name, problem, "Leave the task as it is.") from error
    prefix = after.base_model_prefix
    if not hasattr(before, prefix) or not hasattr(after, prefix):
        problem = f"cannot be had: {type(before).__name__} has no body of its own."
        raise TaskError("task", task.name, problem, "Leave the task as it is.")
    shapes = {name: tensor.shape for name, tensor in tensors(before).items() if name.startswith(f"{prefix}.")}
    found = tensors(after)
    lost = [name for name, shape in shapes.items() if name in found and found[name].shape != shape]
    if lost:
        problem = f"would change the shape of {lost[0]}."
        raise TaskError("task", task.name, problem, "Leave the task as it is.")
    fitting = _fitting(after, head, shapes)
    origins: dict[str, Origin] = {
        name: "body" if name in shapes else "head" if name in fitting else "new" for name in found
    }
    return HeadChange(after, origins, head)


def _fitting(after: PreTrainedModel, head: Teacher | None, body: Mapping[str, object]) -> set[str]:
    """Names of tensors beside the body that another model has in the same shapes, module by module."""
    if head is None or type(head.skeleton) is not type(after):
        return set()
    theirs = tensors(head.skeleton)
    modules: dict[str, list[tuple[str, bool]]] = {}
    for name, tensor in tensors(after).items():
        if name not in body:
            same = name in theirs and theirs[name].shape == tensor.shape
            modules.setdefault(name.rpartition(".")[0], []).append((name, same))
    return {name for module in modules.values() if all(same for _, same in module) for name, _ in module}


def _with_labels(
    config: PreTrainedConfig, task: Task, head: PreTrainedConfig | None, num_labels: int | None
) -> PreTrainedConfig:
    """A copy of a config, with the classes of the task."""
    found: Any = copy.deepcopy(config)
    if task.vocabulary:
        return found  # type: ignore[no-any-return]
    known = None if head is None else head.num_labels
    if num_labels is None and known is None:
        problem = f"leaves the number of classes of {task.name} open."
        raise ArgumentError("num_labels", None, problem, "Give it, or a teacher of that task.")
    if num_labels is not None and known is not None and num_labels != known:
        problem = f"is not the number of classes of the teacher, {known}."
        raise ArgumentError("num_labels", num_labels, problem, "Leave it out, or give that number.")
    if head is None:
        found.num_labels = num_labels
        return found  # type: ignore[no-any-return]
    for name in _LABELS:
        setattr(found, name, copy.deepcopy(getattr(head, name, None)))
    return found  # type: ignore[no-any-return]


def task_named(name: str) -> Task:
    """The task of a name in `TASKS`."""
    return next(task for task in TASKS if task.name == name)


@dataclass(frozen=True)
class BodyOf:
    """A teacher with the body of one model and the head of another of the same architecture and widths.

    A fine-tuned model can so supervise the hidden states of a student of another task, as in ERNIE-Tiny's second stage
    (arXiv 2106.02241): `BodyOf("weak-topics", head="weak")` has the head of a masked language model.

    Args:
        body: Hub id, path or model.
        head: Hub id, path or model, of the student's task.
    """

    body: str | Path | PreTrainedModel
    head: str | Path | PreTrainedModel

    @property
    def description(self) -> str:
        """For tables and records."""
        models = (self.body, self.head)
        body, head = (public_name(one) if isinstance(one, str | Path) else type(one).__name__ for one in models)
        return f"body of {body}, head of {head}"

    def change(self) -> tuple[Teacher, HeadChange]:
        """The model that has the body, and how it gets the other head; no weight is read.

        Raises:
            DistillationError: they cannot be put together.
        """
        body, head = open_teacher(self.body, None, {}), open_teacher(self.head, None, {})
        change = change_head(body.skeleton, find_task(head.skeleton), head, None)
        if new := [name for name, origin in change.origins.items() if origin == "new"]:
            problem = f"has no {new[0]} that fits this body."
            raise ArgumentError("head", head.name, problem, "Give models of the same architecture and widths.")
        return body, change

    def model(self) -> PreTrainedModel:
        """The teacher, with its weights."""
        body, change = self.change()
        return change.apply(body.model, seed=0)


def head_source(teacher: TeacherSource | BodyOf | None, task: Task) -> Teacher | None:
    """The teacher of a stage as far as its head may be the student's: a model of that task, opened; or None."""
    if not isinstance(teacher, str | Path | PreTrainedModel):
        return None
    try:
        opened = open_teacher(teacher, None, {})
        return opened if find_task(opened.skeleton, "teacher").name == task.name else None
    except DistillationError:  # the trainer of the stage has the error for it
        return None
