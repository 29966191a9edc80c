"""What else could make a weak teacher harmless, beside fading it: corrections of what it predicts, row by row."""

from typing import Any

import torch
from torch import Tensor

from hf_dwt.objective import Targets
from hf_dwt.objective.corrections.revise import revise


def shifted(student: Tensor, teacher: Any, labels: Tensor, progress: float) -> Targets:
    """The control of label revision: its mean share of the truth on every row, whether the teacher is right or wrong.

    The weight of the truth and of the teacher are those of `revise`; which rows have it is not.
    """
    targets = revise(student, teacher, labels, progress)
    assert targets.share is not None
    return targets._replace(share=torch.full_like(targets.share, targets.share.mean().item()))


# voice of a cell -> arguments of its run
CANDIDATES: dict[str, dict[str, Any]] = {
    "gate": {"teacher_correction": "gate"},
    "revision": {"teacher_correction": "revise", "teacher_correction_kwargs": {"eta": 0.9}},
    "confidence": {"teacher_correction": "confidence"},
    "revise": {"teacher_correction": "revise"},
    "refine": {"teacher_correction": "refine"},
    "shifted": {"teacher_correction": shifted},
}
