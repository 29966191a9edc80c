"""The objective over logits that are there."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .logits import LinearLogits, Logits, at_least_fp32, cast
from .scaling import SCALINGS
from .sparse import SparseTargets

SoftTerm = Callable[[Tensor, Tensor], Tensor]
"""A divergence: (n, P) log-probabilities of student and teacher -> (n,) nats."""


class Weights(NamedTuple):
    """The weights at one step: alpha_h and alpha_s of the paper, after the schedule."""

    hard: float
    soft: float


class Targets(NamedTuple):
    """A teacher's predictions for the rows of a batch, after corrections.

    logits: (n, P), the first P classes being the student's first P classes; a tensor, logits that are made slice by
        slice, or what is known of the distribution where not all of it is (`SparseTargets`).
    row_weight: (n,) factor of each row's soft term, or None for 1 everywhere.
    """

    logits: Logits | SparseTargets
    row_weight: Tensor | None = None

    def for_labels(self, labels: Tensor, classes: int) -> "Targets":
        """Without a soft term for rows whose label is none of the P classes, where the student has more."""
        shared = self.logits.shape[-1]
        if shared >= classes:
            return self
        known = (labels < shared).to(torch.float32)
        return self._replace(row_weight=known if self.row_weight is None else self.row_weight * known)

    def cast(self) -> "Targets":
        """With logits that are cast already, for many parts."""
        return self if isinstance(self.logits, SparseTargets) else self._replace(logits=cast(self.logits))

    def part(self, rows: slice) -> "Targets":
        """Those rows alone, their logits made, in at least fp32."""
        logits = self.logits[rows]
        logits = at_least_fp32(logits) if isinstance(logits, Tensor) else logits
        return Targets(logits, None if self.row_weight is None else self.row_weight[rows])


class Form(NamedTuple):
    """The form of the two terms, which no step changes.

    soft_term: from student and teacher log-probabilities (n, P) to a divergence per row (n,).
    temperature: tau, dividing both logits in the soft term.
    tau_squared: multiply the soft term by tau^2.
    label_smoothing: epsilon of the hard term, spread evenly over the C classes.
    """

    soft_term: SoftTerm
    temperature: float = 1.0
    tau_squared: bool = False
    label_smoothing: float = 0.0

    @property
    def soft_scale(self) -> float:
        """The factor of the soft term."""
        return SCALINGS["tau_squared" if self.tau_squared else "none"].function(self.temperature)


Slope = tuple[dict[str, Tensor], Tensor | None]
"""Sums over a chunk, and the gradient of its loss with respect to its logits."""
ChunkLoss = Callable[[Tensor, Tensor, Targets | None, Weights, Form, bool], Slope]


def tensor_terms(
    student: Tensor, labels: Tensor, targets: Targets | None, weights: Weights, form: Form, hard: Tensor | None = None
) -> dict[str, Tensor]:
    """`distillation_terms` of logits (n, C) that are there, every sum with its gradient."""
    student = at_least_fp32(student)
    log_probs = F.log_softmax(student, dim=-1)
    if hard is None:
        hard = -log_probs.gather(-1, labels.unsqueeze(-1)).sum()
        if form.label_smoothing:
            hard = (1.0 - form.label_smoothing) * hard - form.label_smoothing * log_probs.mean(dim=-1).sum()
    terms = {"hard_loss": hard, "loss": weights.hard * hard}
    if targets is None:
        return terms
    teacher, row_weight = targets.part(slice(None))
    assert not isinstance(teacher, LinearLogits)  # `part` has made them
    shared, tau = teacher.shape[-1], form.temperature
    if tau != 1.0 or shared != student.shape[-1]:
        log_probs = F.log_softmax(student[:, :shared] / tau, dim=-1)
    if isinstance(teacher, SparseTargets):
        rows, likely = teacher.kl(log_probs.gather(-1, teacher.ids)), teacher.likeliest
    else:
        rows, likely = form.soft_term(log_probs, F.log_softmax(teacher / tau, dim=-1)), teacher.argmax(-1)
    if row_weight is not None:
        rows = rows * row_weight
    soft = rows.sum() * form.soft_scale
    same = student.detach().argmax(-1) == likely
    terms.update(soft_loss=soft, agreement=same.sum().to(soft.dtype))
    terms["teacher_margin"] = teacher_margin(student.detach(), teacher, labels)
    terms["loss"] = terms["loss"] + weights.soft * soft
    return terms


def teacher_margin(
    student: Tensor,
    teacher: Tensor | SparseTargets,
    labels: Tensor,
    student_log_sum: Tensor | None = None,
    teacher_log_sum: Tensor | None = None,
) -> Tensor:
    """Sum over rows of log p_T(label) - log p_S(label) at tau = 1: by how many nats the teacher is the better one.

    Args:
        student: (n, C) logits.
        teacher: (n, P) logits, or a few classes of them. Rows whose label is not among the P classes count as 0.
        labels: (n,).
        student_log_sum, teacher_log_sum: (n,) log-normalisers, where they are known.
    """
    shared = teacher.shape[-1]
    places = labels.clamp(max=shared - 1).unsqueeze(1)
    student_log_prob = _log_prob(student, places, student_log_sum)
    if isinstance(teacher, SparseTargets):
        teacher_log_prob = teacher.truth
    else:
        teacher_log_prob = _log_prob(teacher, places, teacher_log_sum)
    return torch.where(labels < shared, teacher_log_prob - student_log_prob, 0.0).sum()


def _log_prob(logits: Tensor, places: Tensor, log_sum: Tensor | None) -> Tensor:
    """(n,) log-probabilities of one class a row."""
    return logits.gather(1, places).squeeze(1) - (logits.logsumexp(1) if log_sum is None else log_sum)
