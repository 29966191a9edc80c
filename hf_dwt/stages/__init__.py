"""Stages: a list of runs of `DistillationTrainer`, one after the other, each with the student of the one before."""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .api import StagePlan as StagePlan
    from .api import plan_stages as plan_stages
    from .api import run_stages as run_stages
    from .builders import ernie_tiny as ernie_tiny
    from .builders import generations as generations
    from .builders import progressive as progressive
    from .heads import BodyOf as BodyOf
    from .stage import Stage as Stage
    from .stage import Stages as Stages

# Resolved on first use: a command that finds no file needs no Trainer.
_HOME = {
    "BodyOf": "heads",
    "Stage": "stage",
    "StagePlan": "api",
    "Stages": "stage",
    "ernie_tiny": "builders",
    "generations": "builders",
    "plan_stages": "api",
    "progressive": "builders",
    "run_stages": "api",
}
__getattr__, __dir__, __all__ = on_first_use(__name__, _HOME)
