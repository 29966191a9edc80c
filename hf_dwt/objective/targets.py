"""What a teacher predicts for the rows of a batch, up to the moment when a chunk of its logits is there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .logits import LinearLogits, Logits, at_least_fp32
from .mapped import MappedLogits
from .sparse import SparseTargets

RowTerm = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(student's logits (m, C), the teacher's (m, P), labels (m,), tau) -> (m,) nats: a soft term that reads labels."""
Made = Tensor | SparseTargets
"""A teacher's logits (m, P) that are there, or what is known of its distribution."""
Correct = Callable[[Tensor, Made, Tensor, float], "Targets"]
"""(student's logits (m, C), the teacher's, labels (m,), progress of training) -> the corrected targets of m rows."""


class Watch(Protocol):
    """Reads both models' logits while they are there, chunk by chunk: what learns beside the student is made of it."""

    def __call__(self, rows: slice, student: Tensor, labels: Tensor, teacher: Made, temperature: float) -> None:
        """See m of the rows.

        Args:
            rows: which.
            student: (m, C) logits without gradient.
            labels: (m,).
            teacher: its logits (m, P), or what is known of its distribution; of a mixture tau x log p at tau.
            temperature: tau of the soft term.
        """
        ...


class Targets(NamedTuple):
    """A teacher's predictions for the n rows of a batch.

        soft term of a row = row_weight * D((1 - share) * p + share * onehot(towards) || q)

    with p the teacher's distribution, q the student's and D the divergence.

    logits: (n, P), the first P classes being the student's first P classes; a tensor, logits that are made slice by
        slice, what is known of the distribution where not all of it is (`SparseTargets`), or a `Mixture`.
    row_weight: (n,) factor of each row's soft term, or None for 1 everywhere.
    share: (n,) how much of the target distribution is one class alone, from 0 to 1; None for 0 everywhere.
    towards: (n,) that class; None for the label.
    truth: (n,) log-probability of the label at tau = 1, where `logits` do not show it.
    known: (n,) the rows that the teacher has anything for; None for those whose label is among the P classes. With it,
        and without `truth`, `logits` are log-probabilities.
    divergence: in place of the soft term of the run; not with `share`.
    correct: makes the targets of a chunk from its logits; see `hf_dwt.objective.corrections`.
    watches: called with each chunk.
    """

    logits: "Logits | SparseTargets | MappedLogits | Mixture"
    row_weight: Tensor | None = None
    share: Tensor | None = None
    towards: Tensor | None = None
    truth: Tensor | None = None
    known: Tensor | None = None
    divergence: RowTerm | None = None
    correct: Correct | None = None
    watches: tuple[tuple[slice, Watch], ...] = ()

    def for_labels(self, labels: Tensor, classes: int) -> "Targets":
        """Without a soft term for rows whose label is none of the P classes, where the student has more."""
        shared = self.logits.shape[-1]
        if shared >= classes:
            return self
        return self.weighted((labels < shared).to(torch.float32))

    def weighted(self, factor: Tensor | None) -> "Targets":
        """With that further factor of each row's soft term, (n,)."""
        if factor is None:
            return self
        return self._replace(row_weight=factor if self.row_weight is None else self.row_weight * factor)

    def cast(self) -> "Targets":
        """With logits that are cast already, for many parts."""
        if isinstance(self.logits, Tensor | SparseTargets):
            return self
        return self._replace(logits=self.logits.cast())

    def uncorrected(self) -> "Targets":
        """As the teachers have them, and unwatched."""
        logits = self.logits
        if isinstance(logits, Mixture):
            logits = logits.of([part.uncorrected() for part in logits.parts])
        return self._replace(logits=logits, correct=None, watches=())

    def first(self, classes: int) -> "Targets":
        """Of the first classes alone."""
        logits = self.logits
        if logits.shape[-1] == classes:
            return self
        if isinstance(logits, Mixture):
            return self._replace(logits=logits.of([part.first(classes) for part in logits.parts]))
        assert not isinstance(logits, SparseTargets | MappedLogits)  # whose classes are a choice already
        return self._replace(logits=logits[:, :classes] if isinstance(logits, Tensor) else logits.first(classes))

    def part(self, rows: slice) -> "Targets":
        """Those rows alone, their logits made, in at least fp32."""
        logits = self.logits[rows]
        logits = at_least_fp32(logits) if isinstance(logits, Tensor) else logits
        own = {name: value[rows] for name in _OF_ROWS if (value := getattr(self, name)) is not None}
        return self._replace(logits=logits, **own, watches=tuple((rows, watch) for _, watch in self.watches))

    def made(self) -> Made:
        """The logits of a `part`."""
        assert not isinstance(self.logits, LinearLogits | MappedLogits | Mixture)
        return self.logits

    def resolved(self, student: Tensor, labels: Tensor, temperature: float, progress: float) -> "Targets":
        """Of a `part`: what learns has seen it, mixtures are formed and corrections made.

        Args:
            student: (m, C) logits, without gradient.
            labels: (m,).
            temperature: tau, at which distributions are mixed.
            progress: of training, from 0 to 1.
        """
        targets = self
        if isinstance(self.logits, Mixture):
            targets = self.logits.mixed(student, labels, temperature, progress)._replace(
                correct=self.correct, watches=self.watches
            )
            targets = targets.weighted(self.row_weight)
        if targets.known is not None and targets.truth is None:
            logits, places = targets.made(), labels.clamp(max=targets.logits.shape[-1] - 1).unsqueeze(1)
            assert isinstance(logits, Tensor)
            targets = targets._replace(truth=logits.gather(1, places).squeeze(1))
        for rows, watch in targets.watches:
            watch(rows, student, labels, targets.made(), temperature)
        if targets.correct is None:
            return targets._replace(watches=())
        corrected = targets.correct(student, targets.made(), labels, progress)
        truth = targets.truth if corrected.truth is None else corrected.truth
        return corrected._replace(truth=truth, known=targets.known).weighted(targets.row_weight)

    def log_probs(self, labels: Tensor, temperature: float) -> Tensor:
        """(m, P) log of the target distribution at tau, of a `part` that is resolved."""
        logits = self.made()
        assert isinstance(logits, Tensor)
        log_probs = torch.log_softmax(logits / temperature, -1)
        if self.share is None:
            return log_probs
        classes = self.places(labels)
        tiny = torch.finfo(log_probs.dtype).tiny
        share = self.share.to(log_probs.dtype).unsqueeze(1)
        rest = log_probs + (1.0 - share).clamp(min=tiny).log()
        both = torch.logaddexp(rest.gather(1, classes), share.clamp(min=tiny).log())
        return rest.scatter(1, classes, both)

    def places(self, labels: Tensor) -> Tensor:
        """(m, 1) the class that has the share; a label that is none of the P classes counts as the last."""
        classes = labels if self.towards is None else self.towards
        return classes.clamp(max=self.logits.shape[-1] - 1).unsqueeze(1)


_OF_ROWS = ("row_weight", "share", "towards", "truth", "known")


@dataclass(frozen=True)
class Mixture:
    """sum_k w_k p_k of several teachers' distributions, formed chunk by chunk.

    sum_k w_k KL(p_k || q) = KL(sum_k w_k p_k || q) + terms without q, where sum_k w_k = 1: several soft terms have the
    gradient of one, and no more memory. What is logged is the right-hand side without those terms.

    parts: the K teachers' targets.
    weights: (n, K), at least 0, with a sum of 1 in each row.
    names: of the K teachers.
    """

    parts: tuple[Targets, ...]
    weights: Tensor
    names: tuple[str, ...]

    @property
    def shape(self) -> torch.Size:
        """(n, P), P being the classes that all of them have."""
        return torch.Size((len(self.weights), min(part.logits.shape[-1] for part in self.parts)))

    @property
    def made_of(self) -> Tensor:
        """As of `LinearLogits`: the weights, since the mixture is computed in fp32 whatever its parts are."""
        return self.weights

    def __getitem__(self, rows: slice) -> "Mixture":
        return replace(self, parts=tuple(part.part(rows) for part in self.parts), weights=self.weights[rows])

    def of(self, parts: Sequence[Targets]) -> "Mixture":
        """With the same weights of others."""
        return replace(self, parts=tuple(parts))

    def cast(self) -> "Mixture":
        """With logits that are cast already, for many parts."""
        return self.of([part.cast() for part in self.parts])

    def mixed(self, student: Tensor, labels: Tensor, temperature: float, progress: float) -> Targets:
        """The targets of m rows whose logits are made; arguments as `Targets.resolved`."""
        shared = self.shape[-1]
        places = labels.clamp(max=shared - 1).unsqueeze(1)
        parts = [part.resolved(student, labels, temperature, progress) for part in self.parts]
        weights = self.weights.to(student.dtype)
        row_weight = None
        if any(part.row_weight is not None for part in parts):
            ones = torch.ones_like(weights[:, 0])
            factors = torch.stack([ones if p.row_weight is None else p.row_weight.to(ones) for p in parts], 1)
            row_weight = (weights * factors).sum(1)
            weights = torch.where(row_weight.unsqueeze(1) > 0, weights * factors, weights)
            weights = weights / weights.sum(1, keepdim=True)
        mixed, truth = None, None
        for log_weight, own_weight, part in zip(
            weights.log().unbind(1), self.weights.to(student.dtype).log().unbind(1), parts, strict=True
        ):
            logits = part.made()
            assert isinstance(logits, Tensor)
            own = part.log_probs(labels, temperature)[:, :shared] + log_weight.unsqueeze(1)
            mixed = own if mixed is None else torch.logaddexp(mixed, own)
            known = torch.log_softmax(logits, -1).gather(1, places).squeeze(1) if part.truth is None else part.truth
            truth = known + own_weight if truth is None else torch.logaddexp(truth, known + own_weight)
        assert mixed is not None
        return Targets(mixed * temperature, row_weight, truth=truth)


def members(targets: Targets, weights: Tensor | None = None, name: str = "") -> Iterator[tuple[str, Targets, Tensor]]:
    """The teachers that targets are mixed of: name, targets, and (n,) weights, which have a sum of 1; none of others.

    A mixture within a mixture is taken apart: the names of its teachers follow its own, behind a point.
    """
    mixture = targets.logits
    if not isinstance(mixture, Mixture):
        return
    for key, part, own in zip(mixture.names, mixture.parts, mixture.weights.unbind(1), strict=True):
        whole = own if weights is None else own * weights
        full = f"{name}.{key}" if name else key
        if isinstance(part.logits, Mixture):
            yield from members(part, whole, full)
        else:
            yield full, part, whole
