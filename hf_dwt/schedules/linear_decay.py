"""The soft weight changes in a straight line."""

from ..kinds import Bounds
from ..parts import paper
from .record import Factors, Schedule


def linear_decay(progress: float, *, start: float = 4.0, end: float = 1.0) -> Factors:
    """The decay that the paper suggests and does not test: from strong (4) to normal (1) (arXiv 2305.18239)."""
    return 1.0, start + (end - start) * progress


LINEAR_DECAY = Schedule(
    name="linear_decay",
    title="a straight line, suggested by the paper",
    function=linear_decay,
    promise="1 and start + (end - start) x progress",
    references=(paper("the schedule"),),
    bounds={"start": Bounds(), "end": Bounds()},
)
