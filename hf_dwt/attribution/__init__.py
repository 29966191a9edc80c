"""Attribution: which training examples made a student give an answer."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import attribute as attribute
    from .result import Attribution as Attribution

# Resolved on first use: a result can be read without the Trainer.
_HOME = {"Attribution": "result", "attribute": "api"}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
