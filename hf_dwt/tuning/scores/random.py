"""Units drawn at random: the baseline of every other score."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ...parts import OWN, Reference
from .record import Score, Share


def random(shares: Sequence[Share], generator: Generator) -> Tensor:
    """Numbers drawn for each unit.

    Args:
        shares: of one layer, of which the number of units alone counts.
        generator: that draws them.
    """
    weight = shares[0].weight
    return torch.rand(len(weight), generator=generator).to(weight.device)


RANDOM = Score(
    "random",
    "drawn under the seed",
    random,
    promise="what any other score has to be better than",
    references=(Reference("a baseline", OWN),),
)
