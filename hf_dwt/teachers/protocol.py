"""What every teacher is: a batch and its rows become targets."""

from typing import Protocol, runtime_checkable

from ..forward.calls import Batch
from ..forward.rows import Rows
from ..objective import Targets


@runtime_checkable
class Teacher(Protocol):
    """The whole protocol of a teacher."""

    columns: frozenset[str]

    def targets(self, batch: Batch, rows: Rows) -> Targets:
        """The teacher's targets for the rows of the batch: see `Targets` for the shapes."""
        ...
