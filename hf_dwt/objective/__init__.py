"""What is minimised: functions of tensors over rows; no model, no Trainer.

Shapes: n rows (positions that carry a label), C classes of the student (its vocabulary, for a language model),
P <= C classes that student and teacher share. All losses are in nats and in fp32 (fp64 stays fp64).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import unknown_name
from .divergences import forward_kl

SoftTerm = Callable[[Tensor, Tensor], Tensor]

SOFT_TERMS: dict[str, SoftTerm] = {"forward_kl": forward_kl}


class Weights(NamedTuple):
    """The weights at one step: alpha_h and alpha_s of the paper, after the schedule."""

    hard: float
    soft: float


class Targets(NamedTuple):
    """What a teacher says for the rows of a batch, after corrections.

    logits: (n, P), the first P classes being the student's first P classes.
    row_weight: (n,) factor of each row's soft term, or None for 1 everywhere.
    """

    logits: Tensor
    row_weight: Tensor | None = None


def get_soft_term(soft_term: str | SoftTerm) -> SoftTerm:
    """The divergence of that name, or the callable itself.

    Raises:
        ArgumentError: there is no such divergence.
    """
    if callable(soft_term):
        return soft_term
    if soft_term not in SOFT_TERMS:
        otherwise = "a function of two (rows, classes) log-probabilities"
        raise unknown_name("soft_term", soft_term, SOFT_TERMS, otherwise)
    return SOFT_TERMS[soft_term]


def distillation_terms(
    student_logits: Tensor,
    labels: Tensor,
    targets: Targets | None,
    weights: Weights,
    *,
    hard: Tensor | None = None,
    soft_term: SoftTerm = forward_kl,
    temperature: float = 1.0,
    tau_squared: bool = False,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Named sums over the rows (Lee et al., 2023, arXiv 2305.18239, section 3: L = alpha_h H + alpha_s S).

    Args:
        student_logits: (n, C).
        labels: (n,) class indices; every row counts.
        targets: the teacher's, or None where no teacher speaks.
        weights: of the two terms in "loss".
        hard: the hard term's sum where it is computed elsewhere; by default the cross-entropy of the labels.
        soft_term: from student and teacher log-probabilities (n, P) to a divergence per row (n,).
        temperature: tau, dividing both logits in the soft term.
        tau_squared: multiply the soft term by tau^2.
        label_smoothing: epsilon of the hard term, spread evenly over the C classes.

    Returns:
        Scalar sums: "loss" (the weighted sum, with gradient) and "hard_loss"; with a teacher also "soft_loss" and
        "agreement" (rows on which both models' most likely class is the same). n = 0 gives zeros with a gradient.
    """
    student_logits = at_least_fp32(student_logits)
    log_probs = F.log_softmax(student_logits, dim=-1)
    if hard is None:
        hard = -log_probs.gather(-1, labels.unsqueeze(-1)).sum()
        if label_smoothing:
            hard = (1.0 - label_smoothing) * hard - label_smoothing * log_probs.mean(dim=-1).sum()
    terms = {"hard_loss": hard, "loss": weights.hard * hard}
    if targets is None:
        return terms
    teacher_logits = at_least_fp32(targets.logits)
    shared = teacher_logits.shape[-1]
    if temperature != 1.0 or shared != student_logits.shape[-1]:
        log_probs = F.log_softmax(student_logits[:, :shared] / temperature, dim=-1)
    rows = soft_term(log_probs, F.log_softmax(teacher_logits / temperature, dim=-1))
    if targets.row_weight is not None:
        rows = rows * targets.row_weight
    soft = rows.sum() * (temperature**2 if tau_squared else 1.0)
    same = student_logits.detach().argmax(-1) == teacher_logits.argmax(-1)
    terms.update(soft_loss=soft, agreement=same.sum().to(soft.dtype))
    terms["loss"] = terms["loss"] + weights.soft * soft
    return terms


def at_least_fp32(logits: Tensor) -> Tensor:
    """Half-precision logits as fp32: a sum over a vocabulary in bf16 can turn a divergence negative."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


__all__: list[Any] = ["SOFT_TERMS", "SoftTerm", "Targets", "Weights", "distillation_terms", "get_soft_term"]
