"""An early layer of the student after the teacher's last."""

from torch import Tensor
from torch.nn import functional as F

from ...parts import Reference
from .layers import LAST
from .record import HiddenTerm


def late_to_early(student: Tensor, supervisor: Tensor, examples: Tensor) -> Tensor:
    """1 - cosine of the two hidden states of a row (LET, arXiv 2602.05393).

    The paper lets a weight of 0.1 fall linearly to 0 within training, as `hidden_weight_schedule=
    "knowledge_inheritance"` does. It leaves open which layer is an early one: here one at a third of the depth.

    Args:
        student: (n, H).
        supervisor: (n, H).
        examples: not read.

    Returns:
        (n,) losses, from 0 to 2.
    """
    apart = F.normalize(student, dim=-1) - F.normalize(supervisor, dim=-1)  # exact near 0, where 1 - cosine rounds
    return apart.square().sum(-1) / 2


def third(depth: int) -> list[int]:
    """The layer at a third of the depth."""
    return [max(1, depth // 3)]


LATE_TO_EARLY = HiddenTerm(
    name="late_to_early",
    title="1 - cosine of an early layer of the student and the teacher's last",
    function=late_to_early,
    promise="from 0 to 2; 0 where both point the same way",
    references=(Reference("late layers that supervise early ones", "Late-to-Early Training", "2602.05393"),),
    weight=0.1,
    layers=third,
    supervisor=LAST,
)
