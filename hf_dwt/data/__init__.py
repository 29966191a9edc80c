"""Data that a teacher makes or chooses: collators, and functions from a data set to a data set."""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .proposals import TeacherProposals as TeacherProposals
    from .selection import select as select

# Resolved on first use: importing transformers' models takes seconds.
_HOME = {"TeacherProposals": "proposals", "select": "selection"}
__getattr__, __dir__, __all__ = on_first_use(__name__, _HOME)
