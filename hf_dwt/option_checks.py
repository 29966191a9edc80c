"""What is wrong with the values of `DistillationArguments`, as far as they show it by themselves.

`arguments` imports this module, so that the options are of no type here.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .errors import ArgumentError, DistillationError, unknown_name
from .kinds import COUNT, FLAG, PATH, Bounds, number
from .objective.corrections import CORRECTIONS
from .objective.corrections.record import ALL, MOST_LIKELY
from .objective.divergences import get_soft_term, is_forward_kl, require_divergence
from .objective.divergences.forward_kl import FORWARD_KL
from .objective.hidden.layers import read_layers
from .objective.scaling import SCALINGS
from .teachers.cache.formats import FORMATS, format_names
from .teachers.cache.request import folder_problems
from .teachers.placement import placement_names

LOSS_KERNELS = ("auto", "plain")
_WEIGHT, _POSITIVE = number(Bounds(), "is not a weight."), number(Bounds(above=True), "cannot divide logits.")
_NUMBERS = {
    "hard_weight": _WEIGHT,
    "soft_weight": _WEIGHT,
    "hidden_weight": _WEIGHT.or_none(),
    "temperature": _POSITIVE,
    "teacher_cache_k": COUNT,
    "teacher_cache_epochs": COUNT,
}
# argument with parameters of its own -> the method that makes the part
_PARTS = {
    "soft_weight_schedule": "schedule",
    "teacher_correction": "correction",
    "hidden_term": "hidden",
    "hidden_weight_schedule": "hidden_schedule",
}
_OTHERS = {"teacher_cache": PATH.or_none(), "teacher_cache_only": FLAG, "save_on_interrupt": FLAG}


def option_problems(options: Any) -> list[DistillationError]:
    """What distillation cannot run with. Options that are JSON are read, and become dicts."""
    problems = [
        kind.error(name, value)
        for name, kind in {**_NUMBERS, **_OTHERS}.items()
        if not kind.is_right(value := getattr(options, name))
    ]
    compares = options.hidden_term is not None and options.hidden_weight != 0
    if options.hard_weight == 0 and options.soft_weight == 0 and not compares:
        problems.append(
            ArgumentError("hard_weight", 0, "with soft_weight=0 leaves nothing to learn.", "Raise one of them.")
        )
    if options.save_on_interrupt is True and getattr(options, "enable_jit_checkpoint", False):
        problem = "takes SIGTERM too, beside save_on_interrupt=True."
        problems.append(ArgumentError("enable_jit_checkpoint", True, problem, "Leave one of them out."))
    for name, known in _choices().items():
        if getattr(options, name) not in known:
            problems.append(unknown_name(name, getattr(options, name), known))
    problems += _cache_problems(options) + _correction_problems(options) + _hidden_problems(options)
    checks: list[Callable[[], object]] = [
        partial(_read_dict, options, "teacher_model_init_kwargs"),
        *(partial(_check_part, options, name, method) for name, method in _PARTS.items()),
        partial(_check_soft_term, options),
        lambda: read_layers(options.hidden_layers),
    ]
    for check in checks:
        try:
            check()
        except ArgumentError as error:
            problems.append(error)
    return problems


def _choices() -> dict[str, Sequence[str]]:
    """Argument -> the names that it may have, as the registries of parts are now."""
    return {
        "soft_loss_scaling": list(SCALINGS),
        "loss_kernel": LOSS_KERNELS,
        "teacher_cache_form": format_names(),
        "teacher_placement": placement_names(),
    }


def _cache_problems(options: Any) -> list[DistillationError]:
    problems: list[DistillationError] = []
    form = options.teacher_cache_form
    if options.teacher_cache_only is True:
        problems += folder_problems(options.teacher_cache)
    whole = format_names(every_divergence=True)
    if not options.teacher_cache or form not in format_names() or form in whole:
        return problems
    kept = FORMATS.get(form)
    # Probabilities are kept at the temperature of the run, and corrections read those at 1.
    most_likely = kept is not None and kept.most_likely and options.temperature == 1.0
    if wanted := wants_every_class(options, most_likely):
        name, other = wanted
        problem = f"keeps a few classes; {name}={getattr(options, name)!r} needs the others."
        problems.append(
            ArgumentError("teacher_cache_form", form, problem, f"Use {' or '.join(map(repr, whole))}, or {other}.")
        )
    return problems


def _correction_problems(options: Any) -> list[DistillationError]:
    """A correction that brings a divergence of its own, beside another than the default."""
    part = CORRECTIONS.get(options.teacher_correction) if isinstance(options.teacher_correction, str) else None
    if part is None or part.mixes or is_forward_kl(options.soft_term):
        return []
    problem = f"has no effect: teacher_correction={part.name!r} brings a divergence of its own."
    return [ArgumentError("soft_term", options.soft_term, problem, "Leave one of them out.")]


def _hidden_problems(options: Any) -> list[DistillationError]:
    """What belongs to a term on hidden states, without one."""
    if options.hidden_term is not None:
        return []
    given = {
        "hidden_weight": options.hidden_weight or None,
        "hidden_layers": options.hidden_layers,
        "hidden_weight_schedule": None
        if options.hidden_weight_schedule == "constant"
        else options.hidden_weight_schedule,
    }
    fix = "Name one, such as hidden_term='masked_features', or leave it out."
    return [
        ArgumentError(name, value, "has no effect without hidden_term.", fix)
        for name, value in given.items()
        if value is not None
    ]


def wants_every_class(options: Any, most_likely: bool) -> tuple[str, str] | None:
    """The option that cannot be computed from a few classes of the teacher's, and what can.

    Args:
        options: of the run.
        most_likely: whether the most likely class is among them, with its probability at temperature 1.
    """
    if not is_forward_kl(options.soft_term):  # see SparseTargets
        return "soft_term", f"soft_term={FORWARD_KL.name!r}"
    name = options.teacher_correction
    if name is None or (isinstance(name, str) and name not in CORRECTIONS):  # an error of its own
        return None
    reads = CORRECTIONS[name].reads if isinstance(name, str) else getattr(name, "reads", ALL)
    if reads != ALL and (reads != MOST_LIKELY or most_likely):
        return None
    return "teacher_correction", "no teacher_correction"


def _check_part(options: Any, name: str, method: str) -> None:
    """Make a part from its name and its parameters."""
    _read_dict(options, f"{name}_kwargs")
    getattr(options, method)()


def _check_soft_term(options: Any) -> None:
    soft_term = get_soft_term(options.soft_term)
    try:
        require_divergence(soft_term)
    except ArgumentError as error:
        if error.__cause__ is None:
            raise
        # It may want as many classes as the models have: it is tried again once they are there.


def _read_dict(options: Any, name: str) -> None:
    value = getattr(options, name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ArgumentError(name, value, f"is not JSON ({error}).", 'Write it as {"key": value}.') from error
        setattr(options, name, value)
    if not isinstance(value, dict | None):
        raise ArgumentError(name, value, "is not a dict.", 'Give a dict, or JSON such as {"key": value}.')
