"""Distillation from Weak Teacher for the Hugging Face Trainer (Lee et al., 2023, arXiv 2305.18239)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
