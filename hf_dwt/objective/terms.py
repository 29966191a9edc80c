"""The objective over logits that are there."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .logits import at_least_fp32
from .scaling import SCALINGS
from .sparse import SparseTargets
from .targets import Targets

SoftTerm = Callable[[Tensor, Tensor], Tensor]
"""A divergence: (n, P) log-probabilities of student and teacher -> (n,) nats."""


class Weights(NamedTuple):
    """The weights at one step: alpha_h and alpha_s of the paper, after the schedule, and that of the hidden term."""

    hard: float
    soft: float
    hidden: float = 0.0


class Form(NamedTuple):
    """The form of the two terms, which no step changes.

    soft_term: from student and teacher log-probabilities (n, P) to a divergence per row (n,).
    temperature: tau, dividing both logits in the soft term.
    tau_squared: multiply the soft term by tau^2.
    label_smoothing: epsilon of the hard term, spread evenly over the C classes.
    progress: of training, from 0 to 1, which corrections of the teacher may read.
    """

    soft_term: SoftTerm
    temperature: float = 1.0
    tau_squared: bool = False
    label_smoothing: float = 0.0
    progress: float = 0.0

    @property
    def soft_scale(self) -> float:
        """The factor of the soft term."""
        return SCALINGS["tau_squared" if self.tau_squared else "none"].function(self.temperature)


Slope = tuple[dict[str, Tensor], Tensor | None]
"""Sums over a chunk, and the gradient of its loss with respect to its logits."""
ChunkLoss = Callable[[Tensor, Tensor, Targets | None, Weights, Form, Tensor | None, bool], Slope]
"""(logits (m, C), labels (m,), targets, weights, form, (m,) factor of the hard term or None, whether the gradient is
wanted) -> the sums and the gradient of m rows."""


def tensor_terms(
    student: Tensor,
    labels: Tensor,
    targets: Targets | None,
    weights: Weights,
    form: Form,
    row_weight: Tensor | None = None,
    hard: Tensor | None = None,
) -> dict[str, Tensor]:
    """`distillation_terms` of logits (n, C) that are there, every sum with its gradient."""
    student = at_least_fp32(student)
    log_probs = F.log_softmax(student, dim=-1)
    if hard is None:
        hard = weighted_sum(-log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1), row_weight)
        if form.label_smoothing:
            even = weighted_sum(log_probs.mean(dim=-1), row_weight)
            hard = (1.0 - form.label_smoothing) * hard - form.label_smoothing * even
    terms = {"hard_loss": hard, "loss": weights.hard * hard}
    if row_weight is not None:
        terms["hard_rows"] = row_weight.sum()
    if targets is None:
        return terms
    teacher = targets.made()
    shared, tau = teacher.shape[-1], form.temperature
    if tau != 1.0 or shared != student.shape[-1]:
        log_probs = F.log_softmax(student[:, :shared] / tau, dim=-1)
    if targets.divergence is not None and isinstance(teacher, Tensor):
        rows = targets.divergence(student, teacher, labels, tau)
    elif isinstance(teacher, SparseTargets):
        rows = teacher.kl(log_probs.gather(-1, teacher.ids))
        rows = with_share(rows, log_probs, targets, labels, teacher.truth)
    else:
        rows = form.soft_term(log_probs, targets.log_probs(labels, tau))
    likely = teacher.likeliest if isinstance(teacher, SparseTargets) else teacher.argmax(-1)
    soft = weighted_sum(rows, targets.row_weight) * form.soft_scale
    same = student.detach().argmax(-1) == likely
    same = same if targets.known is None else same & targets.known
    terms.update(soft_loss=soft, agreement=same.sum().to(soft.dtype))
    terms["teacher_margin"] = weighted_sum(teacher_margin(student.detach(), targets, labels), row_weight)
    if targets.known is not None:
        terms["teacher_rows"] = targets.known.sum().to(soft.dtype)
    terms["loss"] = terms["loss"] + weights.soft * soft
    return terms


def weighted_sum(rows: Tensor, row_weight: Tensor | None) -> Tensor:
    """The sum over rows (n,), each times its weight; None for 1 everywhere."""
    return (rows if row_weight is None else rows * row_weight).sum()


def with_share(
    rows: Tensor, log_probs: Tensor, targets: Targets, labels: Tensor, log_prob: Tensor | None = None
) -> Tensor:
    """KL((1 - s) p + s onehot(c) || q) of each row from KL(p || q): the class is one more target, exact in nats.

        (1 - s) KL(p || q) - s log q_c + entropy of p less that of the mixture; the last two do not depend on q

    Args:
        rows: (n,) KL(p || q).
        log_probs: (n, P) log q, or (n, 1) of the class alone.
        targets: with the shares s and the classes c.
        labels: (n,).
        log_prob: (n,) log p_c.
    """
    if targets.share is None:
        return rows
    places = targets.places(labels)
    own = (log_probs if log_probs.shape[1] == 1 else log_probs.gather(1, places)).squeeze(1)
    share, prob = targets.share.to(rows.dtype), torch.zeros_like(rows) if log_prob is None else log_prob.exp()
    kept = 1.0 - share
    both = kept * prob + share
    constant = torch.xlogy(both, both) - kept * torch.xlogy(prob, prob) + torch.xlogy(kept * (1.0 - prob), kept)
    return kept * rows - share * own + constant


def teacher_margin(
    student: Tensor,
    targets: Targets,
    labels: Tensor,
    student_log_sum: Tensor | None = None,
    teacher_log_sum: Tensor | None = None,
) -> Tensor:
    """(n,) log p_T(label) - log p_S(label) at tau = 1: by how many nats the teacher is the better one.

    Args:
        student: (n, C) logits.
        targets: with the teacher's logits (n, P), or a few classes of them. Rows whose label is not among the P
            classes count as 0; see `SparseTargets.margin` for those whose probability is not known.
        labels: (n,).
        student_log_sum, teacher_log_sum: (n,) log-normalisers, where they are known.
    """
    teacher = targets.made()
    shared = teacher.shape[-1]
    places = labels.clamp(max=shared - 1).unsqueeze(1)
    log_sum = student.logsumexp(1) if student_log_sum is None else student_log_sum
    student_log_prob = _log_prob(student, places, log_sum)
    if targets.truth is not None:
        margin = targets.truth - student_log_prob
    elif isinstance(teacher, SparseTargets):
        margin = teacher.margin(student_log_prob, student.gather(1, teacher.ids) - log_sum.unsqueeze(1))
    else:
        margin = _log_prob(teacher, places, teacher_log_sum) - student_log_prob
    return torch.where(labels < shared if targets.known is None else targets.known, margin, 0.0)


def _log_prob(logits: Tensor, places: Tensor, log_sum: Tensor | None) -> Tensor:
    """(n,) log-probabilities of one class a row."""
    return logits.gather(1, places).squeeze(1) - (logits.logsumexp(1) if log_sum is None else log_sum)
