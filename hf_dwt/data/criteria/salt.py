"""Examples that are hard for the teacher where it is not lost."""

import numpy as np
import torch
from torch import Tensor

from ...kinds import Bounds
from ...parts import OWN, Reference
from .record import Criterion


def salt(labels: Tensor, teacher: Tensor, student: Tensor | None, *, k: int = 10) -> Tensor:
    """The teacher's cross-entropy in nats at each row whose label is among its k most likely classes.

    The score of SALT (2410.18779): a median over the tokens of an example, where those that the small model does not
    have among its first k are taken for noise. That k is 10 by default is ours.

    Args:
        labels: (m,).
        teacher: (m, P) log-probabilities.
        student: not read.
        k: classes.
    """
    truth = teacher.gather(1, labels.unsqueeze(1))
    rank = (teacher > truth).sum(1)
    return torch.where(rank < k, -truth.squeeze(1), torch.nan)


SALT = Criterion(
    name="salt",
    title="the teacher's median loss where the truth is among its first k classes",
    function=salt,
    promise="the examples that are hard for the teacher, noise left out; needs no student",
    references=(
        Reference("the score, and that the highest are chosen", "SALT", "2410.18779"),
        Reference("its use for which examples a teacher supervises", OWN),
    ),
    bounds={"k": Bounds(1)},
    over=np.median,
)
