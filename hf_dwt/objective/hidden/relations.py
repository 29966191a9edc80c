"""How the rows of an example relate to each other, whatever the widths of the two models."""

import torch
from torch import Tensor

from ...parts import OWN, Reference
from .examples import by_example
from .record import HiddenTerm


def relations(student: Tensor, supervisor: Tensor, examples: Tensor) -> Tensor:
    """KL of each row's relations to all rows of its example, softmax of scaled dot products (arXiv 2012.15828).

        R = softmax(h h^T / sqrt(H_T)) of the supervisor, softmax(h h^T sqrt(H_T) / H_S) of the student

    MiniLMv2 has this of queries, keys and values at all positions, by relation heads. Here it is of hidden states at
    the rows, with one head, and for two widths the student's mean product over channels takes the place of the
    supervisor's: so copies of all channels have the same relations, and for one width both are the paper's.

    Args:
        student: (n, H_S).
        supervisor: (n, H_T).
        examples: (n,) the example of each row. One that is alone in its example has a loss of 0.

    Returns:
        (n,) nats.
    """
    places, present = by_example(examples)
    width = supervisor.shape[-1]
    log_q = _log_relations(student[places] * (width**0.5 / student.shape[-1]), student[places], present)
    log_p = _log_relations(supervisor[places] / width**0.5, supervisor[places], present)
    both = present.unsqueeze(1) & present.unsqueeze(2)
    rows = (log_p.exp() * (log_p - log_q)).masked_fill(~both, 0.0).sum(-1)
    return rows[present]


def _log_relations(one: Tensor, other: Tensor, present: Tensor) -> Tensor:
    """(E, m, m) log of each row's relations to the rows of its example that are there."""
    lowest = torch.finfo(one.dtype).min / 4
    return torch.log_softmax((one @ other.mT).masked_fill(~present.unsqueeze(1), lowest), -1)


RELATIONS = HiddenTerm(
    name="relations",
    title="KL of the relations between the rows of an example",
    function=relations,
    promise="at least 0, for any two widths; 0 for copies of all channels",
    references=(
        Reference("self-attention relations", "MiniLMv2", "2012.15828"),
        Reference("relations of hidden states at the rows, for two widths", OWN),
    ),
    weight=1.0,
    same_width=False,
)
