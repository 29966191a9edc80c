"""The strategies, by which a student is made from its teacher: one file and one line here for each."""

from ...parts import registry
from ..strategy import Strategy
from .aki import AKI
from .auto import AUTO
from .clone import CLONE
from .pad import PAD
from .random import RANDOM
from .remap import REMAP

INITS: dict[str, Strategy] = registry(
    REMAP,
    CLONE,
    PAD,
    AUTO,  # tries those above it that are exact, in this order
    AKI,
    RANDOM,
)
"""Initialisations by name, in the order in which they are listed; `auto` tries the exact ones in this order."""
