"""Which placement a teacher gets: the one that was asked for, or the first that fits; refused where it cannot be."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import psutil
import torch
from torch import nn

from ...errors import DistillationError, TeacherError
from ...tasks import is_compiled
from ..composed import ComposedTeacher
from .layers import Size, is_placed, layers_of, nbytes, size_of
from .record import Placement

logger = logging.getLogger(__name__)

AUTO = "auto"
"""The name of the first placement that fits the device."""
SHARE = 0.8
"""Of the memory that is left for the teacher: the rest is for activations, of which nothing is known."""


class Setting(NamedTuple):
    """The run that a teacher is placed in.

    device: of this process.
    processes: how many there are.
    expected: bytes that the student's training will still take of the device, as far as they are known.
    lowest: the lowest of the numbers that all processes give, which must choose alike.
    is_first: whether this is the first process, which alone logs.
    """

    device: torch.device
    processes: int = 1
    expected: int = 0
    lowest: Callable[[int], int] = int
    is_first: bool = True


def free_bytes(device: torch.device) -> int | None:
    """The bytes of a device that nothing has taken; None for a kind of device that is not asked."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept by torch for later
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return None


def choose(name: str, placements: Mapping[str, Placement], model: nn.Module, setting: Setting) -> Placement:
    """The placement of that name; for "auto" the first that fits in `SHARE` of what training leaves of the device.

    All processes must call it.

    Raises:
        TeacherError: the teacher cannot be placed so, or is larger than the free memory.
    """
    first = next(iter(placements.values()))
    if is_placed(model) and name in (AUTO, first.name):
        return first  # which leaves it where it is
    size, room = size_of(model), _room(model, setting)

    def needs(placement: Placement) -> int:
        return placement.bytes_needed(size, setting.processes)

    possible = [each for each in placements.values() if problem_of(each, model, setting) is None]
    if name != AUTO:
        chosen = placements[name]
        if problem := problem_of(chosen, model, setting):
            raise problem
    else:
        useful = [each for each in possible if each.away != setting.device.type]
        left = None if room is None else SHARE * (room - setting.expected)
        fitting = (each for each in useful if left is None or needs(each) <= left)
        chosen = next(fitting, min(useful, key=needs))
    if room is not None and needs(chosen) > room:
        others = {each.name: needs(each) for each in possible if needs(each) <= room}
        raise _too_large(name, size, needs(chosen), room, others)
    if name == AUTO and chosen is not first and room is not None and setting.is_first:
        _log(chosen, size, needs(chosen), room, setting)
    return chosen


def placement_problems(teacher: object, name: str) -> list[DistillationError]:
    """What is wrong with a placement for a teacher, loaded or not, that is no model."""
    if name == AUTO or isinstance(teacher, str | os.PathLike | nn.Module):
        return []
    if isinstance(teacher, ComposedTeacher):
        return [problem for part in teacher.sources.values() for problem in placement_problems(part, name)]
    problem = f"has no meaning for a {type(teacher).__name__}: only the weights of a model are placed."
    fix = "Give a model, its id or path, or leave teacher_placement out."
    return [TeacherError("teacher_placement", name, problem, fix)]


def _room(model: nn.Module, setting: Setting) -> int | None:
    """The bytes that the device has for a model, with those that it takes there already; of the fullest device."""
    free = free_bytes(setting.device)
    there = nbytes(p for p in model.parameters() if p.device.type == setting.device.type)
    return None if free is None else setting.lowest(free + there)


def problem_of(placement: Placement, model: nn.Module, setting: Setting) -> TeacherError | None:
    """Why a teacher cannot be placed so, whatever its size; None if it can."""
    kind, fix = type(model).__name__, "Use teacher_placement='auto'."
    if placement.missing:
        problem = placement.missing
    elif setting.processes < placement.processes:
        problem = f"needs {placement.processes} or more processes, and there is {setting.processes}."
        fix = "Start more with `accelerate launch` or `torchrun`, or use teacher_placement='offload'."
    elif not placement.splits:
        return None
    elif is_placed(model):
        problem = f"cannot move a {kind} that is quantised, dispatched by device_map or sharded already."
        fix = "Use teacher_placement='auto', which leaves it where it is, or load it without those."
    elif is_compiled(model):
        problem = f"needs hooks on the layers of a {kind} that was compiled as a whole."
        fix = "Give the model that is not compiled, or use teacher_placement='replicate'."
    elif not layers_of(model):
        problem, fix = f"finds no list of layers in a {kind}.", "Use teacher_placement='replicate'."
    else:
        return None
    return TeacherError("teacher_placement", placement.name, problem, fix)


def _too_large(name: str, size: Size, needed: int, room: int, others: Mapping[str, int]) -> TeacherError:
    problem = (
        f"puts {gigabytes(needed)} of a teacher of {gigabytes(size.total)} on each device, "
        f"and {gigabytes(room)} are free."
    )
    known = " or ".join(f"{other!r} ({gigabytes(bytes_)})" for other, bytes_ in others.items())
    smaller = "Load it with teacher_model_init_kwargs={'dtype': 'bfloat16'}, or take a smaller teacher."
    return TeacherError("teacher_placement", name, problem, f"Use teacher_placement={known}." if known else smaller)


def _log(chosen: Placement, size: Size, needed: int, room: int, setting: Setting) -> None:
    logger.warning(
        "teacher_placement='auto' chooses %r (%s): the teacher has %s, of which each device then keeps %s. There %s "
        "are free, and the student's training will take about %s of them.",
        chosen.name,
        chosen.title,
        *map(gigabytes, (size.total, needed, room, setting.expected)),
    )


def gigabytes(count: int) -> str:
    """Bytes, to be read."""
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
