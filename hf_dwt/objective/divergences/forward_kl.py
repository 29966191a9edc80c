"""The Kullback-Leibler divergence of the student from the teacher, and its gradient in closed form."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...parts import paper
from ..sparse import SparseTargets
from ..targets import Targets
from ..terms import Form, Slope, Weights, teacher_margin, weighted_sum, with_share
from .record import Divergence


def forward_kl(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """KL(teacher || student) of each row: the soft term of arXiv 2305.18239, section 3.

    Args:
        student_log_probs: (n, P) log-probabilities of the student.
        teacher_log_probs: (n, P) log-probabilities of the teacher.

    Returns:
        (n,) divergences in nats.
    """
    return (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(dim=-1)


def forward_kl_slope(
    logits: Tensor,
    labels: Tensor,
    targets: Targets | None,
    weights: Weights,
    form: Form,
    row_weight: Tensor | None,
    wanted: bool,
) -> Slope:
    """The gradient of the forward KL in closed form: a difference of softmaxes, in few passes over the logits.

    With q the student's probabilities and p the teacher's, (m, C), d CE = q - label and d KL = (q_tau - p_tau) / tau.
    """
    places, epsilon = labels.unsqueeze(1), form.label_smoothing
    student = _softmax(logits, 1.0)
    hard = weighted_sum(student.log_sum - logits.gather(1, places).squeeze(1), row_weight)
    if epsilon:
        hard = (1.0 - epsilon) * hard + epsilon * weighted_sum(student.log_sum - logits.mean(1), row_weight)
    terms = {"hard_loss": hard, "loss": weights.hard * hard}
    factor: float | Tensor = weights.hard  # of the hard term, or (m, 1) of each row's
    if row_weight is not None:
        terms["hard_rows"] = row_weight.sum()
        factor = weights.hard * row_weight.to(logits.dtype).unsqueeze(1)
    if targets is None:
        slope = student.probs.mul_(factor) if wanted else None
    else:
        slope = _add_soft(terms, logits, labels, student, targets, weights, form, wanted, factor)
        terms["teacher_margin"] = weighted_sum(terms["teacher_margin"], row_weight)
    if slope is not None:
        if epsilon:
            slope.sub_(factor * epsilon / logits.shape[1])
        label = -factor * (1.0 - epsilon)
        label = label if isinstance(label, Tensor) else slope.new_full((), label)  # on the device: no wait for a copy
        slope.scatter_add_(1, places, label.expand_as(places))
    return terms, slope


def _add_soft(
    terms: dict[str, Tensor],
    logits: Tensor,
    labels: Tensor,
    student: "_Softmax",
    targets: Targets,
    weights: Weights,
    form: Form,
    wanted: bool,
    hard: float | Tensor,
) -> Tensor | None:
    """Add the soft term's sums; return the gradient of both terms but for the hard term's labels.

    "teacher_margin" is (m,). `hard` is the factor of the hard term, or (m, 1) of each row's.
    """
    teacher = targets.made()
    tau, shared = form.temperature, teacher.shape[1]
    same_softmax = tau == 1.0 and shared == logits.shape[1]
    softened = student if same_softmax else _softmax(logits[:, :shared], tau)
    if isinstance(teacher, SparseTargets):
        terms["teacher_margin"] = teacher_margin(logits, targets, labels, student.log_sum)
        return _add_sparse(terms, logits, labels, student, softened, targets, weights, form, wanted, hard)
    taught = _softmax(teacher, tau)
    difference = teacher - logits[:, :shared]
    rows = torch.linalg.vecdot(taught.probs, difference) / tau - taught.log_sum + softened.log_sum
    places = None if targets.share is None else targets.places(labels)
    if places is not None:
        own = logits.gather(1, places) / tau - softened.log_sum.unsqueeze(1)
        rows = with_share(rows, own, targets, labels, taught.probs.gather(1, places).squeeze(1).log())
    agreement = (student.likely == taught.likely).sum().to(rows.dtype)
    soft = weighted_sum(rows, targets.row_weight) * form.soft_scale
    terms.update(soft_loss=soft, agreement=agreement, loss=terms["loss"] + weights.soft * soft)
    sums = student.log_sum, taught.log_sum if tau == 1.0 else None
    terms["teacher_margin"] = teacher_margin(logits, targets, labels, *sums)
    if not wanted:
        return None
    factor = weights.soft * form.soft_scale / tau
    if targets.row_weight is None and same_softmax and places is None:
        return student.probs.mul_(hard + factor).sub_(taught.probs, alpha=factor)
    per_row = factor if targets.row_weight is None else (factor * targets.row_weight.to(logits.dtype)).unsqueeze(1)
    gap = _gap(softened.probs, taught.probs, targets.share, places, difference).mul_(per_row)
    slope = student.probs.mul_(hard)
    slope[:, :shared].add_(gap)
    return slope


def _gap(student: Tensor, teacher: Tensor, share: Tensor | None, places: Tensor | None, out: Tensor) -> Tensor:
    """(m, P) the student's probabilities less those of the target distribution."""
    if share is None or places is None:
        return torch.sub(student, teacher, out=out)
    share = share.to(student.dtype).unsqueeze(1)
    return torch.sub(student, teacher.mul_(1.0 - share), out=out).scatter_add_(1, places, -share)


def _add_sparse(
    terms: dict[str, Tensor],
    logits: Tensor,
    labels: Tensor,
    student: "_Softmax",
    softened: "_Softmax",
    targets: Targets,
    weights: Weights,
    form: Form,
    wanted: bool,
    hard: float | Tensor,
) -> Tensor | None:
    """As `_add_soft`, from a few classes of the teacher's distribution."""
    teacher, tau = targets.made(), form.temperature
    assert isinstance(teacher, SparseTargets)
    known = logits.gather(1, teacher.ids) / tau - softened.log_sum.unsqueeze(1)
    weight = known.new_ones(len(known)) if targets.row_weight is None else targets.row_weight.to(known.dtype)
    rows, places = teacher.kl(known), None if targets.share is None else targets.places(labels)
    if places is not None:
        own = logits.gather(1, places) / tau - softened.log_sum.unsqueeze(1)
        rows = with_share(rows, own, targets, labels, teacher.truth)
    soft = (rows * weight).sum() * form.soft_scale
    agreement = (student.likely == teacher.likeliest).sum().to(soft.dtype)
    terms.update(soft_loss=soft, agreement=agreement, loss=terms["loss"] + weights.soft * soft)
    if not wanted:
        return None
    factor = (weights.soft * form.soft_scale / tau * weight).unsqueeze(1)
    of_probs, at_ids = teacher.slope(known)
    share = None if targets.share is None else targets.share.to(known.dtype).unsqueeze(1)
    if share is not None:
        of_probs, at_ids = (1.0 - share) * of_probs + share, (1.0 - share) * at_ids
    if student is softened:
        slope = student.probs.mul_(hard + factor * of_probs)
    else:
        slope = student.probs.mul_(hard)
        slope[:, : teacher.classes].addcmul_(softened.probs, factor * of_probs)
    if share is not None and places is not None:
        slope.scatter_add_(1, places, -factor * share)
    return slope.scatter_add_(1, teacher.ids, factor * at_ids)


class _Softmax(NamedTuple):
    """Of logits (m, C) over tau: probabilities (m, C), their log-normaliser (m,), and the most likely class (m,)."""

    probs: Tensor
    log_sum: Tensor
    likely: Tensor


def _softmax(logits: Tensor, tau: float) -> _Softmax:
    peak, likely = logits.max(1)
    probs = torch.softmax(logits if tau == 1.0 else logits / tau, 1)
    # The most likely class has a probability of 1 / C or more, so its logarithm is safe.
    return _Softmax(probs, peak / tau - probs.gather(1, likely.unsqueeze(1)).squeeze(1).log(), likely)


FORWARD_KL = Divergence(
    name="forward_kl",
    title="KL(teacher || student)",
    function=forward_kl,
    promise="gradient in closed form; can be computed from a few classes of the teacher's",
    references=(paper("the divergence"),),
    chunk_loss=forward_kl_slope,
)
