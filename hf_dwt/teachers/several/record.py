"""The record of a weighting: how much each of several teachers counts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ...parts import Part


class Figures(NamedTuple):
    """What is known of K teachers on n rows; no gradient.

    log_probs: (n, K) log-probability of the label under each teacher at tau = 1, in nats.
    entropies: (n, K) of each teacher's distribution, in nats.
    groups: (n,) which rows are weighted together: the number of the row, of its example, or 0 for the whole batch.
    """

    log_probs: Tensor
    entropies: Tensor
    groups: Tensor


Weigh = Callable[[Figures, float], Tensor]
"""(figures, temperature) -> (n, K) weights, at least 0, with a sum of 1 in each row and the same within a group."""


@dataclass(frozen=True)
class Weighting(Part[[Figures, float], Tensor]):
    """How much each teacher counts on each row."""
