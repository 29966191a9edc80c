"""Every teacher counts as much."""

import torch
from torch import Tensor

from ...parts import OWN, Reference
from .record import Figures, Weighting


def equal(figures: Figures, temperature: float) -> Tensor:
    """1 / K each; the temperature is not read."""
    rows, teachers = figures.shape
    return torch.ones(rows, teachers, device=figures.groups.device) / teachers


EQUAL = Weighting(
    "equal",
    "all the same",
    equal,
    "the mean of the teachers' distributions; no label is read",
    (Reference("the mean of several teachers", OWN),),
)
