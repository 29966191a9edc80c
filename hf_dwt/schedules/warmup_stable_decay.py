"""The soft weight rises, stays and falls."""

from ..kinds import Bounds
from ..parts import Reference
from .record import Factors, Schedule


def warmup_stable_decay(progress: float, *, warmup: float = 0.1, decay: float = 0.2) -> Factors:
    """The soft term rises over the first `warmup`, stays at 1 and falls to 0 over the last `decay` of training.

    Best when it follows the learning rate's own warm-up, stable phase and decay (arXiv 2410.16215).
    """
    rise = progress / warmup if warmup else 1.0
    fall = (1.0 - progress) / decay if decay else 1.0
    return 1.0, max(0.0, min(1.0, rise, fall))


WARMUP_STABLE_DECAY = Schedule(
    name="warmup_stable_decay",
    title="up, level, down",
    function=warmup_stable_decay,
    promise="1 and min(1, progress / warmup, (1 - progress) / decay)",
    references=(Reference("the schedule", "Pre-training Distillation", "2410.16215"),),
    bounds={"warmup": Bounds(0, 1), "decay": Bounds(0, 1)},
)
