"""Means over the rows that are weighted together, and weights from scores."""

import torch
from torch import Tensor

from .record import Figures


def group_means(values: Tensor, figures: Figures) -> Tensor:
    """(n, K): each row has the mean over the rows of its group whose label is known; 0 where there are none.

    Args:
        values: (n, K).
        figures: with the groups.
    """
    groups, known = figures.groups, figures.known.to(values.dtype)
    count = int(groups.max()) + 1 if len(groups) else 0
    sums = values.new_zeros(count, values.shape[1]).index_add(0, groups, values * known.unsqueeze(1))
    rows = values.new_zeros(count).index_add(0, groups, known)
    return (sums / rows.clamp(min=1.0).unsqueeze(1))[groups]


def weights_of(scores: Tensor, temperature: float) -> Tensor:
    """(n, K) softmax of scores / temperature over the teachers; at any temperature above 0 without an overflow."""
    return torch.softmax((scores - scores.amax(1, keepdim=True)) / temperature, 1)
