"""Label revision: wherever the teacher is wrong, the truth gets enough weight to be its most likely class."""

import torch
from torch import Tensor

from ...kinds import Bounds
from ...parts import Reference
from ..sparse import SparseTargets, TopK
from ..targets import Made, Targets
from .record import MOST_LIKELY, CorrectionPart


def revise(student: Tensor, teacher: Made, labels: Tensor, progress: float, *, eta: float = 0.8) -> Targets:
    """On rows whose most likely class is not the label, b p + (1 - b) onehot(label) with b = eta / (p_max - p_y + 1).

    The formula is label revision's (Lan et al., arXiv 2404.03693); there it is one of squared errors of
    probabilities, here the target of the divergence. At tau >= 1 the label becomes the most likely class, as
    b (p_max - p_y + 1) = eta < 1. Right rows stay as they are, and no dense target is formed.

    Args:
        student: not read.
        teacher: (m, P) logits, or its most likely classes.
        labels: (m,).
        progress: not read.
        eta: b on a row that is all but right; at 1 the label is as likely as the class that was the most likely one.
    """
    most, truth, wrong = _likely(teacher, labels)
    kept = eta / (most - truth + 1.0)
    return Targets(teacher, share=torch.where(wrong, 1.0 - kept, 0.0))


def _likely(teacher: Made, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(m,) the probability of the most likely class, that of the label, and whether they are two classes."""
    if isinstance(teacher, TopK):
        return teacher.log_probs[:, 0].exp(), teacher.truth.exp(), teacher.likeliest != labels
    assert not isinstance(teacher, SparseTargets)  # `reads` of the record
    log_sum = teacher.logsumexp(1)
    most, likely = teacher.max(1)
    truth = teacher.gather(1, labels.clamp(max=teacher.shape[1] - 1).unsqueeze(1)).squeeze(1)
    return (most - log_sum).exp(), (truth - log_sum).exp(), likely != labels


REVISE = CorrectionPart(
    name="revise",
    title="wrong rows are mixed with the truth until it is the most likely class",
    function=revise,
    promise="two numbers a row; rows on which the teacher is right stay as they are",
    references=(Reference("the revision of the teacher's wrong predictions", "Label Revision", "2404.03693"),),
    bounds={"eta": Bounds(0, 1, above=True)},
    reads=MOST_LIKELY,
)
