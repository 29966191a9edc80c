"""A teacher whose rows and classes are not the student's: what both have in common."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .logits import LinearLogits, at_least_fp32, cast

NEVER = -1e4
"""Log-probability of a class that the teacher does not have: finite, with a probability of 0."""


@dataclass(frozen=True)
class SharedClasses:
    """The classes that student and teacher have in common, one to one.

    own: (S,) classes of the student.
    other: (S,) the same, as the teacher numbers them.
    """

    own: Tensor
    other: Tensor

    def to(self, device: torch.device) -> "SharedClasses":
        """On that device."""
        return replace(self, own=self.own.to(device), other=self.other.to(device))

    def kl(self, student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """KL(teacher || student) of each row, (m,), between what both predict if the class is a shared one.

            KL(softmax(z_T[shared] / tau) || softmax(z_S[shared] / tau))

        Args:
            student: (m, C) logits.
            teacher: (m, C) logits, as `MappedLogits` makes them.
            labels: not read.
            temperature: tau.
        """
        own = torch.log_softmax(student.index_select(1, self.own) / temperature, -1)
        other = torch.log_softmax(teacher.index_select(1, self.own) / temperature, -1)
        return (other.exp() * (other - own)).sum(-1)


@dataclass(frozen=True)
class MappedLogits:
    """(n, C) log-probabilities at the student's rows and classes from logits (m, V) of a teacher at m <= n own rows.

    They are normalised over the teacher's V classes. Rows without a counterpart, and classes that are not shared, have
    `NEVER`. `[rows]` makes a slice.

    Args:
        logits: (m, V) of the teacher, a tensor or made slice by slice.
        has: (n,) which rows have a counterpart, m of them, in the teacher's order.
        classes: S of them.
        size: C.
    """

    logits: "Tensor | LinearLogits"
    has: Tensor
    classes: SharedClasses
    size: int

    @property
    def shape(self) -> torch.Size:
        """(n, C)."""
        return torch.Size((len(self.has), self.size))

    @property
    def made_of(self) -> Tensor:
        """As of `LinearLogits`."""
        return self.logits if isinstance(self.logits, Tensor) else self.logits.made_of

    @cached_property
    def _before(self) -> list[int]:
        """n + 1 numbers: how many rows of the teacher come before each of the student's."""
        return [0, *self.has.cumsum(0).tolist()]

    def __getitem__(self, rows: slice) -> Tensor:
        """Those rows, in at least fp32."""
        first, last, _ = rows.indices(len(self.has))
        theirs = self.logits[self._before[first] : self._before[last]]
        theirs = torch.log_softmax(at_least_fp32(theirs), -1).index_select(1, self.classes.other)
        made = theirs.new_full((last - first, self.size), NEVER)
        places = torch.nonzero(self.has[first:last])
        made[places, self.classes.own] = theirs
        return made

    def cast(self) -> "MappedLogits":
        """With logits that are cast already, for many slices."""
        return replace(self, logits=cast(self.logits))
