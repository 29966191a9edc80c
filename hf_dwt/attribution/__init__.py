"""Attribution: which training examples made a student give an answer."""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .api import attribute as attribute
    from .result import Attribution as Attribution

# Resolved on first use: a result can be read without the Trainer.
_HOME = {"Attribution": "result", "attribute": "api"}
__getattr__, __dir__, __all__ = on_first_use(__name__, _HOME)
