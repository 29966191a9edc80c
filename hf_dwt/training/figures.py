"""What an evaluation counts on the rows of each example, on tensors alone."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..forward.rows import Rows
from ..objective import Targets
from ..objective.chunked import chunks
from ..objective.logits import Logits, at_least_fp32, cast
from ..objective.numbers import squared_errors
from ..objective.sparse import SparseTargets
from ..objective.targets import members
from ..objective.terms import SoftTerm, with_share
from ..tasks import IGNORED


def example_figures(
    student_logits: Logits,
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
        (B,) each: "rows", "nll" and "right"; with a teacher also "soft", "agrees", "teacher_nll" and "teacher_right",
        of which rows that are numbers have "rows", "nll", "soft" and "teacher_nll", squared errors;
        and "teacher_rows" where there may be rows whose label is none of its classes; where a few of its classes are
        known, "teacher_entries" and, of these, "teacher_unknown", rows whose label is none of the few; of each
        teacher that is mixed also "teacher_nll_<name>" and "teacher_weight_<name>".
    """
    if targets is not None:
        targets = targets.for_labels(rows.labels, student_logits.shape[-1]).uncorrected().cast()
    student_logits = cast(student_logits)
    parts = [
        _row_figures(
            at_least_fp32(student_logits[part]),
            rows.labels[part],
            None if targets is None else targets.part(part),
            soft_term,
            temperature,
        )
        for part in chunks(student_logits)
    ]
    figures = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    wide = torch.float32 if figures["nll"].device.type == "mps" else torch.float64  # which MPS does not have
    empty = figures["nll"].new_zeros(examples, dtype=wide)
    return {name: empty.index_add(0, rows.examples, value.to(empty.dtype)) for name, value in figures.items()}


def _row_figures(
    student: Tensor, labels: Tensor, targets: Targets | None, soft_term: SoftTerm, temperature: float
) -> dict[str, Tensor]:
    """(m,) each, of m rows."""
    if labels.is_floating_point():
        return _number_figures(student, labels, targets)
    likely = student.argmax(-1)
    figures = {
        "rows": torch.ones_like(labels),
        "nll": F.cross_entropy(student, labels, reduction="none"),
        "right": likely == labels,
    }
    if targets is not None:
        known = labels < targets.logits.shape[-1]
        places = labels.masked_fill(~known, IGNORED)
        for name, part, weights in members(targets):
            logits = part.made()
            assert isinstance(logits, Tensor)
            figures[f"teacher_nll_{name}"] = F.cross_entropy(logits, places, reduction="none")
            figures[f"teacher_weight_{name}"] = weights
        targets = targets.resolved(student, labels, temperature, 1.0)
        figures["soft"] = _soft(student, labels, targets, soft_term, temperature)
        figures |= _of_teacher(student, labels, targets)
        figures["agrees"] = likely == figures.pop("teacher_likely")
    return figures


def _number_figures(student: Tensor, labels: Tensor, targets: Targets | None) -> dict[str, Tensor]:
    """As `_row_figures`, of m rows that are numbers."""
    figures = {"rows": torch.ones_like(labels), "nll": squared_errors(student, labels)}
    if targets is not None:
        teacher = targets.made()
        assert isinstance(teacher, Tensor)
        soft = squared_errors(student, teacher)
        figures["soft"] = soft if targets.row_weight is None else soft * targets.row_weight
        figures["teacher_nll"] = squared_errors(teacher, labels)
    return figures


def _soft(student: Tensor, labels: Tensor, targets: Targets, soft_term: SoftTerm, temperature: float) -> Tensor:
    """(m,) the soft term of m rows."""
    teacher = targets.made()
    shared = F.log_softmax(student[:, : teacher.shape[-1]] / temperature, dim=-1)
    if isinstance(teacher, SparseTargets):
        rows = teacher.kl(shared.gather(1, teacher.ids))
        rows = with_share(rows, shared, targets, labels, teacher.truth)
    elif targets.divergence is not None:
        rows = targets.divergence(student, teacher, labels, temperature)
    else:
        rows = soft_term(shared, targets.log_probs(labels, temperature))
    return rows if targets.row_weight is None else rows * targets.row_weight


def _of_teacher(student: Tensor, labels: Tensor, targets: Targets) -> dict[str, Tensor]:
    """(m,) the most likely class of the teacher, and how near to the truth it is."""
    teacher = targets.made()
    if isinstance(teacher, SparseTargets):
        likely, unknown = teacher.likeliest, teacher.truth.isneginf()
        nll = -teacher.truth.masked_fill(unknown, 0.0)
        taught = likely >= 0
        counts = {"teacher_entries": taught, "teacher_unknown": unknown & taught}
    else:
        likely = teacher.argmax(-1)
        known = labels < teacher.shape[-1]
        if targets.known is not None:
            known = targets.known
            likely = likely.masked_fill(~known, IGNORED)
        places = labels.masked_fill(~known, IGNORED)
        nll = F.cross_entropy(teacher, places, reduction="none") if targets.truth is None else -targets.truth
        nll = nll.masked_fill(~known, 0.0)
        counts = {"teacher_rows": known} if targets.known is not None or teacher.shape[-1] < student.shape[-1] else {}
    return {"teacher_likely": likely, "teacher_right": likely == labels, "teacher_nll": nll, **counts}
