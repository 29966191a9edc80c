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
        if "_all" in vars(self):
            return self._all[0]
        (log_probs,) = self._made(lambda logits, rows: (self._log_probs(logits, rows),))
        return log_probs

    @property
    def entropies(self) -> Tensor:
        """(n, K) of each teacher's distribution at temperature 1, in nats."""
        return self._all[1]

    @property
    def likeliest(self) -> Tensor:
        """(n, K) each teacher's most likely class."""
        return self._all[2]

    @cached_property
    def _all(self) -> tuple[Tensor, ...]:
        """The three figures, of logits that are made once for them."""

        def of(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
            log_probs = torch.log_softmax(logits, 1)
            return self._log_probs(logits, rows), -(log_probs.exp() * log_probs).sum(1), logits.argmax(1)

        return self._made(of)

    def _log_probs(self, logits: Tensor, rows: slice) -> Tensor:
        labels, known = self._labels[rows], self.known[rows]
        places = labels.clamp(max=logits.shape[1] - 1).unsqueeze(1)
        return (logits.gather(1, places).squeeze(1) - logits.logsumexp(1)).masked_fill(~known, 0.0)

    @torch.no_grad()
    def _made(self, of: Callable[[Tensor, slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """(n, K) each of the figures (m,) that `of` makes of the logits of a chunk."""
        columns = []
        for part in self._parts:
            each = [of(_logits(part, rows, self._labels[rows]), rows) for rows in _chunks(part)]
            columns.append([torch.cat(figure) for figure in zip(*each, strict=True)])
        return tuple(torch.stack(figure, 1) for figure in zip(*columns, strict=True))


def _chunks(targets: Targets) -> list[slice]:
    assert not isinstance(targets.logits, SparseTargets)
    return chunks(targets.logits)


def _logits(targets: Targets, rows: slice, labels: Tensor) -> Tensor:
    """(m, P) of those rows, of a mixture those of the distribution that it is."""
    nothing = torch.zeros(len(labels), 1, device=labels.device)  # without corrections no student is looked at
    made = targets.part(rows).resolved(nothing, labels, 1.0, 0.0).made()
    assert isinstance(made, Tensor)
    return made


Weigh = Callable[[Figures, float], Tensor]
"""(figures, temperature) -> (n, K) weights, at least 0, with a sum of 1 in each row and the same within a group."""


@dataclass(frozen=True)
class Weighting(Part[[Figures, float], Tensor]):
    """How much each teacher counts on each row."""
