"""Teachers turn a batch and its rows into targets.

A teacher is any object with `targets(batch, rows) -> Targets` and `columns`, the names of the batch's entries that
it reads. Teachers are objects that a user passes, so there is no registry of them.
"""

from .columns import ColumnTeacher
from .corrected import CorrectedTeacher
from .crossing import OtherTokenizer
from .export import export_columns
from .online import OnlineTeacher
from .protocol import Teacher
from .several import Figures, ReinforcedSelection, SeveralTeachers

__all__ = [
    "ColumnTeacher",
    "CorrectedTeacher",
    "Figures",
    "OnlineTeacher",
    "OtherTokenizer",
    "ReinforcedSelection",
    "SeveralTeachers",
    "Teacher",
    "export_columns",
]
