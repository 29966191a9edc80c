"""What else could make a weak teacher harmless, beside fading it: corrections of what it says, row by row.

A correction is a function from the student's and the teacher's logits (n, C), the labels (n,) and the progress of
training (0 to 1) to the teacher's corrected targets. None of them has a gradient.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_dwt import DistillationTrainer
from hf_dwt.objective import Targets


def gate(student: Tensor, teacher: Tensor, labels: Tensor, progress: float) -> Targets:
    """Each row's soft term by sigmoid(CE_student - CE_teacher): much where the teacher is nearer to the truth.

    Adaptive KD's weighting of several teachers (arXiv 2010.05445), with the student as the second of them.
    """
    lead = F.cross_entropy(student, labels, reduction="none") - F.cross_entropy(teacher, labels, reduction="none")
    return Targets(teacher, torch.sigmoid(lead))


def revision(student: Tensor, teacher: Tensor, labels: Tensor, progress: float, eta: float = 0.9) -> Targets:
    """Where the teacher's most likely class is wrong, its distribution is mixed with the truth until that wins.

    b p_T + (1 - b) onehot(y) with b = eta / (p_max - p_y + 1) (Label Revision, arXiv 2404.03693).
    """
    probs = teacher.softmax(-1)
    most, likely = probs.max(-1)
    truth = probs.gather(1, labels.unsqueeze(1)).squeeze(1)
    keep = torch.where(likely == labels, 1.0, eta / (most - truth + 1.0)).unsqueeze(1)
    return Targets((keep * probs + (1.0 - keep) * F.one_hot(labels, probs.shape[-1])).clamp(min=1e-30).log())


def confidence(student: Tensor, teacher: Tensor, labels: Tensor, progress: float) -> Targets:
    """The teacher's distribution mixed with the student's own most likely class, whose share rises to one half.

    Weak-to-strong generalisation (Burns et al., 2023): c rises over the first fifth of training.
    """
    share = 0.5 * min(1.0, progress / 0.2)
    own = F.one_hot(student.argmax(-1), teacher.shape[-1])
    return Targets(((1.0 - share) * teacher.softmax(-1) + share * own).clamp(min=1e-30).log())


Correction = Callable[[Tensor, Tensor, Tensor, float], Targets]
CANDIDATES: dict[str, Correction] = {"gate": gate, "revision": revision, "confidence": confidence}


class CorrectingTrainer(DistillationTrainer):
    """A trainer whose teacher is corrected before the student hears it."""

    correction: Correction

    def _terms(self, logits: Any, rows: Any, targets: Targets | None, *rest: Any) -> dict[str, Tensor]:
        logits = logits[:]
        if targets is not None:
            progress = self.state.global_step / max(1, self.state.max_steps)
            with torch.no_grad():
                said: Any = targets.part(slice(None)).logits
                targets = type(self).correction(logits.float(), said, rows.labels, progress)
        return super()._terms(logits, rows, targets, *rest)


def trainer_of(voice: str) -> type[DistillationTrainer]:
    """The trainer of a cell: with a correction, if its voice names one."""
    if voice not in CANDIDATES:
        return DistillationTrainer
    return type(f"{voice.title()}Trainer", (CorrectingTrainer,), {"correction": staticmethod(CANDIDATES[voice])})
