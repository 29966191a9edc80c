"""Divergences between teacher and student, row by row."""

from torch import Tensor


def forward_kl(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """KL(teacher || student) of each row: the soft term of arXiv 2305.18239, section 3.

    Args:
        student_log_probs: (n, P) log-probabilities of the student.
        teacher_log_probs: (n, P) log-probabilities of the teacher.

    Returns:
        (n,) divergences in nats.
    """
    return (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(dim=-1)


def clear_of_rounding(divergence: float) -> float:
    """A mean divergence for the log: one that rounding alone has put below 0 is 0. A sampled one may be below it."""
    return 0.0 if -1e-6 < divergence < 0.0 else divergence
