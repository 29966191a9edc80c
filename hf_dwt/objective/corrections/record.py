"""The record of a correction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate

from torch import Tensor

from ...parts import Part
from ..targets import Made, Targets

Correction = Callable[Concatenate[Tensor, Made, Tensor, float, ...], Targets]
"""(student's logits (m, C), the teacher's (m, P), labels (m,), progress from 0 to 1, parameters) -> targets (m, P)."""

TRUTH, MOST_LIKELY, ALL = "truth", "most likely", "all"
"""What a correction reads of the teacher: the label's probability, the most likely class's too, or those of all."""


@dataclass(frozen=True, kw_only=True)
class CorrectionPart(Part[Concatenate[Tensor, Made, Tensor, float, ...], Targets]):
    """What a teacher predicts, corrected row by row; no gradient passes through it.

    Args:
        reads: `TRUTH`, `MOST_LIKELY` or `ALL`: decides which cache formats it goes with.
        mixes: whether what it returns is a distribution still, which can be mixed with those of other teachers.
    """

    reads: str
    mixes: bool = True
