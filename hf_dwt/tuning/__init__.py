"""Cheap tuning of a student by few parameters, and pruning to a smaller stock model."""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .dual import DualSparse as DualSparse
    from .operations import layer_flops as layer_flops
    from .scores import SCORES as SCORES
    from .supports import SUPPORTS as SUPPORTS

# Resolved on first use: documentation and help of the parts need no model.
_HOME = {"DualSparse": "dual", "SCORES": "scores", "SUPPORTS": "supports", "layer_flops": "operations"}
__getattr__, __dir__, __all__ = on_first_use(__name__, _HOME)
