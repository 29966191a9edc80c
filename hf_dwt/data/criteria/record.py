"""The record of a criterion: how each example of a data set is scored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ...parts import Part


class RowScores(Protocol):
    """From m labelled positions to a number for each."""

    def __call__(self, labels: Tensor, teacher: Tensor, student: Tensor | None, **parameters: float) -> Tensor: ...


@dataclass(frozen=True)
class Criterion(Part[..., Tensor]):
    """A `Part` whose function scores rows: from labels (m,), and both models' log-probabilities (m, P), to (m,).

    NaN marks a row that does not count. The student's are None where it is not needed.

    Args:
        over: from the numbers of an example's rows that count, at least one, to its score; a higher one is chosen.
        needs_student: whether it compares the teacher with a student.
    """

    over: Callable[[np.ndarray], float] = np.mean
    needs_student: bool = False
