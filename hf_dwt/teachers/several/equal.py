"""Every teacher counts as much."""

import torch
from torch import Tensor

from .record import Figures, Weighting


def equal(figures: Figures, temperature: float) -> Tensor:
    """1 / K each."""
    return torch.full_like(figures.log_probs, 1.0 / figures.log_probs.shape[1])


EQUAL = Weighting("equal", "all the same", equal, "the mean of the teachers' distributions")
