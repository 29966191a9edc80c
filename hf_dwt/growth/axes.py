"""Axes and how they grow: value types that know no model.

Legend: an axis of length `old` becomes one of length `new`. It is a list of segments, each of which grows by itself: a
fused projection [q | k | v] is three segments, a plain axis is one. Within a segment copies are tiled, (0 .. old-1,
0 .. old-1, ..), never interleaved, so that heads stay whole and the residual stream and the heads share one map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """A run of `old` channels that becomes one of `new`; new channel j holds old channel j mod old."""

    old: int
    new: int
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.old <= self.new:
            raise ValueError(f"segment {self.name!r} cannot grow from {self.old} to {self.new}")

    def __str__(self) -> str:
        return f"{self.name or self.old}:{self.old}->{self.new}" if self.new != self.old else f"{self.old}"


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter: its segments in order."""

    segments: tuple[Segment, ...]

    @classmethod
    def whole(cls, old: int, new: int, name: str = "") -> "Axis":
        """An axis that is one segment."""
        return cls((Segment(old, new, name),)) if old else cls(())

    @property
    def old(self) -> int:
        """Length in the teacher."""
        return sum(segment.old for segment in self.segments)

    @property
    def new(self) -> int:
        """Length in the student."""
        return sum(segment.new for segment in self.segments)

    @property
    def grows(self) -> bool:
        """Whether any segment is longer in the student."""
        return self.old != self.new

    @cached_property
    def source(self) -> Tensor:
        """(new,) index of the teacher's channel that each of the student's holds."""
        parts, start = [], 0
        for segment in self.segments:
            parts.append(start + torch.arange(segment.new) % segment.old)
            start += segment.old
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)

    @cached_property
    def copies(self) -> Tensor:
        """(new,) how often the teacher's channel of each of the student's occurs on this axis."""
        return torch.bincount(self.source, minlength=self.old)[self.source]

    @cached_property
    def first(self) -> Tensor:
        """(old,) the student's first channel for each of the teacher's."""
        parts, start = [], 0
        for segment in self.segments:
            parts.append(start + torch.arange(segment.old))
            start += segment.new
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)

    def __str__(self) -> str:
        return "|".join(map(str, self.segments))


def grow(
    weight: Tensor,
    axes: Sequence[Axis],
    contracted: frozenset[int] = frozenset(),
    symmetry: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A parameter of the student that computes, on tiled inputs, the tiled outputs of `weight`.

    Args:
        weight: shape (axis.old for each axis).
        axes: one for each dimension of `weight`.
        contracted: dimensions that are summed over: copies of one input share its weight.
        symmetry: 0 gives every copy the share 1/k; above 0 the shares of the k copies of an input differ, by about
            symmetry/k, for every row, and still sum to 1, so that copies can part in training (HyperCloning and LEMON
            break the symmetry likewise).
        generator: draws the shares; needed where symmetry is not 0.

    Returns:
        a tensor of shape (axis.new for each axis), of `weight`'s dtype.
    """
    grown = weight
    for dim, axis in enumerate(axes):
        if axis.grows:
            grown = grown.index_select(dim, axis.source.to(weight.device))
    for dim in sorted(contracted):
        if axes[dim].grows:
            grown = _share(grown, dim, axes[dim], symmetry, generator)
    return grown


def restrict(weight: Tensor, axes: Sequence[Axis], contracted: frozenset[int] = frozenset()) -> Tensor:
    """The inverse of `grow`: first copies of outputs, sums over copies of inputs."""
    small = weight
    for dim, axis in enumerate(axes):
        if not axis.grows:
            continue
        if dim in contracted:
            shape = [*small.shape[:dim], axis.old, *small.shape[dim + 1 :]]
            small = small.new_zeros(shape).index_add_(dim, axis.source.to(small.device), small)
        else:
            small = small.index_select(dim, axis.first.to(small.device))
    return small


def _share(weight: Tensor, dim: int, axis: Axis, symmetry: float, generator: torch.Generator | None) -> Tensor:
    """Divide each input's weight among its copies along `dim`: shares 1/k + (c - mean of c) symmetry/k, c normal."""
    shape = [1] * weight.ndim
    shape[dim] = axis.new
    copies = axis.copies.to(weight.device).view(shape)
    if not symmetry:
        return weight / copies
    if generator is None:
        raise ValueError("shares that differ are drawn from a generator")
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32).to(weight.device)
    source = axis.source.to(weight.device)
    total = noise.new_zeros([*weight.shape[:dim], axis.old, *weight.shape[dim + 1 :]]).index_add_(dim, source, noise)
    noise -= total.index_select(dim, source) / copies
    return (weight * ((1 + symmetry * noise) / copies)).to(weight.dtype)
