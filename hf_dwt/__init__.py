"""Distillation from Weak Teacher for the Hugging Face Trainer (Lee et al., 2023, arXiv 2305.18239)."""

from typing import TYPE_CHECKING

from .lazy import on_first_use

if TYPE_CHECKING:
    from .arguments import DistillationArguments as DistillationArguments
    from .assess import assess_teacher as assess_teacher
    from .errors import DistillationError as DistillationError
    from .growth.api import from_weak_teacher as from_weak_teacher
    from .training.trainer import DistillationTrainer as DistillationTrainer

__version__ = "0.1.0"

# Resolved on first use: growing a model needs no Trainer, whose import alone takes seconds.
_HOME = {
    "DistillationArguments": "arguments",
    "DistillationError": "errors",
    "DistillationTrainer": "training.trainer",
    "assess_teacher": "assess",
    "from_weak_teacher": "growth.api",
}
__getattr__, __dir__, __all__ = on_first_use(__name__, _HOME, ("__version__",))
