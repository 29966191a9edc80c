"""The strategies, by which a student is made from its teacher: a file with its record, and a line here, for each."""

from importlib import import_module

from ...parts import registry
from ..strategy import Strategy

FILES = (
    "remap",
    "clone",
    "pad",
    "auto",  # tries the exact ones, in this order
    "aki",
    "random",
)

INITS: dict[str, Strategy] = registry(*(import_module(f".{name}", __name__).STRATEGY for name in FILES))
"""Initialisations by name, in the order in which they are listed."""
