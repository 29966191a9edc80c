"""The record of a term on hidden states."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Concatenate

from torch import Tensor

from ...parts import Part
from .layers import MAPPED, Layer

RowLosses = Callable[Concatenate[Tensor, Tensor, Tensor, ...], Tensor]
"""(student's rows (n, H), the supervisor's (n, H), the example of each row (n,), ascending) -> losses (n,)."""


@dataclass(frozen=True, kw_only=True)
class HiddenTerm(Part[Concatenate[Tensor, Tensor, Tensor, ...], Tensor]):
    """A term on hidden states at the rows, in fp32. What supervises is a constant.

    Args:
        weight: of the term where `hidden_weight` is not given: its source's.
        needs_teacher: whether a teacher's layers supervise; else the student's own do.
        same_width: whether it compares channels, so that rows of another width are projected first.
        layers: the student's layers by default, from its depth; None for all that the default map has.
        supervisor: what supervises a layer that is given by itself: `LAST`, or `MAPPED` as the default map has it.
    """

    weight: float
    needs_teacher: bool = True
    same_width: bool = True
    layers: Callable[[int], Sequence[Layer]] | None = None
    supervisor: str = MAPPED
