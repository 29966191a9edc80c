"""What else a weak teacher can be used for, beside fading it: corrections of it, and terms on hidden states."""

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
    # The weights of the papers; the strong ones are in the order of late_to_early's, for a squared distance of
    # normalised features is 2 (1 - cosine) / width.
    "late_to_early": {"hidden_term": "late_to_early", "hidden_weight_schedule": "knowledge_inheritance"},
    "features": {"hidden_term": "masked_features"},
    "strong_features": {"hidden_term": "masked_features", "hidden_weight": 10.0},
    "self_features": {"hidden_term": "self_features"},
    "strong_self_features": {"hidden_term": "self_features", "hidden_weight": 0.1},
    "random_features": {"hidden_term": "masked_features", "hidden_weight": 10.0},
}
