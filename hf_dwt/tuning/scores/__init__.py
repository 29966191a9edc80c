"""Scores: which units of a layer are pruned, those of the lowest. One file and one line here each."""

from ...parts import registry
from .change import CHANGE
from .random import RANDOM
from .record import Score
from .weight import WEIGHT

SCORES: dict[str, Score] = registry(CHANGE, WEIGHT, RANDOM)
"""Name -> score that `DualSparse.prune` may name."""

__all__ = ["SCORES", "Score"]
