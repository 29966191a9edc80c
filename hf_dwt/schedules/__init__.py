"""How the weights of the two terms move: functions of training progress alone.

A schedule maps progress, a number from 0 (first step) to 1 (last), to the factors by which `hard_weight` and
`soft_weight` are multiplied at that moment. Because nothing else goes in, a resumed run continues the same curve.
"auto" is the exception: it follows the teacher margin.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

from ..errors import ArgumentError, first_line, unknown_name
from ..kinds import require_in_bounds
from ..parts import Part, registry, require_call
from .adaptive import ADAPTIVE
from .constant import CONSTANT
from .cosine import COSINE
from .knowledge_inheritance import KNOWLEDGE_INHERITANCE
from .linear_decay import LINEAR_DECAY
from .record import Curve, Factors, Schedule
from .step_off import STEP_OFF
from .warmup_stable_decay import WARMUP_STABLE_DECAY

__all__ = ["SCHEDULES"]

SCHEDULES: dict[str, Schedule] = registry(
    CONSTANT, LINEAR_DECAY, KNOWLEDGE_INHERITANCE, STEP_OFF, COSINE, WARMUP_STABLE_DECAY
)
"""Name -> schedule that `soft_weight_schedule` may name beside "auto"; called with progress and its parameters."""


def choices() -> dict[str, Part[..., Factors]]:
    """Name -> record of everything that `soft_weight_schedule` may be: the adaptive schedule and the others."""
    return {ADAPTIVE.name: ADAPTIVE, **SCHEDULES}


def get_schedule(
    schedule: str | Callable[..., Factors],
    parameters: Mapping[str, object] | None = None,
    argument: str = "soft_weight_schedule",
) -> Curve | None:
    """The schedule of that name (or the callable itself) with its parameters bound; None for "auto".

    Args:
        schedule: name or callable.
        parameters: of it.
        argument: what it was given as. "auto" is a schedule of `soft_weight_schedule` alone.

    Raises:
        ArgumentError: unknown name, unknown parameter, one out of its bounds, or a callable that does not return two
            finite, non-negative numbers at each percent of progress.
    """
    parameters = parameters or {}
    known = choices() if argument == "soft_weight_schedule" else SCHEDULES
    if schedule == ADAPTIVE.name and schedule in known:
        if parameters:
            fix = "Drop them, or name a schedule that takes some."
            raise ArgumentError(f"{argument}_kwargs", parameters, f"{schedule!r} takes none.", fix)
        return None
    named = SCHEDULES.get(schedule) if isinstance(schedule, str) else None
    function = schedule if callable(schedule) else named
    if function is None:
        otherwise = "a function from progress to (factor of hard_weight, factor of soft_weight)"
        raise unknown_name(argument, schedule, known, otherwise)
    fix = "Give a function from progress to (factor of hard_weight, factor of soft_weight)."
    require_call(argument, schedule, function, {"progress": 0.0}, parameters, fix)
    if isinstance(function, Part):
        require_in_bounds(f"{argument}_kwargs", parameters, function.bounds)
        function = function.function
    bound = partial(function, **parameters)
    for percent in range(101):
        _check_factors(argument, schedule, bound, percent / 100)
    return bound


def _check_factors(argument: str, name: object, schedule: Curve, progress: float) -> None:
    try:
        factors = schedule(progress)
    except Exception as error:
        problem = f"raised {type(error).__name__} at progress {progress}: {first_line(error).rstrip('.')}."
        fix = "Give a function of every progress from 0 to 1."
        raise ArgumentError(argument, name, problem, fix) from error
    try:
        hard, soft = factors
        legal = all(math.isfinite(factor) and factor >= 0 for factor in (hard, soft))
    except (TypeError, ValueError):
        legal = False
    if not legal:
        raise ArgumentError(
            argument,
            name,
            f"returned {factors!r} at progress {progress}.",
            "Return a pair of finite, non-negative numbers: the factors of hard_weight and of soft_weight.",
        )
