"""Influence through all parameters that learn: gradients of single examples, by a backward pass for each.

A library of hooks would take batches, but by layer: a parameter that two layers share, as a tied head does with the
embeddings, has a product of gradients across both, which no layer sees; and norms of an own class need a declaration.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from ..forward.calls import forward_arguments, model_inputs
from ..forward.example_rows import Batches, Part
from ..forward.row_logits import RowLogits
from ..modes import evaluation_mode
from ..objective import Weights, distillation_terms
from ..tasks import Task

BYTES_OF_GRADIENTS = 1 << 30
"""Those of queries are kept; more of them than fit take one more pass over the training examples."""


def parameter_scores(
    model: nn.Module,
    task: Task,
    train: Batches,
    queries: Batches,
    trained: Collection[str],
    made: Callable[[int], object],
) -> np.ndarray:
    """(examples, queries) dot products of gradients with respect to all parameters that are trained.

    Args:
        model: in which nothing is changed.
        task: its task.
        train: the training examples, one in each batch.
        queries: likewise.
        trained: names of the parameters.
        made: called with the number of training examples that are done.

    Raises:
        ArgumentError: the model lacks one of them.
    """
    device = next(model.parameters()).device
    gradient_of = _Gradient(model, task)
    found = np.zeros((train.count, queries.count), dtype=np.float32)
    with evaluation_mode(model), _learning(model, trained) as parameters:
        size = 4 * sum(parameter.numel() for parameter in parameters)
        asked = list(queries.on(device))
        most = max(1, BYTES_OF_GRADIENTS // size)
        for start in range(0, len(asked), most):
            block = asked[start : start + most]
            kept = torch.stack([gradient_of(part, parameters) for part in block])
            columns = [part.indices[0] for part in block]
            for part in train.on(device):
                if part.rows.labels.numel():
                    scores = kept @ gradient_of(part, parameters)
                    found[part.indices[0], columns] = scores.cpu().numpy()
                made(1)
    return found


class _Gradient:
    """From a batch to the (P,) gradient of its summed hard term, in fp32."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._model, self._task = model, task
        self._columns, self._row_logits = forward_arguments(model), RowLogits(model, task)

    def __call__(self, part: Part, parameters: Sequence[Tensor]) -> Tensor:
        inputs = model_inputs(self._model, self._task, part.batch, self._columns)
        with torch.enable_grad():
            _, sums = self._row_logits.reduced(
                self._model,
                inputs,
                part.rows,
                lambda logits, _: distillation_terms(logits, part.rows.labels, None, Weights(1.0, 0.0)),
            )
            found = torch.autograd.grad(sums["loss"], parameters, allow_unused=True)
        zeros = (torch.zeros_like(one) if g is None else g for g, one in zip(found, parameters, strict=True))
        return torch.cat([one.detach().flatten().float() for one in zeros])


@contextmanager
def _learning(model: nn.Module, trained: Collection[str]) -> Iterator[list[nn.Parameter]]:
    """In the block the parameters of these names, and no others, have gradients."""
    named = dict(model.named_parameters())
    names = set(trained)
    if absent := sorted(names - named.keys()):
        problem = f"takes gradients of what the trainer trains, and a {type(model).__name__} that was given has no "
        fix = "Give models of the run, with its adapter; or rows='head'."
        raise ArgumentError("rows", "all", f"{problem}{absent[0]}.", fix)
    before = {name: parameter.requires_grad for name, parameter in named.items()}
    try:
        for name, parameter in named.items():
            parameter.requires_grad_(name in names)
        yield [parameter for name, parameter in named.items() if name in names]
    finally:
        for name, parameter in named.items():
            parameter.requires_grad_(before[name])
