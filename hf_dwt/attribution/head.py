"""Influence through the last layer alone: products of gradients that no backward pass has to make.

The gradient of a row's loss with respect to the weight of a linear head is an outer product, `slope x hidden`, with
the (C,) gradient of the loss with respect to the logits, softmax - onehot(label), and the (H,) hidden state in front
of the head. So the dot product of two rows' gradients is `(hidden . hidden') (slope . slope')`, and that of two
examples is its sum over their rows.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DataError, TaskError
from ..forward.calls import Batch, forward_arguments, model_inputs
from ..forward.example_rows import Batches
from ..forward.row_logits import RowLogits
from ..forward.rows import Rows
from ..modes import evaluation_mode
from ..objective.chunked import chunks
from ..objective.logits import LinearLogits
from ..tasks import Task, model_class

BYTES_OF_SLOPES = 1 << 29
"""Those of the queries' rows are kept; more rows than fit take one more pass over the training examples."""


class HeadRows:
    """Gradient rows of one model.

    Args:
        model: in which nothing is changed.
        task: its task.

    Raises:
        TaskError: its classes are no vocabulary.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        if not task.vocabulary:
            raise _no_head(model, f"is a model for {task.name}")
        self._model, self._task = model, task
        self._columns, self._row_logits = forward_arguments(model), RowLogits(model, task)

    @torch.no_grad()
    def logits(self, batch: Batch, rows: Rows) -> LinearLogits:
        """The (n, C) logits at the rows, made slice by slice, without dropout.

        Raises:
            TaskError: the head is no linear map.
            DataError: labels that the model has no class for.
        """
        with evaluation_mode(self._model):
            logits = self._row_logits(self._model, model_inputs(self._model, self._task, batch, self._columns), rows)
        if not isinstance(logits, LinearLogits):
            raise _no_head(self._model, "has a last layer that is no linear map as it stands")
        classes = logits.shape[1]
        if rows.labels.numel() and not (rows.labels.min() >= 0 and rows.labels.max() < classes):
            found = [int(rows.labels.min()), int(rows.labels.max())]
            fix = "Check that tokenizer and model belong together."
            raise DataError("labels", found, f"reach beyond the model's {classes} classes.", fix)
        return logits.detach()


def slopes(logits: LinearLogits, labels: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Chunk by chunk of m rows: which these are, (m, H) hidden states and (m, C) slopes, in at least fp32.

    With the scale and the softcap of the logits a slope is the gradient with respect to the product alone.
    """
    own = logits.cast()
    for part in chunks(own):
        values = own[part]
        slope = values.softmax(-1)
        slope[torch.arange(len(slope), device=slope.device), labels[part]] -= 1.0
        if own.cap is not None:
            slope *= 1.0 - (values / own.cap).square()
        yield part, own.hidden[part].to(slope.dtype), slope.mul_(own.scale)


class QueryRows:
    """The gradient rows of some rows of the queries, kept to be multiplied with those of many examples.

    Args:
        logits: (n, C) of these rows.
        labels: (n,) theirs.
        queries: (n,) the query of each.
        count: Q, how many queries there are in all.
    """

    def __init__(self, logits: LinearLogits, labels: Tensor, queries: Tensor, count: int) -> None:
        parts = list(slopes(logits, labels))
        self._hidden = torch.cat([hidden for _, hidden, _ in parts])
        self._slopes = torch.cat([slope for _, _, slope in parts])
        self._queries, self._count = queries, count

    def scores(self, logits: LinearLogits, rows: Rows, size: int) -> Tensor:
        """(B, Q) dot products of the gradients of `size` = B examples with those of the queries, at these rows.

        Args:
            logits: at the rows of a batch of training examples.
            rows: of that batch.
        """
        found = self._hidden.new_zeros(size, self._count)
        for part, hidden, slope in slopes(logits, rows.labels):
            products = (hidden @ self._hidden.T).mul_(slope @ self._slopes.T)
            by_query = products.new_zeros(len(products), self._count).index_add_(1, self._queries, products)
            found.index_add_(0, rows.examples[part], by_query)
        return found


def blocks(logits: LinearLogits, labels: Tensor, queries: Tensor, count: int) -> Iterator[QueryRows]:
    """All rows of the queries, as many at a time as `BYTES_OF_SLOPES` hold."""
    most = max(1, BYTES_OF_SLOPES // (4 * logits.shape[1]))
    for start in range(0, len(labels), most):
        part = slice(start, start + most)
        yield QueryRows(replace(logits, hidden=logits.hidden[part]), labels[part], queries[part], count)


def head_scores(
    model: nn.Module,
    task: Task,
    train: Batches,
    queries: Batches,
    _trained: Collection[str],
    made: Callable[[int], object],
) -> np.ndarray:
    """(examples, queries) dot products of gradients with respect to the head's weight.

    Args:
        model: in which nothing is changed.
        task: its task.
        train: the training examples.
        queries: the queries.
        _trained: not read.
        made: called with the number of training examples that are done.

    Raises:
        TaskError: the model has no linear head over a vocabulary.
        DataError: labels that it has no class for.
    """
    device = next(model.parameters()).device
    head = HeadRows(model, task)
    parts = [(head.logits(part.batch, part.rows), part) for part in queries.on(device)]
    owners = torch.cat([torch.tensor(part.indices, device=device)[part.rows.examples] for _, part in parts])
    labels = torch.cat([part.rows.labels for _, part in parts])
    logits = replace(parts[0][0], hidden=torch.cat([one.hidden for one, _ in parts]))
    found = np.zeros((train.count, queries.count), dtype=np.float32)
    for block in blocks(logits, labels, owners, queries.count):
        for part in train.on(device):
            scores = block.scores(head.logits(part.batch, part.rows), part.rows, len(part.indices))
            found[part.indices] += scores.cpu().numpy()
            made(len(part.indices))
    return found


def _no_head(model: nn.Module, problem: str) -> TaskError:
    name = model_class(model).__name__
    return TaskError("rows", "head", f"needs a linear head, and {name} {problem}.", "Use rows='all'.")
