"""The student's own initialisation: no weight of the teacher is read."""

from transformers import PreTrainedModel

from ..checkpoint import Teacher
from ..report import Source
from ..width.mapping import Plan
from .remap import Rest


def random_init(student: PreTrainedModel, teacher: Teacher, rest: Rest) -> dict[str, Source]:
    """Leave `student` as its own initialisation made it. Nothing is copied, so `rest` has nothing to fill."""
    return {name: Source(None, 0, parameter.numel()) for name, parameter in student.named_parameters()}


def plan_random(student: PreTrainedModel, teacher: Teacher) -> Plan:
    """No parameter of the student is made from the teacher's."""
    return {}
