"""Parameter remapping, the paper's initialisation (Lee et al., 2023): the rule of FNA (Fang et al., ICLR 2020).

Student layer i takes teacher layer min(i, L - 1), or the nearest of its kind. Of every parameter the top-left overlap
is copied; what lies outside it keeps the student's own initialisation, or is 0 as in FNA's code. Names and shapes are
all it looks at.

Shapes: a teacher's parameter (t_1, .., t_n) and a student's (s_1, .., s_n), s_i >= t_i on every axis. An axis is one
block, or several where a module fuses projections (`FUSED`, `LAYOUTS`): each is copied to its own start.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, product

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...parts import Reference
from ..axes import Axis
from ..checkpoint import Teacher
from ..config.names import FUSED
from ..depth.rules import copied_layers
from ..origins import every_tensor, source_name, tensors
from ..paging import fill, readable
from ..report import Source
from ..rests import Rest, keep_init
from ..strategy import Strategy
from ..width.layouts import Sizes, declared, model_types, named_sizes, read_layout
from ..width.mapping import Plan, Step


@torch.no_grad()
def copy_overlap(
    student: PreTrainedModel, teacher: Teacher, *, rest: Rest = keep_init, steps: Plan
) -> dict[str, Source]:
    """Copy the teacher's parameters over those of `student`, in place.

    A parameter that the teacher lacks, or that its checkpoint did not contain, keeps the student's initialisation.
    Tied parameters are one parameter here. Persistent buffers are copied where the shapes agree.

    Args:
        rest: sets what the teacher has nothing for.
        steps: of `plan_overlap`.

    Returns:
        the source of each parameter of `student`.
    """
    theirs, ours = readable(teacher.model, every_tensor(teacher.model)), dict(student.named_parameters())
    copied = {name: step for name, step in steps.items() if name not in ours or step.source not in teacher.untrained}

    def make(name: str, tensor: Tensor) -> None:
        if name in ours:
            rest(tensor)
        source = theirs[copied[name].source]
        for place, block in _blocks(copied[name].axes):
            tensor[place].copy_(source[block])

    fill(student, make, copied.keys(), alike=teacher.untied)
    return {name: _source(parameter, copied.get(name)) for name, parameter in ours.items()}


def _source(parameter: Tensor, step: Step | None) -> Source:
    """Of one parameter that is made by `step`."""
    if step is None:
        return Source(None, 0, parameter.numel())
    copied = math.prod(axis.old for axis in step.axes)
    return Source(step.source, copied, parameter.numel() - copied)


def plan_overlap(student: PreTrainedModel, teacher: Teacher, *, depth: str = "repeat_last") -> Plan:
    """What `copy_overlap` does with every parameter that the teacher has too; no weight is read or moved.

    What the teacher's checkpoint turns out not to contain is left out when it is read.
    """
    weak = teacher.skeleton
    theirs, types = every_tensor(weak), model_types(weak.config)
    sizes, layers = named_sizes(weak.config, student.config), copied_layers(weak, student, depth)
    steps: Plan = {}
    for name, tensor in tensors(student).items():
        origin = source_name(name, weak, layers)
        if origin is None or origin not in theirs:
            continue
        source = theirs[origin]
        if isinstance(tensor, nn.Parameter):
            steps[name] = Step(origin, tuple(_axes(name, source, tensor, sizes, types)), frozenset())
        elif source.shape == tensor.shape:  # running statistics and the like, where the shape did not change
            steps[name] = Step(origin, tuple(Axis.whole(n, n) for n in source.shape), frozenset())
    return steps


def _axes(name: str, teacher: Tensor, student: Tensor, sizes: Sizes, types: Sequence[str]) -> list[Axis]:
    """What each axis is made of, by declaration; one block where none adds up."""
    fused = FUSED.get(name.split(".")[-2:][0])
    axes = []
    for dim, (old, new) in enumerate(zip(teacher.shape, student.shape, strict=True)):
        layouts = [*declared(name, dim, types), *([fused] if fused else [])]
        # Both or neither: a plain axis of one model may by chance have the width of the other's fused one.
        read = (read_layout(layout, old, new, sizes) for layout in layouts)
        axes.append(next((axis for axis in read if axis is not None), Axis.whole(old, new)))
    return axes


Slices = tuple[slice, ...]


def _blocks(axes: Sequence[Axis]) -> Iterator[tuple[Slices, Slices]]:
    """Pairs (where in the student's parameter, where in the teacher's) that the overlap consists of."""
    pairs = []
    for axis in axes:
        starts = zip(
            *(accumulate((0, *(getattr(s, end) for s in axis.segments))) for end in ("new", "old")), strict=True
        )
        pairs.append(
            [(slice(s, s + b.old), slice(t, t + b.old)) for (s, t), b in zip(starts, axis.segments, strict=False)]
        )
    for blocks in product(*pairs):
        yield tuple(pair[0] for pair in blocks), tuple(pair[1] for pair in blocks)


STRATEGY = Strategy(
    "remap",
    "the paper's: student layer i is made from teacher layer min(i, L - 1), the overlap is copied, the rest is new",
    copy_overlap,
    promise="not exact, outputs differ from the teacher's",
    references=(Reference("parameter remapping", "Fast Neural Network Adaptation", "2001.02525"),),
    plan=plan_overlap,
    verb="overlap copied",
    meaning="the teacher's values fill the first rows and columns of each block, `rest` the others",
    by_parts=True,
)
