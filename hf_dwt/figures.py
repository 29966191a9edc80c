"""What an evaluation counts on the rows of each example, on tensors alone."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .objective import SoftTerm, Targets, at_least_fp32
from .rows import Rows


def example_figures(
    student_logits: Tensor,
    rows: Rows,
    examples: int,
    targets: Targets | None,
    soft_term: SoftTerm,
    temperature: float,
) -> dict[str, Tensor]:
    """Figures of each example, summed over its rows.

    Args:
        student_logits: (n, C).
        rows: the n rows.
        examples: B, the number of examples in the batch.
        targets: of the teacher, or None.
        soft_term, temperature: of the soft term.

    Returns:
        (B,) each: "rows", "nll" and "right"; with a teacher also "soft", "agrees" and "teacher_nll".
    """
    student = at_least_fp32(student_logits)
    likely = student.argmax(-1)
    figures = {
        "rows": torch.ones_like(rows.labels, dtype=student.dtype),
        "nll": F.cross_entropy(student, rows.labels, reduction="none"),
        "right": likely == rows.labels,
    }
    if targets is not None:
        teacher = at_least_fp32(targets.logits)
        shared = F.log_softmax(student[:, : teacher.shape[-1]] / temperature, dim=-1)
        figures["soft"] = soft_term(shared, F.log_softmax(teacher / temperature, dim=-1))
        figures["agrees"] = likely == teacher.argmax(-1)
        figures["teacher_nll"] = F.cross_entropy(teacher, rows.labels, reduction="none")
    empty = student.new_zeros(examples)
    return {name: empty.index_add(0, rows.examples, value.to(student.dtype)) for name, value in figures.items()}
