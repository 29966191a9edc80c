"""Cheap tuning of a student by few parameters, and pruning to a smaller stock model."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dual import DualSparse as DualSparse
    from .operations import layer_flops as layer_flops
    from .scores import SCORES as SCORES
    from .supports import SUPPORTS as SUPPORTS

# Resolved on first use: documentation and help of the parts need no model.
_HOME = {"DualSparse": "dual", "SCORES": "scores", "SUPPORTS": "supports", "layer_flops": "operations"}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
