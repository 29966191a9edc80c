"""From labels to rows: which positions count, and where in the flattened batch they are."""

from collections.abc import Mapping, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import DataError
from ..tasks import IGNORED, Outcome, Task

HARD, SOFT = "hard_row_weight", "soft_row_weight"
"""Entries of a batch: a further factor of a row's hard and of its soft term, for each example or for each label."""


class Rows(NamedTuple):
    """The n counted positions of a batch of B examples with L positions each.

    In the classification of whole examples L is 1, or the number of independent labels; of numbers to predict it is
    how many an example has; of answers in a text it is 2, start and end.

    positions: (n,) places in the flattened (B * L) batch, ascending.
    labels: (n,) their classes, or numbers, which are of a floating type.
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


def select_rows(labels: Tensor, shifts: bool, outcome: Outcome = Outcome.CLASS) -> Rows:
    """The rows of a batch.

    Args:
        labels: (B, L) or (B,), -100 where a position does not count, unless they are numbers: all of these count.
        shifts: whether the label of a position is predicted at the position before it (causal LMs).
        outcome: of the task. Of independent labels 0 and 1 are the classes of a row.

    Raises:
        DataError: labels that are not class indices, for a task that has classes.
    """
    length = labels.shape[-1] if labels.dim() > 1 else 1
    if outcome is Outcome.NUMBER:
        numbers = labels.reshape(-1)
        numbers = numbers if numbers.is_floating_point() else numbers.float()
        return Rows(torch.arange(len(numbers), device=labels.device), numbers, length)
    if labels.is_floating_point() and outcome is not Outcome.LABEL:
        fix = "Give integer labels, or set model.config.problem_type to 'multi_label_classification' or 'regression'."
        raise DataError("labels", labels.dtype, "are not class indices.", fix)
    flat = (_one_ahead(labels, IGNORED) if shifts else labels).reshape(-1)
    positions = torch.nonzero(flat != IGNORED).squeeze(1)
    return Rows(positions, flat[positions].long() if outcome is Outcome.LABEL else flat[positions], length)


def with_labels(task: Task, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch with labels: of answers in a text (B, 2), made of its positions; of other tasks as it is.

    As in transformers' `ForQuestionAnsweringLoss` positions below 0 are 0, and those behind the text do not count.
    """
    if task.labels == ("labels",) or any(batch.get(name) is None for name in task.labels):
        return batch
    ids = batch["input_ids"] if batch.get("input_ids") is not None else batch["inputs_embeds"]
    places = torch.stack([batch[name].reshape(-1) for name in task.labels], 1).clamp(min=0)
    return {**batch, "labels": places.masked_fill(places >= ids.shape[1], IGNORED)}


def counted_labels(task: Task, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch with labels that are -100 where, and only where, there is no row: numbers count whatever they are."""
    batch = with_labels(task, batch)
    if task.outcome is not Outcome.NUMBER or batch.get("labels") is None:
        return batch
    return {**batch, "labels": torch.zeros_like(batch["labels"])}


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
