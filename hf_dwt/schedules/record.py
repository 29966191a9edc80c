"""The record of a schedule."""

from collections.abc import Callable
from typing import Concatenate

from ..kinds import Bounds
from ..parts import Part

Factors = tuple[float, float]
"""(of hard_weight, of soft_weight), each at least 0."""

Curve = Callable[[float], Factors]
"""From progress, 0 at the first step to 1 at the last, to the factors at that moment."""

Schedule = Part[Concatenate[float, ...], Factors]
"""A curve with parameters. Its promise says what the two factors are."""

SHARE = Bounds(0, 1, above=True)
"""Of a parameter that is a share of training and not 0."""
