"""What is minimised: functions of tensors over rows; no model, no Trainer.

Shapes: n rows (positions that carry a label), C classes of the student (its vocabulary, for a language model),
P <= C classes that student and teacher share. All losses are in nats and in fp32 (fp64 stays fp64).
"""

import torch
from torch import Tensor

from ..errors import ArgumentError, first_line, unknown_name
from .chunked import SLOPES, chunked_terms, chunks, traced_slope
from .divergences import clear_of_rounding, forward_kl
from .logits import LinearLogits, Logits, at_least_fp32, cast
from .sparse import Sampled, SparseTargets, TopK
from .terms import Form, SoftTerm, Targets, Weights, tensor_terms

SOFT_TERMS: dict[str, SoftTerm] = {"forward_kl": forward_kl}


def get_soft_term(soft_term: str | SoftTerm) -> SoftTerm:
    """The divergence of that name, or the callable itself.

    Raises:
        ArgumentError: there is no such divergence.
    """
    if callable(soft_term):
        return soft_term
    if not isinstance(soft_term, str) or soft_term not in SOFT_TERMS:
        otherwise = "a function of two (rows, classes) log-probabilities"
        raise unknown_name("soft_term", soft_term, SOFT_TERMS, otherwise)
    return SOFT_TERMS[soft_term]


def require_divergence(soft_term: SoftTerm, classes: int = 5, device: torch.device | str = "cpu") -> None:
    """Raise an ArgumentError unless two (3, `classes`) log-probabilities give (3,) finite numbers with a gradient."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 3, classes, generator=generator).log_softmax(-1).to(device)
    cause = None
    try:
        with torch.enable_grad():
            rows: object = soft_term(drawn[0].requires_grad_(), drawn[1])
    except Exception as error:
        cause, problem = error, f"raised {type(error).__name__}: {first_line(error)}"
    else:
        if not isinstance(rows, Tensor) or rows.shape != (3,):
            shape = (
                f"a tensor of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else f"a {type(rows).__name__}"
            )
            problem = f"returned {shape}"
        elif not torch.isfinite(rows).all():
            problem = f"returned {rows.tolist()}"
        elif not rows.requires_grad:
            problem = "returned numbers without a gradient"
        else:
            return
    fix = "Give a function of student and teacher log-probabilities (n, P) to (n,): a sum over the classes alone."
    raise ArgumentError("soft_term", soft_term, f"{problem} for 3 rows of {classes} classes.", fix) from cause


def distillation_terms(
    student: Logits,
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
        student: (n, C) logits. Of `LinearLogits`, those of one chunk of rows exist at a time, and their gradients are
            formed at once: "loss" alone then has a gradient, and for one backward pass.
        labels: (n,) class indices; every row counts.
        targets: the teacher's, or None where no teacher speaks. Rows whose label is none of its P classes have no soft
            term.
        weights: of the two terms in "loss".
        hard: the hard term's sum where it is computed elsewhere; by default the cross-entropy of the labels.
        soft_term: from student and teacher log-probabilities (n, P) to a divergence per row (n,).
        temperature: tau, dividing both logits in the soft term.
        tau_squared: multiply the soft term by tau^2.
        label_smoothing: epsilon of the hard term, spread evenly over the C classes.

    Returns:
        Scalar sums: "loss" (the weighted sum, with gradient) and "hard_loss"; with a teacher also "soft_loss" and
        "agreement" (rows on which both models' most likely class is the same) and "teacher_margin" (by how many nats
        the teacher's hard term is the lower one, without label smoothing). n = 0 gives zeros with a gradient.
    """
    targets = None if targets is None else targets.for_labels(labels, student.shape[-1])
    form = Form(soft_term, temperature, tau_squared, label_smoothing)
    if isinstance(student, LinearLogits) and hard is None:
        return chunked_terms(student, labels, targets, weights, form, SLOPES.get(soft_term, traced_slope))
    return tensor_terms(student[:], labels, targets, weights, form, hard)


__all__ = [
    "SOFT_TERMS",
    "LinearLogits",
    "Logits",
    "Sampled",
    "SoftTerm",
    "SparseTargets",
    "Targets",
    "TopK",
    "Weights",
    "at_least_fp32",
    "cast",
    "chunks",
    "clear_of_rounding",
    "distillation_terms",
    "get_soft_term",
    "require_divergence",
]
