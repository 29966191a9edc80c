"""Programs that train a student of one task from flags or a file, as those of examples/ and `hf-dwt train` do.

A program is one file with its record, and one line here. Importing this imports neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from ..lazy import on_first_use
from ..parts import registry
from .classification import CLASSIFICATION
from .clm import CLM
from .lora import LORA
from .mlm import MLM
from .record import Program

if TYPE_CHECKING:
    from .running import run_program as run_program

PROGRAMS: dict[str, Program] = registry(MLM, CLM, CLASSIFICATION, LORA)
"""Name -> program that `hf-dwt train` and `program:` in its file may name."""

_HOME = {"run_program": "running"}
__getattr__, __dir__, __all__ = on_first_use(__name__, _HOME, ("PROGRAMS",))
