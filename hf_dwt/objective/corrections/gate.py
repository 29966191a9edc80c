"""Each row's soft term by how much nearer to the truth the teacher is than the student."""

import torch
from torch import Tensor

from ...kinds import Bounds
from ...parts import OWN, Reference
from ..targets import Made, Targets
from ..terms import teacher_margin
from .record import TRUTH, CorrectionPart


def gate(student: Tensor, teacher: Made, labels: Tensor, progress: float, *, scale: float = 1.0) -> Targets:
    """Each row's soft term times sigmoid((CE_student - CE_teacher) / scale).

    The adaptive weights that arXiv 2010.05445 gives to several teachers, with the student as the second of them.

    Args:
        student: (m, C) logits.
        teacher: (m, P) logits, or a few classes of them.
        labels: (m,). A row whose label the teacher does not know has no soft term anyway.
        progress: not read.
        scale: in nats; a larger one makes the weights more equal.
    """
    margin = teacher_margin(student, Targets(teacher), labels)
    return Targets(teacher, row_weight=torch.sigmoid(margin / scale))


GATE = CorrectionPart(
    name="gate",
    title="each row by sigmoid(CE_student - CE_teacher)",
    function=gate,
    promise="a factor from 0 to 1 a row, 1/2 where both are as near to the truth",
    references=(
        Reference("weights by cross-entropy", "Collective Wisdom", "2010.05445"),
        Reference("the student as one of the weighted models", OWN),
    ),
    bounds={"scale": Bounds(above=True)},
    reads=TRUTH,
)
