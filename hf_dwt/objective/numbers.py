"""The objective over rows that are numbers: squared errors in place of cross-entropy and divergence.

A prediction z stands for a normal distribution around it with a variance of 1/2. Up to a constant its negative
log-likelihood of a label y is (z - y)^2, and the forward KL from that of a teacher which predicts t is (z - t)^2: both
terms are what they are for classes. Reading the mean squared error so is ours.
"""

from torch import Tensor

from .logits import at_least_fp32
from .targets import Targets
from .terms import Weights, weighted_sum


def number_terms(
    student: Tensor,
    labels: Tensor,
    targets: Targets | None,
    weights: Weights,
    row_weight: Tensor | None = None,
    hard: Tensor | None = None,
) -> dict[str, Tensor]:
    """As `distillation_terms`, of predictions (n, 1) and labels (n,); without "agreement", which classes have.

    The terms are in the square of the labels' unit, and so is "teacher_margin".
    """
    student = at_least_fp32(student)
    errors = squared_errors(student, labels)
    if hard is None:
        hard = weighted_sum(errors, row_weight)
    terms = {"hard_loss": hard, "loss": weights.hard * hard}
    if row_weight is not None:
        terms["hard_rows"] = row_weight.sum()
    if targets is None:
        return terms
    teacher = targets.made()
    assert isinstance(teacher, Tensor)
    terms["soft_loss"] = weighted_sum(squared_errors(student, teacher), targets.row_weight)
    terms["teacher_margin"] = weighted_sum(errors.detach() - squared_errors(teacher, labels), row_weight)
    terms["loss"] = terms["loss"] + weights.soft * terms["soft_loss"]
    return terms


def squared_errors(predictions: Tensor, numbers: Tensor) -> Tensor:
    """(n,) squared differences of predictions (n, 1) from numbers (n,) or (n, 1)."""
    ahead = predictions.view(-1) - numbers.to(predictions.dtype).view(-1)
    return ahead * ahead
