"""Features at the masked positions, normalised and compared channel by channel."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...parts import OWN, Reference
from .examples import by_example
from .record import HiddenTerm


def masked_features(student: Tensor, supervisor: Tensor, examples: Tensor, *, pool: bool = False) -> Tensor:
    """The mean over channels of (f_S - f_T)^2, with f the L2-normalised hidden state of a row.

    PMD (arXiv 2401.12997) compares the mean of an example's masked positions, normalised, of both models' last hidden
    states; that is `pool=True` with `hidden_layers={"last": "last"}`. Its mean is over examples; here an example
    counts by its rows, as it does in the other terms. Row by row, and the layers of the default map, are ours.

    Args:
        student: (n, H).
        supervisor: (n, H).
        examples: (n,) the example of each row.
        pool: compare the mean over an example's rows instead of each row. An example without rows gives nothing.

    Returns:
        (n,) losses, from 0 to 4 / H.
    """
    if pool:
        student, supervisor = _means(student, examples), _means(supervisor, examples)
    return (F.normalize(student, dim=-1) - F.normalize(supervisor, dim=-1)).square().mean(-1)


def _means(rows: Tensor, examples: Tensor) -> Tensor:
    """(n, H) at each row the mean over the rows of its example."""
    places, present = by_example(examples)
    kept = present.unsqueeze(-1)
    means = (rows[places] * kept).sum(1) / kept.sum(1)
    return torch.repeat_interleave(means, present.sum(1), dim=0)


MASKED_FEATURES = HiddenTerm(
    name="masked_features",
    title="squared distance of normalised hidden states",
    function=masked_features,
    promise="from 0 to 4 / width; 0 where both point the same way",
    references=(
        Reference("features at masked positions", "Progressive distillation with masked features", "2401.12997"),
        Reference("row by row, by the layers that a student was made from", OWN),
    ),
    weight=0.1,
)
