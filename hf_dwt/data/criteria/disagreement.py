"""Examples of which teacher and student think most differently."""

import numpy as np
from torch import Tensor

from ...parts import OWN, Reference
from .record import Criterion


def disagreement(labels: Tensor, teacher: Tensor, student: Tensor | None) -> Tensor:
    """KL(teacher || student) at each row, in nats: what the soft term has to teach there.

    Args:
        labels: not read.
        teacher: (m, P) log-probabilities.
        student: (m, P) log-probabilities, over the same classes.
    """
    assert student is not None  # `needs_student`
    return (teacher.exp() * (teacher - student)).sum(1)


DISAGREEMENT = Criterion(
    name="disagreement",
    title="the mean KL(teacher || student)",
    function=disagreement,
    promise="the examples with the largest soft term; needs the student",
    references=(Reference("the soft term itself as the score", OWN),),
    over=np.mean,
    needs_student=True,
)
