"""How large the weights of a unit are."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ...parts import Reference
from .record import Score, Share


def weight(shares: Sequence[Share], generator: Generator) -> Tensor:
    """The sum of |W| over a unit's rows and columns, with what was learned of them.

    Args:
        shares: of one layer.
        generator: not read.
    """
    return torch.stack([share.weight.abs().sum(1) for share in shares]).sum(0)


WEIGHT = Score(
    "weight",
    "how large its weights are",
    weight,
    promise="the same for the same weights",
    references=(Reference("filters by the L1 norm of their weights", "Pruning filters", "1608.08710"),),
)
