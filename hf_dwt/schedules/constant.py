"""Both weights as given."""

from ..parts import paper
from .record import Factors, Schedule


def constant(progress: float) -> Factors:
    """The paper's setting: both weights as given, throughout (arXiv 2305.18239, section 3)."""
    return 1.0, 1.0


CONSTANT = Schedule(
    name="constant",
    title="the paper's weights",
    function=constant,
    promise="1 and 1",
    references=(paper("the schedule"),),
)
