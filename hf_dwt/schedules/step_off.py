"""The soft term for a share of training, then none."""

from ..parts import Reference
from .record import SHARE, Factors, Schedule


def step_off(progress: float, *, until: float = 0.17) -> Factors:
    """The soft term in full up to the share `until` of training, then none (SALT, arXiv 2410.18779)."""
    return 1.0, 1.0 if progress < until else 0.0


STEP_OFF = Schedule(
    name="step_off",
    title="the soft term at first, then none",
    function=step_off,
    promise="1 and 1 before `until`, 1 and 0 after",
    references=(Reference("the schedule", "SALT", "2410.18779"),),
    bounds={"until": SHARE},
)
