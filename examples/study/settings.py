"""The settings that tables and pictures put side by side."""

from typing import Any

from study.cells import AUTO, CONSTANT, KI

INITS = ("random", "remap", "clone")
SOFT: dict[str, dict[str, Any]] = {
    "no soft term": {},
    "constant 1 : 1": {"soft": CONSTANT},
    "fade over 0.3": KI,
    "auto": {"soft": AUTO},
}
