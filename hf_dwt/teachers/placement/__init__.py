"""Where a teacher's weights lie while it is not run, one file and one line here each.

"auto" tries them in the order of the registry.
"""

from ...parts import help_text, registry
from .choice import AUTO, Setting, choose, placement_problems
from .offload import OFFLOAD
from .record import Placement
from .replicate import REPLICATE
from .shard import SHARD

PLACEMENTS = registry(REPLICATE, SHARD, OFFLOAD)
"""The placements that `teacher_placement` may name."""


def placement_names() -> list[str]:
    """What `teacher_placement` may be."""
    return [AUTO, *PLACEMENTS]


def placement_help() -> str:
    """The clauses of the help of `teacher_placement`."""
    return f"{AUTO} (the first that fits the device), {help_text(PLACEMENTS)}"


__all__ = [
    "AUTO",
    "PLACEMENTS",
    "Placement",
    "Setting",
    "choose",
    "placement_help",
    "placement_names",
    "placement_problems",
]
