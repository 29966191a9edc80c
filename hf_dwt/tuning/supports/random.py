"""Entries drawn at random."""

import torch
from torch import Generator, Tensor

from ...parts import Reference
from .record import Support


def random(weight: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` places, each as likely as any other.

    Args:
        weight: (m, n), of which the shape alone counts.
        count: of places.
        generator: that draws them.
    """
    return torch.randperm(weight.numel(), generator=generator)[:count].to(weight.device)


RANDOM = Support(
    "random",
    "drawn under the seed",
    random,
    promise="the same for the same seed and order of layers",
    references=(Reference("a random support, an option of its code", "DSEE", "2111.00160"),),
)
