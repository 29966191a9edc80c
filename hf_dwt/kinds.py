"""Kinds of value: whether an argument is of one, and the words of an error if it is not. Knows no argument."""

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

from .errors import ArgumentError, DistillationError

LARGEST_SEED = 2**32 - 1
"""Of numpy's generators."""


@dataclass(frozen=True)
class Bounds:
    """A range of finite numbers; its text completes "Give a number ..."."

    Args:
        low: the lowest.
        high: the highest.
        above: whether `low` itself is out of the range.
    """

    low: float = 0.0
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: object) -> bool:
        if not is_number(value) or not math.isfinite(value) or not self.low <= value <= self.high:
            return False
        return not (self.above and value == self.low)

    def __str__(self) -> str:
        end = f" to {self.high:.12g}" if self.high < math.inf else "" if self.above else " upwards"
        return f"{'above' if self.above else 'from'} {self.low:g}{end}"


class Kind(NamedTuple):
    """One kind of value.

    is_right: whether a value is of it.
    problem: the sentence of an error for any other value; "{given}" stands for what was given.
    fix: what to give.
    """

    is_right: Callable[[object], bool]
    problem: str
    fix: str

    def or_none(self) -> "Kind":
        """The same, where None is right too."""
        return self._replace(is_right=lambda value: value is None or self.is_right(value))

    def error(
        self, name: str, value: object, fix: str = "", error: type[DistillationError] = ArgumentError
    ) -> DistillationError:
        """The error for an argument whose value is not of this kind.

        Args:
            name: of the argument.
            value: its value.
            fix: what to do, where that is another thing than for most values.
            error: its class.
        """
        given = "a class" if isinstance(value, type) else f"of type {type(value).__name__}"
        shown = type(value).__name__ if is_module(value) else value
        return error(name, shown, self.problem.format(given=given), fix or self.fix)


def require_in_bounds(argument: str, parameters: Mapping[str, object], bounds: Mapping[str, Bounds]) -> None:
    """Raise an ArgumentError for a parameter of a part that is out of its range.

    Args:
        argument: that has the parameters.
        parameters: as they were given.
        bounds: of the part's record.
    """
    for name, value in parameters.items():
        if name in bounds and value not in bounds[name]:
            raise ArgumentError(f"{argument}[{name!r}]", value, "is out of range.", f"Give a number {bounds[name]}.")


def is_module(value: object) -> bool:
    """Whether a value is a model of torch, which is not imported for it: without torch there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number of Python's; True and False are none."""
    return type(value) is int


def is_function(value: object) -> bool:
    """Whether a value is called for its result; models and classes are none."""
    return callable(value) and not isinstance(value, type) and not is_module(value)


def whole(bounds: Bounds, problem: str) -> Kind:
    """Whole numbers within bounds."""
    return Kind(lambda value: is_whole(value) and value in bounds, problem, f"Give a whole number {bounds}.")


def number(bounds: Bounds, problem: str) -> Kind:
    """Finite numbers within bounds."""
    return Kind(lambda value: value in bounds, problem, f"Give a finite number {bounds}.")


SEEDS = Bounds(0, LARGEST_SEED)
COUNT = whole(Bounds(1), "is no count.")
SEED = whole(SEEDS, "is no seed.")
FLAG = Kind(lambda value: isinstance(value, bool), "is neither True nor False.", "Give True or False, without quotes.")
PATH = Kind(lambda value: isinstance(value, str | os.PathLike), "is no path.", "Give that of a folder.")
FUNCTION = Kind(is_function, "is {given}, not a function.", "Give a function, or None.")
PROCESSOR = Kind(
    lambda value: hasattr(value, "save_pretrained") and not isinstance(value, type) and not is_module(value),
    "is {given}, not a tokenizer or processor.",
    "Give one: AutoTokenizer.from_pretrained(...).",
)
SOURCE = Kind(
    lambda value: isinstance(value, str | os.PathLike) or is_module(value),
    "is {given}, not a teacher.",
    "Give a Hub id, a path, or a model.",
)
