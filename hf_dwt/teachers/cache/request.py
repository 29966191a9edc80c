"""What a run needs of a teacher cache, and what is known to be wrong with it before data is read."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ...errors import CacheError, DistillationError
from ..composed import ComposedTeacher
from ..frozen import FrozenTeacher
from .formats import format_names


class CacheSettings(NamedTuple):
    """What a user has set: see the arguments of `DistillationArguments`."""

    folder: Path
    form: str
    k: int
    temperature: float


@dataclass(frozen=True)
class Surroundings:
    """The run that a cache is made in.

    Args:
        vocabulary: whether the classes of its task are a vocabulary.
        precision: its mixed precision, in which the teacher runs.
        device: where targets go.
        batch_size: examples that the teacher takes at a time.
        rank: of this process.
        processes: how many there are.
        wait: returns when all processes have called it.
        any_process: whether one of the processes, which must all call it, gives True.
        quiet: no progress bars.
    """

    vocabulary: bool
    precision: str
    device: torch.device
    batch_size: int
    rank: int
    processes: int
    wait: Callable[[], None]
    any_process: Callable[[bool], bool]
    quiet: bool


def cache_problems(teacher: object, folder: str | None, form: str | None = None) -> list[DistillationError]:
    """What is wrong with a cache in that folder of a teacher, loaded or not, that is no model.

    form: the format of the cache, where it is chosen by name.
    """
    if folder and isinstance(teacher, ComposedTeacher):
        if not teacher.caches:
            why = getattr(teacher, "why_not_cached", "it says that they cannot be cached")
            problem = f"cannot keep the targets of {type(teacher).__name__}: {why}."
            return [CacheError("teacher_cache", folder, problem, "Train without teacher_cache.")]
        whole = format_names(every_divergence=True)
        if form in format_names() and form not in whole and getattr(teacher, "needs_all_classes", False):
            problem = f"may keep a few classes, and the targets of a {type(teacher).__name__} are made of all of them."
            return [CacheError("teacher_cache_form", form, problem, f"Use {' or '.join(map(repr, whole))}.")]
        return [problem for part in teacher.sources.values() for problem in cache_problems(part, folder, form)]
    if folder and not isinstance(teacher, str | os.PathLike | nn.Module | FrozenTeacher):
        problem = f"cannot keep the targets of a {type(teacher).__name__}: only a model can be fingerprinted."
        return [CacheError("teacher_cache", folder, problem, "Give a model, its id or path, or no teacher_cache.")]
    return []


def folder_problems(folder: str | None) -> list[DistillationError]:
    """What is wrong where a cache is to be made: no folder is named."""
    if folder:
        return []
    problem, fix = "names no folder, so no cache can be made.", "Add --teacher_cache DIR (teacher_cache=DIR)."
    return [CacheError("teacher_cache", folder, problem, fix)]


def epochs_with_teacher(steps: range, per_epoch: int, repeat: int, soft_weight: Callable[[int], float]) -> set[int]:
    """The epochs of masks in which the soft term counts.

    Args:
        steps: of the run, from here on.
        per_epoch: steps of an epoch.
        repeat: the number of epochs after which masks repeat.
        soft_weight: the weight of the soft term at a step.
    """
    found: set[int] = set()
    for step in steps:
        epoch = step // per_epoch % repeat
        if epoch not in found and soft_weight(step) > 0:
            found.add(epoch)
        if len(found) == repeat:
            break
    return found
