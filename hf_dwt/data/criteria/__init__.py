"""Criteria by which examples are chosen: one file and one line here each."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from ...errors import ArgumentError, unknown_name
from ...kinds import require_in_bounds
from ...parts import registry, require_call
from .disagreement import DISAGREEMENT
from .record import Criterion, RowScores
from .salt import SALT

CRITERIA: dict[str, Criterion] = registry(SALT, DISAGREEMENT)
"""Name -> criterion that `select(by=...)` may name."""
_TAKEN = {"labels": None, "the teacher's log-probabilities": None, "the student's": None}


class BoundCriterion(NamedTuple):
    """A criterion, and its function with the parameters of a user."""

    record: Criterion
    rows: RowScores


def get_criterion(by: str, parameters: Mapping[str, object] | None) -> BoundCriterion:
    """The criterion of that name with its parameters.

    Raises:
        ArgumentError: unknown name, unknown parameter, or one out of its bounds.
    """
    found, given = CRITERIA.get(by), {} if parameters is None else parameters
    if found is None:
        otherwise = "scores of `attribute`, a number for each example, or a function from the data set to these"
        raise unknown_name("by", by, CRITERIA, otherwise)
    require_call("by", by, found.function, _TAKEN, given, "")
    require_in_bounds("by_kwargs", given, found.bounds)
    if not isinstance(k := given.get("k", 1), int):
        raise ArgumentError("by_kwargs['k']", k, "is no count.", "Give a whole number.")
    return BoundCriterion(found, partial(found.function, **given))


__all__ = ["CRITERIA", "BoundCriterion", "Criterion", "get_criterion"]
