"""The record of a score, and the matrices of which it scores units."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor

from ...parts import Part


@dataclass(frozen=True)
class Share:
    """What units (neurons of a feed-forward layer, or heads) have of one matrix.

    Args:
        weight: (units, numbers) as the model uses them, with their change.
        change: (units, numbers) what was learned of them; None of a matrix that is not adapted.
    """

    weight: Tensor
    change: Tensor | None


@dataclass(frozen=True)
class Score(Part[[Sequence[Share], Generator], Tensor]):
    """Which units of a layer are pruned.

    Its function gets the matrices of one layer and a generator on the CPU, and returns (units,) scores. The units of
    the lowest are removed.
    """
