"""Supports: at which entries of a matrix its sparse residual is. One file and one line here each."""

from ...parts import registry
from .decomposed import DECOMPOSED
from .magnitude import MAGNITUDE
from .random import RANDOM
from .record import Support

SUPPORTS: dict[str, Support] = registry(DECOMPOSED, MAGNITUDE, RANDOM)
"""Name -> support that `DualSparse` may name."""

__all__ = ["SUPPORTS", "Support"]
