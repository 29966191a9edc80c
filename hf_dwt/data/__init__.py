"""Data that a teacher makes or chooses: collators, and functions from a data set to a data set."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .proposals import TeacherProposals as TeacherProposals
    from .selection import select as select

# Resolved on first use: importing transformers' models takes seconds.
_HOME = {"TeacherProposals": "proposals", "select": "selection"}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
