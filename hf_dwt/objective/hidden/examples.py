"""Rows by the example that they belong to."""

from typing import NamedTuple

import torch
from torch import Tensor


class Examples(NamedTuple):
    """Rows laid out by example: E examples with rows, of m rows at most.

    places: (E, m) the row in each place.
    present: (E, m) whether there is one.
    """

    places: Tensor
    present: Tensor


def by_example(examples: Tensor) -> Examples:
    """The layout of rows, given the example of each, (n,), ascending."""
    counts = torch.unique_consecutive(examples, return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    columns = torch.arange(int(counts.max()) if len(counts) else 0, device=examples.device)
    present = columns < counts.unsqueeze(1)
    places = (starts.unsqueeze(1) + columns).masked_fill(~present, 0)
    return Examples(places, present)
