"""The weights follow the teacher margin of the run: `soft_weight_schedule="auto"`.

The rule alone stands here. What it is given is measured while training (`hf_dwt/training/adaptive.py`).
"""

import math

from ..parts import OWN, Part, Reference
from .record import Factors

OFF_BELOW = -0.05
"""The teacher margin in nats at which the soft term ends. Not 0: grown students start at 0 and may fall back first."""
FADE = 0.3
"""The share of training over which the soft term fades at the fastest for a student that starts from random."""


def adaptive(progress: float, margin: float, new: float) -> Factors:
    """The soft term has the share of the perplexity by which the teacher is the better model.

        a = max(1 - PPL_teacher / PPL_student, new * (1 - progress / FADE));  the hard term has 1 - a, the soft term a

    This replaces the fixed time of Knowledge Inheritance (arXiv 2105.13880, eq. 4), whose best value depends on the
    teacher, by what the run shows. The second part keeps that fade for a student that starts from random, which
    leaves its plateau sooner with any teacher (docs/paper.md, factor 1).

    Args:
        progress: 0 at the first step, 1 at the last.
        margin: CE_student - CE_teacher in nats: the teacher margin of the last steps.
        new: how much of what the teacher knows is new to the student: 1 for a random start, about 0 for a grown one.
    """
    if margin <= OFF_BELOW:
        return 1.0, 0.0
    soft = max(-math.expm1(-margin), new * max(0.0, 1.0 - progress / FADE))
    return 1.0 - soft, soft


ADAPTIVE = Part(
    name="auto",
    title="by the teacher margin, measured while training",
    function=adaptive,
    promise="1 - a and a, with a = 1 - perplexity of the teacher / perplexity of the student, from a random start at "
    f"least 1 - progress / {FADE:g}; a = 0 once the student is {-OFF_BELOW:g} nats ahead",
    references=(
        Reference("the adaptive schedule", OWN),
        Reference("the fade of that schedule from a random start", "Knowledge Inheritance", "2105.13880"),
    ),
)
