"""Axes and how they grow: value types that know no model.

Legend: an axis of length `old` becomes one of length `new`. It is a list of segments, each of which grows by itself: a
fused projection [q | k | v] is three segments, a plain axis is one. Within a segment copies are tiled, (0 .. old-1,
0 .. old-1, ..), so that heads stay whole and the residual stream and the heads share one map. The exception are heads
that differ by their place alone, as under ALiBi: they are spread, and the heads between them are not read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PART = 2**18
"""Elements of a parameter that are made at once: 1 MiB of fp32, so that the few temporaries stay in the cache."""


@dataclass(frozen=True)
class Segment:
    """A run of `old` channels that becomes one of `new`; new channel j holds old channel j mod old.

    Args:
        old: length in the teacher.
        new: length in the student.
        name: of the size that it is.
        heads: (teacher's, student's) number of heads, where these differ by their place: ALiBi's slopes fall from
            2^(-8/p) to 2^(-8) over p heads, p the largest power of 2 that fits; further heads take every other slope
            of 2 p heads. Those of the student that have a slope of the teacher's are its heads; the others are copies
            that are read with weight 0.
        sines: the heads are frequencies f^(-i/n) of sines instead: the teacher's i is the student's p i, p = N / n.
    """

    old: int
    new: int
    name: str = ""
    heads: tuple[int, int] | None = None
    sines: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.old <= self.new:
            raise ValueError(f"segment {self.name!r} cannot grow from {self.old} to {self.new}")

    @property
    def source(self) -> Tensor:
        """(new,) index of the teacher's channel that each of the student's holds."""
        if self.heads is None:
            return torch.arange(self.new) % self.old
        head, within = self._places()
        sources = torch.arange(self.heads[1]) // self._times() % self.heads[0]
        sources[self._own()] = torch.arange(self.heads[0])
        return sources[head] * (self.old // self.heads[0]) + within

    @property
    def read(self) -> Tensor:
        """(new,) whether each of the student's channels is read: else its weight is 0 wherever it is summed over."""
        if self.heads is None:
            return torch.ones(self.new, dtype=torch.bool)
        return torch.isin(self._places()[0], self._own())

    @property
    def first(self) -> Tensor:
        """(old,) the first of the student's channels that are read, for each of the teacher's."""
        places = self.read.nonzero()[:, 0].flip(0)
        return torch.empty(self.old, dtype=torch.long).index_put_((self.source[places],), places)

    def _times(self) -> int:
        """By how much the places of heads are multiplied."""
        assert self.heads is not None
        old, new = self.heads
        return new // old if self.sines else 1 << new.bit_length() - old.bit_length()

    def _own(self) -> Tensor:
        """(teacher's heads,) the student's head that each of them is."""
        assert self.heads is not None
        head, times = torch.arange(self.heads[0]), self._times()
        if self.sines:
            return head * times
        power = 1 << self.heads[0].bit_length() - 1
        further = head if times == 1 else (2 * (head - power) + 1) * times // 2 - 1
        return torch.where(head < power, times * (head + 1) - 1, further)

    def _places(self) -> tuple[Tensor, Tensor]:
        """(new,) the head that each of the student's channels is of, and the teacher's channel within its own head."""
        assert self.heads is not None
        old, new = self.old // self.heads[0], self.new // self.heads[1]
        return torch.arange(self.new) // new, torch.arange(self.new) % new % old

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

    @property
    def source(self) -> Tensor:
        """(new,) index of the teacher's channel that each of the student's holds."""
        parts, start = [], 0
        for segment in self.segments:
            parts.append(start + segment.source)
            start += segment.old
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)

    @property
    def read(self) -> Tensor:
        """(new,) whether each of the student's channels is read: else its weight is 0 wherever it is summed over."""
        parts = [segment.read for segment in self.segments]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)

    @property
    def copies(self) -> Tensor:
        """(new,) how many of the student's channels that are read hold the same of the teacher's as each of them."""
        return torch.bincount(self.source[self.read], minlength=self.old)[self.source]

    @property
    def first(self) -> Tensor:
        """(old,) the student's first channel for each of the teacher's, of those that are read."""
        parts, start = [], 0
        for segment in self.segments:
            parts.append(start + segment.first)
            start += segment.new
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)

    def tile(self, tensor: Tensor, dim: int) -> Tensor:
        """`tensor`, of length `old` along `dim`, with its channels copied: index_select by `source`, but faster."""
        parts, start = [], 0
        for segment in self.segments:
            part = tensor.narrow(dim, start, segment.old)
            if segment.heads is None:
                parts += [part] * (segment.new // segment.old) + [part.narrow(dim, 0, segment.new % segment.old)]
            else:
                parts.append(part.index_select(dim, segment.source.to(part.device)))
            start += segment.old
        return torch.cat(parts, dim)

    def __str__(self) -> str:
        return "|".join(map(str, self.segments))


def grow(
    weight: Tensor,
    axes: Sequence[Axis],
    contracted: frozenset[int] = frozenset(),
    symmetry: float = 0.0,
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """A parameter of the student that computes, on tiled inputs, the tiled outputs of `weight`.

    It is made some rows at a time, so that the memory it takes beside `weight` and `out` does not grow with them;
    of half-precision weights the shares are formed in fp32.

    Args:
        weight: shape (axis.old for each axis).
        axes: one for each dimension of `weight`.
        contracted: dimensions that are summed over: copies of one input share its weight.
        symmetry: 0 gives every copy the share 1/k; above 0 the shares of the k copies of an input differ, by about
            symmetry/k, for every row, and still sum to 1, so that copies can part in training (HyperCloning and LEMON
            break the symmetry likewise).
        generator: draws the shares; needed where symmetry is not 0.
        out: where to write it; shape (axis.new for each axis), any dtype and device. Default: a new tensor of
            `weight`'s.

    Returns:
        `out`.
    """
    if out is None:
        out = weight.new_empty([axis.new for axis in axes])
    if not any(axis.grows for axis in axes):
        return out.copy_(weight)
    shared = [dim for dim in sorted(contracted) if axes[dim].grows]
    # Rows are cut along an axis over which no copies are summed; if there is none, they are made at once.
    free = next((dim for dim in range(weight.ndim) if dim not in shared), None)
    rows = None if free is None else axes[free].source.to(weight.device)
    for start, stop in _cuts(out, free):
        piece, written = weight, out
        if free is not None and rows is not None:
            piece, written = weight.index_select(free, rows[start:stop]), out.narrow(free, start, stop - start)
        piece = piece.to(out.device)
        for dim, axis in enumerate(axes):
            if dim != free and axis.grows:
                piece = axis.tile(piece, dim)
        for dim in shared:
            piece = _share(piece, dim, axes[dim], symmetry, generator)
        written.copy_(piece)
    return out


def _cuts(out: Tensor, dim: int | None) -> Iterator[tuple[int, int]]:
    """(start, stop) along `dim` of parts of `out` of at most `PART` elements, or of one row."""
    length = 1 if dim is None else out.shape[dim]
    rows = length if dim is None else max(1, PART * length // max(1, out.numel()))
    for start in range(0, length, rows):
        yield start, min(start + rows, length)


def _share(weight: Tensor, dim: int, axis: Axis, symmetry: float, generator: torch.Generator | None) -> Tensor:
    """Divide each input's weight among its copies along `dim`: shares 1/k + (c - mean of c) symmetry/k, c normal.

    The result is of fp32 at least.
    """
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    shape = [1] * weight.ndim
    shape[dim] = axis.new
    copies = axis.copies.to(weight.device).view(shape)
    read = axis.read.to(weight).view(shape)
    if not symmetry:
        return weight * read / copies
    if generator is None:
        raise ValueError("shares that differ are drawn from a generator")
    shares = torch.randn(weight.shape, generator=generator, dtype=torch.float32).to(weight).mul_(read)
    total = shares.new_zeros([*weight.shape[:dim], axis.old, *weight.shape[dim + 1 :]])
    total.index_add_(dim, axis.source.to(weight.device), shares)
    shares -= axis.tile(total, dim).div_(copies)
    return shares.mul_(symmetry).add_(1).div_(copies).mul_(weight).mul_(read)
