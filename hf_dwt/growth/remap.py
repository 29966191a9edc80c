"""Parameter remapping, the paper's initialisation (Lee et al., 2023): the rule of FNA (Fang et al., ICLR 2020).

Student layer i takes teacher layer min(i, L - 1). Of every parameter the top-left overlap is copied; what lies outside
it keeps the student's own initialisation, or is 0 as in FNA's code. Names and shapes are all it looks at.

Shapes: a teacher's parameter (t_1, .., t_n) and a student's (s_1, .., s_n), s_i >= t_i on every axis. An axis is one
block, or several where a module fuses projections (`declarations.FUSED`): then each block is copied to its own start.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate, product

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .declarations import FUSED
from .report import Source
from .sizes import size
from .teacher import Teacher

Widths = dict[str, int]
"""Kind of block -> its width, in channels."""

Rest = Callable[[Tensor], None]
"""Sets, in place, what a parameter holds outside the overlap; called with the whole parameter before the copy."""


def keep_init(parameter: Tensor) -> None:
    """The remainder keeps the student's own initialisation: every row and column gets a gradient."""


def zeros(parameter: Tensor) -> None:
    """The remainder is 0, as in FNA's code. New units that are 0 on both sides get no gradient."""
    parameter.zero_()


@torch.no_grad()
def remap_init(student: PreTrainedModel, teacher: Teacher, rest: Rest) -> dict[str, Source]:
    """Copy the teacher's parameters over those of `student`, in place.

    A parameter that the teacher lacks, or that its checkpoint did not contain, keeps the student's initialisation.
    Tied parameters are one parameter here. Persistent buffers are copied where the shapes agree.

    Returns:
        the source of each parameter of `student`.
    """
    weak = teacher.model
    theirs = dict(weak.named_parameters(remove_duplicate=False))
    known = _block_widths(student.config), _block_widths(weak.config)
    sources = {}
    for name, parameter in student.named_parameters():
        origin = source_name(name, weak)
        if origin not in theirs or origin in teacher.untrained:
            sources[name] = Source(None, 0, parameter.numel())
            continue
        rest(parameter)
        copied = 0
        for ours, its in _blocks(name, parameter, theirs[origin], known):
            parameter[ours].copy_(theirs[origin][its])
            copied += parameter[ours].numel()
        sources[name] = Source(origin, copied, parameter.numel() - copied)
    _copy_buffers(student, weak)
    return sources


def source_name(name: str, teacher: nn.Module) -> str:
    """The teacher's name for a student's parameter: every index into a layer list becomes min(i, L - 1)."""
    parts: list[str] = []
    module: nn.Module | None = teacher
    for part in name.split("."):
        if isinstance(module, nn.ModuleList) and part.isdigit():
            part = str(min(int(part), len(module) - 1))
        module = getattr(module, part, None)
        parts.append(part)
    return ".".join(parts)


def _copy_buffers(student: nn.Module, teacher: nn.Module) -> None:
    """Copy persistent buffers (running statistics and the like) whose shape did not change."""
    persistent, theirs = student.state_dict().keys(), dict(teacher.named_buffers())
    for name, buffer in student.named_buffers():
        origin = theirs.get(source_name(name, teacher))
        if name in persistent and origin is not None and origin.shape == buffer.shape:
            buffer.copy_(origin)


Slices = tuple[slice, ...]


def _blocks(
    name: str, student: Tensor, teacher: Tensor, known: tuple[Widths, Widths]
) -> Iterator[tuple[Slices, Slices]]:
    """Pairs (where in the student's parameter, where in the teacher's) that the overlap consists of."""
    module = name.split(".")[-2:][0]
    axes = []
    for ours, theirs in zip(student.shape, teacher.shape, strict=True):
        new, old = _split(module, ours, known[0]), _split(module, theirs, known[1])
        # Both or neither: a plain axis of one model may by chance have the width of the other's fused one.
        if len(new) != len(old):
            new, old = (ours,), (theirs,)
        starts = zip(accumulate((0, *new)), accumulate((0, *old)), old, strict=False)
        axes.append([(slice(s, s + width), slice(t, t + width)) for s, t, width in starts])
    for pairs in product(*axes):
        yield tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)


def _split(module: str, length: int, known: Widths) -> tuple[int, ...]:
    """Widths of the blocks of an axis of `length`; one block unless `module` is known to be fused and they add up."""
    widths = tuple(known[block] for block in FUSED.get(module, ()))
    return widths if sum(widths) == length else (length,)


def _block_widths(config: PreTrainedConfig) -> Widths:
    """Width of each kind of block that `FUSED` names, in `config`."""
    heads, hidden = size(config, "num_attention_heads") or 1, size(config, "hidden_size") or 0
    head_dim = size(config, "head_dim") or hidden // heads
    return {
        "query": heads * head_dim,
        "key": (size(config, "num_key_value_heads") or heads) * head_dim,
        "ffn": size(config, "intermediate_size") or 0,
    }
