"""The record of a weighting: how much each of several teachers counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...objective import Targets
from ...objective.chunked import chunks
from ...objective.sparse import SparseTargets
from ...parts import Part


class Figures:
    """What K teachers show on n rows, as they are without corrections; no gradient.

    A figure is made when it is read, chunk by chunk: a weighting pays for those alone that it reads.

    Args:
        parts: the K teachers' targets, all of the same P classes.
        labels: (n,).
        groups: see there.

    Attributes:
        groups: (n,) which rows are weighted together: the number of the row, of its example, or 0 for the whole batch.
        known: (n,) whether the label is one of the P classes. Other rows have no soft term.
    """

    def __init__(self, parts: Sequence[Targets], labels: Tensor, groups: Tensor) -> None:
        self._parts = [part.uncorrected().cast() for part in parts]
        self._labels, self.groups = labels, groups
        self.known = labels < self._parts[0].logits.shape[-1]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, K)."""
        return len(self._labels), len(self._parts)

    @cached_property
    def log_probs(self) -> Tensor:
        """(n, K) log-probability of the label at temperature 1, in nats; 0 where the label is not known."""
        return self._each(self._log_probs)

    @cached_property
    def entropies(self) -> Tensor:
        """(n, K) of each teacher's distribution at temperature 1, in nats."""
        return self._each(lambda logits, _: -_x_exp_x(torch.log_softmax(logits, 1)))

    @cached_property
    def likeliest(self) -> Tensor:
        """(n, K) each teacher's most likely class."""
        return self._each(lambda logits, _: logits.argmax(1))

    def _log_probs(self, logits: Tensor, rows: slice) -> Tensor:
        labels, known = self._labels[rows], self.known[rows]
        places = labels.clamp(max=logits.shape[1] - 1).unsqueeze(1)
        return (logits.gather(1, places).squeeze(1) - logits.logsumexp(1)).masked_fill(~known, 0.0)

    @torch.no_grad()
    def _each(self, figure: Callable[[Tensor, slice], Tensor]) -> Tensor:
        columns = [
            torch.cat([figure(_logits(part, rows, self._labels[rows]), rows) for rows in _chunks(part)])
            for part in self._parts
        ]
        return torch.stack(columns, 1)


def _chunks(targets: Targets) -> list[slice]:
    assert not isinstance(targets.logits, SparseTargets)
    return chunks(targets.logits)


def _logits(targets: Targets, rows: slice, labels: Tensor) -> Tensor:
    """(m, P) of those rows, of a mixture those of the distribution that it is."""
    nothing = torch.zeros(len(labels), 1, device=labels.device)  # without corrections no student is looked at
    made = targets.part(rows).resolved(nothing, labels, 1.0, 0.0).made()
    assert isinstance(made, Tensor)
    return made


def _x_exp_x(log_probs: Tensor) -> Tensor:
    return (log_probs.exp() * log_probs).sum(1)


Weigh = Callable[[Figures, float], Tensor]
"""(figures, temperature) -> (n, K) weights, at least 0, with a sum of 1 in each row and the same within a group."""


@dataclass(frozen=True)
class Weighting(Part[[Figures, float], Tensor]):
    """How much each teacher counts on each row."""
