"""How much a unit changed in tuning."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ...parts import OWN, Reference
from .record import Score, Share
from .weight import weight


def change(shares: Sequence[Share], generator: Generator) -> Tensor:
    """The sum of |B A + S| over a unit's rows and columns of the matrices that are adapted.

    Of heads this is the L1 norm of |dQ| + |dV| by which DSEE prunes them where query and value are adapted. Ours: of
    a unit with adapted matrices these alone count, since weights are much larger than their changes; and neurons are
    scored likewise. Where none of a layer's matrices is adapted its own weights count, as in DSEE;
    and, ours, where none has learned anything yet.

    Args:
        shares: of one layer.
        generator: not read.
    """
    changes = [share.change for share in shares if share.change is not None and share.change.any()]
    if not changes:
        return weight(shares, generator)
    return torch.stack([one.abs().sum(1) for one in changes]).sum(0)


CHANGE = Score(
    "change",
    "how much tuning changed it",
    change,
    promise="that of the weights where nothing of a layer has changed",
    references=(
        Reference("units by what was learned of them", "DSEE", "2111.00160"),
        Reference("neurons by the change of their matrices", OWN),
    ),
)
