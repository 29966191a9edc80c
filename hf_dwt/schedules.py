"""How the weights of the two terms move: functions of training progress alone.

A schedule maps progress, a number from 0 (first step) to 1 (last), to the factors by which `hard_weight` and
`soft_weight` are multiplied at that moment. Because nothing else goes in, a resumed run continues the same curve.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from .errors import ArgumentError, first_line, unknown_name

Factors = tuple[float, float]  # (of hard_weight, of soft_weight)
Schedule = Callable[[float], Factors]


def constant(progress: float) -> Factors:
    """The paper's setting: both weights as given, throughout (arXiv 2305.18239, section 3)."""
    return 1.0, 1.0


def linear_decay(progress: float, *, start: float = 4.0, end: float = 1.0) -> Factors:
    """The decay that the paper suggests and does not test: from strong (4) to normal (1) (arXiv 2305.18239)."""
    return 1.0, start + (end - start) * progress


def knowledge_inheritance(progress: float, *, until: float = 0.3) -> Factors:
    """a = max(0, 1 - progress / until); the hard term has 1 - a, the soft term a (KI, arXiv 2105.13880, eq. 4).

    `until` is the share of training over which the teacher fades; KI found 0.18 to 0.5 good, less for weaker teachers.
    """
    fade = max(0.0, 1.0 - progress / until)
    return 1.0 - fade, fade


def step_off(progress: float, *, until: float = 0.17) -> Factors:
    """The soft term in full up to the share `until` of training, then none (SALT, arXiv 2410.18779)."""
    return 1.0, 1.0 if progress < until else 0.0


def cosine(progress: float, *, until: float = 1.0) -> Factors:
    """The soft term falls from 1 to 0 along half a cosine over the first `until` of training."""
    return 1.0, 0.5 * (1.0 + math.cos(math.pi * min(progress / until, 1.0)))


def warmup_stable_decay(progress: float, *, warmup: float = 0.1, decay: float = 0.2) -> Factors:
    """The soft term rises over the first `warmup`, stays at 1 and falls to 0 over the last `decay` of training.

    Best when it follows the learning rate's own warm-up, stable phase and decay (arXiv 2410.16215).
    """
    rise = progress / warmup if warmup else 1.0
    fall = (1.0 - progress) / decay if decay else 1.0
    return 1.0, max(0.0, min(1.0, rise, fall))


SCHEDULES: dict[str, Callable[..., Factors]] = {
    "constant": constant,
    "linear_decay": linear_decay,
    "knowledge_inheritance": knowledge_inheritance,
    "step_off": step_off,
    "cosine": cosine,
    "warmup_stable_decay": warmup_stable_decay,
}
AUTO = "auto"
"""The name of the weights that follow the run instead of a curve; see `hf_dwt.fading`."""
_SHARES = {"until": (0.0, 1.0, False), "warmup": (0.0, 1.0, True), "decay": (0.0, 1.0, True)}


def get_schedule(schedule: str | Callable[..., Factors], parameters: dict[str, Any] | None = None) -> Schedule | None:
    """The schedule of that name (or the callable itself) with its parameters bound; None for "auto".

    Raises:
        ArgumentError: unknown name, unknown parameter, a share outside its range, or a callable that does not
            return two finite, non-negative numbers at each percent of progress.
    """
    parameters = parameters or {}
    if schedule == AUTO:
        if parameters:
            fix = "Drop them, or name a schedule that takes some."
            raise ArgumentError("soft_weight_schedule_kwargs", parameters, f"{AUTO!r} takes none.", fix)
        return None
    named = SCHEDULES.get(schedule) if isinstance(schedule, str) else None
    function = schedule if callable(schedule) else named
    if function is None:
        otherwise = "a function from progress to (factor of hard_weight, factor of soft_weight)"
        raise unknown_name("soft_weight_schedule", schedule, [*SCHEDULES, AUTO], otherwise)
    _check_signature(schedule, function, parameters)
    if function in SCHEDULES.values():
        _check_parameters(parameters)
    bound = partial(function, **parameters)
    for percent in range(101):
        _check_factors(schedule, bound, percent / 100)
    return bound


def _check_signature(name: Any, function: Callable[..., Factors], parameters: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin: called, it shows whether it is one
        return
    try:
        signature.bind(0.0, **parameters)
    except TypeError as error:
        if parameters or any(p.kind == p.KEYWORD_ONLY and p.default is p.empty for p in signature.parameters.values()):
            known = [name for name, p in signature.parameters.items() if p.kind == p.KEYWORD_ONLY]
            fix = f"This schedule takes: {', '.join(known) or 'none'}."
            raise ArgumentError("soft_weight_schedule_kwargs", parameters, f"{error}.", fix) from error
        fix = "Give a function from progress to (factor of hard_weight, factor of soft_weight)."
        raise ArgumentError("soft_weight_schedule", name, f"cannot be called with progress: {error}.", fix) from error


def _check_parameters(parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        low, high, closed = _SHARES.get(name, (0.0, math.inf, True))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (low < value <= high or (closed and value == low)):
            bounds = f"{'from' if closed else 'above'} {low:g}" + (f" to {high:g}" if high < math.inf else " upwards")
            raise ArgumentError(
                f"soft_weight_schedule_kwargs[{name!r}]", value, "is out of range.", f"Give a number {bounds}."
            )


def _check_factors(name: Any, schedule: Schedule, progress: float) -> None:
    try:
        factors = schedule(progress)
    except Exception as error:
        problem = f"raised {type(error).__name__} at progress {progress}: {first_line(error).rstrip('.')}."
        fix = "Give a function of every progress from 0 to 1."
        raise ArgumentError("soft_weight_schedule", name, problem, fix) from error
    try:
        hard, soft = factors
        legal = all(math.isfinite(factor) and factor >= 0 for factor in (hard, soft))
    except (TypeError, ValueError):
        legal = False
    if not legal:
        raise ArgumentError(
            "soft_weight_schedule",
            name,
            f"returned {factors!r} at progress {progress}.",
            "Return a pair of finite, non-negative numbers: the factors of hard_weight and of soft_weight.",
        )
