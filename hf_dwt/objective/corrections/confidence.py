"""The student's own most likely class, mixed into what the teacher predicts."""

import torch
from torch import Tensor

from ...kinds import Bounds
from ...parts import Reference
from ..targets import Made, Targets
from .record import ALL, CorrectionPart


def confidence(
    student: Tensor, teacher: Made, labels: Tensor, progress: float, *, share: float = 0.5, warmup: float = 0.2
) -> Targets:
    """(1 - s) p + s onehot(the student's most likely class), s rising to `share` over the first part of training.

    The auxiliary confidence loss of weak-to-strong generalisation (Burns et al., arXiv 2312.09390, section 4.3.2,
    without its threshold for classes). Labels are not read.

    Args:
        student: (m, C) logits.
        teacher: (m, P) logits.
        labels: not read.
        progress: of training.
        share: s in the end.
        warmup: the share of training over which s rises from 0.
    """
    now = share * min(1.0, progress / warmup)
    shared = student[:, : teacher.shape[-1]]  # one of the teacher's classes
    return Targets(teacher, share=torch.full_like(student[:, 0], now), towards=shared.argmax(-1))


CONFIDENCE = CorrectionPart(
    name="confidence",
    title="mixed with the student's own most likely class",
    function=confidence,
    promise="the share of that class rises from 0 over the first part of training",
    references=(Reference("the auxiliary confidence loss", "Weak-to-strong generalization", "2312.09390"),),
    bounds={"share": Bounds(0, 1), "warmup": Bounds(0, 1, above=True)},
    reads=ALL,
)
