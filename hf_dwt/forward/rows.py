"""From labels to rows: which positions count, and where in the flattened batch they are."""

from collections.abc import Mapping, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import DataError
from ..tasks import IGNORED

HARD, SOFT = "hard_row_weight", "soft_row_weight"
"""Entries of a batch: a further factor of a row's hard and of its soft term, for each example or for each label."""


class Rows(NamedTuple):
    """The n counted positions of a batch of B examples with L positions each (L = 1 in classification).

    positions: (n,) places in the flattened (B * L) batch, ascending.
    labels: (n,) their labels.
    length: L.
    hard, soft: (n,) further factors of each row's two terms in training, in fp32; None for 1 everywhere.
    """

    positions: Tensor
    labels: Tensor
    length: int
    hard: Tensor | None = None
    soft: Tensor | None = None

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
    flat = (_one_ahead(labels, IGNORED) if shifts else labels).reshape(-1)
    positions = torch.nonzero(flat != IGNORED).squeeze(1)
    return Rows(positions, flat[positions], labels.shape[-1] if labels.dim() > 1 else 1)


def weighted_rows(rows: Rows, batch: Mapping[str, Any], shifts: bool, checks: bool = True) -> Rows:
    """The rows with the weights that a batch has for them.

    Args:
        rows: of the batch.
        batch: in which `HARD` and `SOFT` are (B,), for all rows of an example, or of the shape of its labels, at the
            place of each row's label. Truth values and numbers from 0 upwards.
        shifts: as of `select_rows`.
        checks: whether to look into the tensors.

    Raises:
        DataError: they are of another shape, or no weights.
    """
    return rows._replace(
        hard=_weights(HARD, rows, batch, shifts, checks), soft=_weights(SOFT, rows, batch, shifts, checks)
    )


def _weights(name: str, rows: Rows, batch: Mapping[str, Any], shifts: bool, checks: bool) -> Tensor | None:
    if (values := batch.get(name)) is None:
        return None
    shape = batch["labels"].shape
    if batch.get("shift_labels") is not None and len(shape) > 1:
        shape = shape[:1]  # which positions labels stand at is then the collator's affair
    if not isinstance(values, Tensor) or values.shape not in (shape, shape[:1]):
        given = f"of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        fix = f"Give a tensor of shape {tuple(shape[:1])}, a number for each example, or of that of labels."
        raise DataError(name, given, "is no weight for each example or label of the batch.", fix)
    if values.shape == shape[:1]:
        found = values.index_select(0, rows.examples).float()
    else:
        found = (_one_ahead(values, 0) if shifts else values).reshape(-1).index_select(0, rows.positions).float()
    if checks and found.numel() and not (torch.isfinite(found).all() and found.min() >= 0):
        raise DataError(
            name, found.min().item(), "is no weight.", "Give finite numbers from 0 upwards, or truth values."
        )
    return found


def _one_ahead(values: Tensor, filler: int) -> Tensor:
    """What stands at the next position."""
    return F.pad(values[..., 1:], (0, 1), value=filler)


def require_examples(argument: str, dataset: object) -> None:
    """Raise a DataError for a data set of known length that is empty."""
    if isinstance(dataset, Sized) and len(dataset) == 0:
        fix = "Check its path, split or filter: a step before has left nothing over."
        raise DataError(argument, type(dataset).__name__, "has no examples.", fix)
