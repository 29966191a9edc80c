"""Who speaks: teachers turn a batch and its rows into targets.

A teacher is any object with `targets(batch, rows) -> Targets` and `columns`, the names of the batch's entries that
it reads. Teachers are objects that a user passes, so there is no registry of them.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from ..forward.rows import Rows
from ..objective import Targets
from .frozen import FrozenTeacher, KnownTokens, has_position_table, most_positions
from .loading import load_teacher, load_teacher_tokenizer


@runtime_checkable
class Teacher(Protocol):
    """The whole protocol of a teacher."""

    columns: frozenset[str]

    def targets(self, batch: Mapping[str, Any], rows: Rows) -> Targets:
        """What the teacher says for the rows of the batch: see `Targets` for the shapes."""
        ...


__all__ = [
    "FrozenTeacher",
    "KnownTokens",
    "Teacher",
    "has_position_table",
    "load_teacher",
    "load_teacher_tokenizer",
    "most_positions",
]
