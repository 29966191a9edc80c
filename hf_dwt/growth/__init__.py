"""Growth: a larger student made from a smaller teacher. Knows models and configs; knows no training."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import plan_growth as plan_growth
    from .declarations import declare as declare
    from .plan import GrowthPlan as GrowthPlan
    from .report import GrowthReport as GrowthReport
    from .rests import RESTS as RESTS
    from .vocabulary.new_rows import NEW_ROWS as NEW_ROWS

# Resolved on first use: the names of sizes are known to the command line without torch.
_HOME = {
    "NEW_ROWS": "vocabulary.new_rows",
    "RESTS": "rests",
    "GrowthPlan": "plan",
    "GrowthReport": "report",
    "declare": "declarations",
    "plan_growth": "api",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
