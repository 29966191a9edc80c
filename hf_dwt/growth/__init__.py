"""Growth: a larger student made from a smaller teacher. Knows models and configs; knows no training."""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

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
__getattr__, __dir__, __all__ = on_first_use(__name__, _HOME)
