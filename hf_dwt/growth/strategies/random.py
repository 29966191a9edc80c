"""The student's own initialisation: no weight of the teacher is read."""

from transformers import PreTrainedModel

from ..checkpoint import Teacher
from ..paging import fill
from ..report import Source
from ..strategy import Strategy
from ..width.mapping import Plan


def keep_all(student: PreTrainedModel, teacher: Teacher) -> dict[str, Source]:
    """Leave `student` as its own initialisation made it."""
    fill(student, lambda name, tensor: None)
    return {name: Source(None, 0, parameter.numel()) for name, parameter in student.named_parameters()}


def plan_nothing(student: PreTrainedModel, teacher: Teacher) -> Plan:
    """No parameter of the student is made from the teacher's."""
    return {}


STRATEGY = Strategy(
    "random",
    "the model's own initialisation; only the teacher's config is read",
    keep_all,
    promise="not exact, nothing of the teacher's weights is used",
    plan=plan_nothing,
    reads_teacher=False,
    by_parts=True,
)
