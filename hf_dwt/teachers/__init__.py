"""Teachers turn a batch and its rows into targets.

A teacher is any object with `targets(batch, rows) -> Targets` and `columns`, the names of the batch's entries that
it reads. Teachers are objects that a user passes, so there is no registry of them.
"""

from typing import Protocol, runtime_checkable

from ..forward.calls import Batch
from ..forward.rows import Rows
from ..objective import Targets

__all__ = ["Teacher"]


@runtime_checkable
class Teacher(Protocol):
    """The whole protocol of a teacher."""

    columns: frozenset[str]

    def targets(self, batch: Batch, rows: Rows) -> Targets:
        """The teacher's targets for the rows of the batch: see `Targets` for the shapes."""
        ...
