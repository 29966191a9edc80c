"""Means over the rows that are weighted together."""

import torch
from torch import Tensor


def group_means(values: Tensor, groups: Tensor) -> Tensor:
    """(n, K): each row has the mean of its group.

    Args:
        values: (n, K).
        groups: (n,) numbers from 0.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    sums = values.new_zeros(count, values.shape[1]).index_add(0, groups, values)
    rows = values.new_zeros(count).index_add(0, groups, torch.ones_like(values[:, 0]))
    return (sums / rows.clamp(min=1.0).unsqueeze(1))[groups]
