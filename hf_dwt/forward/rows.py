"""From labels to rows: which positions count, and where in the flattened batch they are."""

from collections.abc import Sized
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import DataError
from ..tasks import IGNORED


class Rows(NamedTuple):
    """The n counted positions of a batch of B examples with L positions each (L = 1 in classification).

    positions: (n,) places in the flattened (B * L) batch, ascending.
    labels: (n,) their labels.
    length: L.
    """

    positions: Tensor
    labels: Tensor
    length: int

    @property
    def examples(self) -> Tensor:
        """(n,) the example that each row belongs to."""
        return self.positions // self.length

    def take(self, tensor: Tensor) -> Tensor:
        """(B, L, ...) or (B, ...) -> (n, ...): what stands at the rows."""
        width = tensor.shape[-1]
        return tensor.reshape(-1, width).index_select(0, self.positions)


def select_rows(labels: Tensor, shifts: bool) -> Rows:
    """The rows of a batch.

    Args:
        labels: (B, L) or (B,), -100 where a position does not count.
        shifts: whether the label of a position is predicted at the position before it (causal LMs).

    Raises:
        DataError: labels that are not class indices.
    """
    if labels.is_floating_point():
        raise DataError(
            "labels", labels.dtype, "are not class indices.", "Give integer labels: only classes have a distribution."
        )
    if shifts:
        labels = F.pad(labels[..., 1:], (0, 1), value=IGNORED)
    flat = labels.reshape(-1)
    positions = torch.nonzero(flat != IGNORED).squeeze(1)
    return Rows(positions, flat[positions], labels.shape[-1] if labels.dim() > 1 else 1)


def require_examples(argument: str, dataset: object) -> None:
    """Raise a DataError for a data set of known length that is empty."""
    if isinstance(dataset, Sized) and len(dataset) == 0:
        fix = "Check its path, split or filter: a step before has left nothing over."
        raise DataError(argument, type(dataset).__name__, "has no examples.", fix)
