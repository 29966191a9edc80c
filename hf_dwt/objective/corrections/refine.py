"""Refined logits: the teacher's confidence for the truth, and its order of the classes below the truth."""

import torch
from torch import Tensor

from ...kinds import Bounds
from ...parts import Reference
from ..targets import Made, Targets
from .record import ALL, CorrectionPart


def refine(
    student: Tensor, teacher: Made, labels: Tensor, progress: float, *, alpha: float = 1.0, beta: float = 4.0
) -> Targets:
    """RLD (Sun et al., arXiv 2408.07703): two divergences that no wrong prediction of the teacher can turn around.

        alpha KL((p_max, 1 - p_max) || (q_y, 1 - q_y)) + beta KL(p restricted || q restricted)

    The restriction is to the classes that the teacher ranks strictly below the label. It takes the place of the soft
    term of the run, at its temperature.

    Args:
        student: not read here.
        teacher: (m, P) logits.
        labels: (m,).
        progress: not read.
        alpha: weight of the first term.
        beta: weight of the second.
    """

    def divergence(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
        own, theirs = student[:, : teacher.shape[1]] / temperature, teacher / temperature
        return alpha * sample_confidence(own, theirs, labels) + beta * below_truth(own, theirs, labels)

    return Targets(teacher, divergence=divergence)


def sample_confidence(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """(m,) KL between (p_max, the rest) of the teacher and (q_y, the rest) of the student; logits (m, P) at tau."""
    log_q = torch.log_softmax(student, 1)
    places = labels.clamp(max=student.shape[1] - 1).unsqueeze(1)
    truth, others = log_q.gather(1, places).squeeze(1), log_q.scatter(1, places, -torch.inf).logsumexp(1)
    log_p = torch.log_softmax(teacher, 1)
    most, likely = log_p.max(1, keepdim=True)
    rest = log_p.scatter(1, likely, -torch.inf).logsumexp(1)
    most = most.squeeze(1)
    return most.exp() * (most - truth) + rest.exp() * (rest - others)


def below_truth(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """(m,) KL over the classes that the teacher has strictly below the label; 0 where there are none."""
    places = labels.clamp(max=teacher.shape[1] - 1).unsqueeze(1)
    above = teacher >= teacher.gather(1, places)
    lowest = torch.finfo(teacher.dtype).min / 4
    log_p = torch.log_softmax(teacher.masked_fill(above, lowest), 1)
    log_q = torch.log_softmax(student.masked_fill(above, lowest), 1)
    return torch.where(above.all(1), 0.0, (log_p.exp() * (log_p - log_q)).masked_fill(above, 0.0).sum(1))


REFINE = CorrectionPart(
    name="refine",
    title="RLD: the teacher's confidence for the truth, and its order of the classes below it",
    function=refine,
    promise="the label's own share is never lowered in favour of a wrong class",
    references=(Reference("refined logits", "Refined Logit Distillation", "2408.07703"),),
    bounds={"alpha": Bounds(), "beta": Bounds()},
    reads=ALL,
    mixes=False,
)
