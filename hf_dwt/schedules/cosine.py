"""The soft weight falls along half a cosine."""

import math

from .record import SHARE, Factors, Schedule


def cosine(progress: float, *, until: float = 1.0) -> Factors:
    """The soft term falls from 1 to 0 along half a cosine over the first `until` of training."""
    return 1.0, 0.5 * (1.0 + math.cos(math.pi * min(progress / until, 1.0)))


COSINE = Schedule(
    name="cosine",
    title="half a cosine from 1 to 0",
    function=cosine,
    promise="1 and (1 + cos(pi x progress / until)) / 2, after `until` 0",
    bounds={"until": SHARE},
)
