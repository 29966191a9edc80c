"""Growth: a larger student made from a smaller teacher. Knows models and configs; knows no training."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..parts import Reference as Reference
    from .api import from_weak_teacher as from_weak_teacher
    from .api import plan_growth as plan_growth
    from .checkpoint import Teacher as Teacher
    from .declarations import declare as declare
    from .plan import GrownModel as GrownModel
    from .plan import GrowthPlan as GrowthPlan
    from .report import GrowthReport as GrowthReport
    from .report import Outcome as Outcome
    from .report import Source as Source
    from .rests import RESTS as RESTS
    from .strategies import INITS as INITS
    from .vocabulary import NEW_ROWS as NEW_ROWS

# Resolved on first use: the names of sizes are known to the command line without torch.
_HOME = {
    "INITS": ".strategies",
    "NEW_ROWS": ".vocabulary",
    "RESTS": ".rests",
    "GrownModel": ".plan",
    "GrowthPlan": ".plan",
    "GrowthReport": ".report",
    "Outcome": ".report",
    "Reference": "..parts",
    "Source": ".report",
    "Teacher": ".checkpoint",
    "declare": ".declarations",
    "from_weak_teacher": ".api",
    "plan_growth": ".api",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
