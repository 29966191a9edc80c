"""What is minimised: functions of tensors over rows; no model, no Trainer.

Shapes: n rows (positions that carry a label), C classes of the student (its vocabulary, for a language model),
P <= C classes that student and teacher share. All losses are in nats and in fp32 (fp64 stays fp64).
Rows of a regression are numbers, C = P = 1; see `numbers`.
"""

from torch import Tensor

from .chunked import chunked_terms, traced_slope
from .divergences import SOFT_TERMS
from .divergences.forward_kl import FORWARD_KL
from .divergences.record import Divergence
from .logits import LinearLogits, Logits, at_least_fp32
from .numbers import number_terms
from .targets import Targets
from .terms import Form, SoftTerm, Weights, tensor_terms

__all__ = ["SOFT_TERMS", "Targets", "Weights", "distillation_terms"]


def distillation_terms(
    student: Logits,
    labels: Tensor,
    targets: Targets | None,
    weights: Weights,
    *,
    hard: Tensor | None = None,
    soft_term: SoftTerm = FORWARD_KL,
    temperature: float = 1.0,
    tau_squared: bool = False,
    label_smoothing: float = 0.0,
    progress: float = 0.0,
    row_weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """Named sums over the rows (Lee et al., 2023, arXiv 2305.18239, section 3: L = alpha_h H + alpha_s S).

    Args:
        student: (n, C) logits. Of `LinearLogits`, those of one chunk of rows exist at a time, and their gradients are
            formed at once: "loss" alone then has a gradient, and for one backward pass.
        labels: (n,) class indices, or of a floating type the numbers that logits (n, 1) predict; every row counts.
        targets: the teacher's, or None without a teacher. Rows whose label is none of its P classes have no soft
            term.
        weights: of the two terms in "loss".
        hard: the hard term's sum where it is computed elsewhere; by default the cross-entropy of the labels.
        soft_term: from student and teacher log-probabilities (n, P) to a divergence per row (n,).
        temperature: tau, dividing both logits in the soft term.
        tau_squared: multiply the soft term by tau^2.
        label_smoothing: epsilon of the hard term, spread evenly over the C classes.
        progress: of training, from 0 to 1, which corrections of the teacher may read.
        row_weight: (n,) factor of each row's hard term, at least 0; None for 1 everywhere. At 0 the label counts for
            nothing, though it is a class. Not with `hard`. That of the soft term is `Targets.row_weight`.

    Returns:
        Scalar sums: "loss" (the weighted sum, with gradient) and "hard_loss"; with a teacher also "soft_loss" and
        "agreement" (rows on which both models' most likely class is the same) and "teacher_margin" (by how many nats
        the teacher's hard term is the lower one, without label smoothing), and where `targets` tell which rows the
        teacher has anything for, "teacher_rows", their number; with `row_weight`, by which "hard_loss" and
        "teacher_margin" are weighted, "hard_rows", its sum. n = 0 gives zeros with a gradient.
    """
    targets = None if targets is None else targets.for_labels(labels, student.shape[-1])
    form = Form(soft_term, temperature, tau_squared, label_smoothing, progress)
    if isinstance(student, LinearLogits) and hard is None:
        known = soft_term.chunk_loss if isinstance(soft_term, Divergence) else None
        return chunked_terms(student, labels, targets, weights, form, known or traced_slope, row_weight)
    logits = student[:]
    if targets is not None:
        own = at_least_fp32(logits.detach())
        targets = targets.part(slice(None)).resolved(own, labels, temperature, progress)
    if labels.is_floating_point():
        return number_terms(logits, labels, targets, weights, row_weight, hard)
    return tensor_terms(logits, labels, targets, weights, form, row_weight, hard)
