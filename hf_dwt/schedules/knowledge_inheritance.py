"""The weight passes from the soft term to the hard term."""

from ..parts import Reference
from .record import SHARE, Factors, Schedule


def knowledge_inheritance(progress: float, *, until: float = 0.3) -> Factors:
    """a = max(0, 1 - progress / until); the hard term has 1 - a, the soft term a (KI, arXiv 2105.13880, eq. 4).

    `until` is the share of training over which the teacher fades; KI found 0.18 to 0.5 good, less for weaker teachers.
    """
    fade = max(0.0, 1.0 - progress / until)
    return 1.0 - fade, fade


KNOWLEDGE_INHERITANCE = Schedule(
    name="knowledge_inheritance",
    title="from the teacher to the labels over a share of training",
    function=knowledge_inheritance,
    promise="1 - a and a, with a = max(0, 1 - progress / until)",
    references=(Reference("the schedule", "Knowledge Inheritance", "2105.13880"),),
    bounds={"until": SHARE},
)
