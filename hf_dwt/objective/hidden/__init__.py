"""Terms on hidden states at the rows: one file and one line here each."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ...errors import ArgumentError, first_line, unknown_name
from ...kinds import FLAG, is_function, require_in_bounds
from ...parts import registry, require_call
from .late_to_early import LATE_TO_EARLY
from .masked_features import MASKED_FEATURES
from .record import HiddenTerm, RowLosses
from .relations import RELATIONS
from .self_features import SELF_FEATURES

HIDDEN_TERMS: dict[str, HiddenTerm] = registry(MASKED_FEATURES, LATE_TO_EARLY, RELATIONS, SELF_FEATURES)
"""Name -> term that `hidden_term` may name."""
_TAKEN = {"the student's rows": None, "the teacher's": None, "the example of each row": None}
_FIX = "Give a function of the student's rows (n, H), the teacher's (n, H) and examples (n,) to losses (n,)."


def get_hidden_term(
    term: "str | RowLosses | None", parameters: Mapping[str, object] | None = None
) -> HiddenTerm | None:
    """The record of that name, or of a function, with its parameters bound; None without a term.

    Raises:
        ArgumentError: unknown name, unknown parameter, one out of its bounds, or a function that gives no losses.
    """
    parameters = parameters or {}
    if term is None:
        if parameters:
            fix = "Name a term: hidden_term='masked_features'."
            raise ArgumentError("hidden_term_kwargs", parameters, "have no term to go to.", fix)
        return None
    part = _record(term)
    require_call("hidden_term", term, part.function, _TAKEN, parameters, _FIX)
    require_in_bounds("hidden_term_kwargs", parameters, part.bounds)
    for name, value in parameters.items():
        if isinstance(part.parameters.get(name), bool) and not FLAG.is_right(value):
            raise FLAG.error(f"hidden_term_kwargs[{name!r}]", value)
    bound = replace(part, function=partial(part.function, **parameters))
    try:
        require_losses(term, bound)
    except ArgumentError as error:
        if error.__cause__ is None:
            raise
        # It may want the widths of the run: it is tried again once the models are there.
    return bound


def _record(term: object) -> HiddenTerm:
    if isinstance(term, HiddenTerm):
        return term
    if isinstance(term, str) and term in HIDDEN_TERMS:
        return HIDDEN_TERMS[term]
    if not is_function(term):
        otherwise = "a function of the student's rows, the teacher's and the example of each row"
        raise unknown_name("hidden_term", term, HIDDEN_TERMS, otherwise)
    function: Callable[..., Tensor] = term  # type: ignore[assignment]
    try:
        inspect.signature(function)
    except ValueError:  # a builtin, which has no parameters that could be named
        function = partial(_called, function)
    name = getattr(term, "__name__", type(term).__name__)
    return HiddenTerm(name, "a function of your own", function, weight=1.0)


def _called(function: Callable[..., Tensor], student: Tensor, supervisor: Tensor, examples: Tensor) -> Tensor:
    return function(student, supervisor, examples)


def require_losses(
    name: object, term: HiddenTerm, widths: tuple[int, int] = (5, 5), device: torch.device | str = "cpu"
) -> None:
    """Raise an ArgumentError unless 3 rows of two examples give 3 losses.

    Args:
        name: of the term, as the user gave it.
        term: with its parameters bound.
        widths: channels of the student's rows and of those that supervise.
        device: of both.
    """
    generator = torch.Generator().manual_seed(0)
    student, supervisor = (torch.randn(3, width, generator=generator).to(device) for width in widths)
    cause: Exception | None = None
    try:
        made: object = term(student.requires_grad_(), supervisor, torch.tensor([0, 0, 1], device=device))
    except Exception as error:
        problem, cause = f"raised {type(error).__name__}: {first_line(error)}", error
    else:
        if isinstance(made, Tensor) and made.shape == (3,):
            return
        shape = f" of shape {tuple(made.shape)}" if isinstance(made, Tensor) else ""
        problem = f"returned a {type(made).__name__}{shape}"
    channels = str(widths[0]) if widths[0] == widths[1] else f"{widths[0]} and {widths[1]}"
    fix = (
        _FIX if widths[0] == widths[1] else f"{_FIX} With same_width=True in its record both have the teacher's width."
    )
    raise ArgumentError("hidden_term", name, f"{problem} for 3 rows of {channels} channels.", fix) from cause


__all__ = ["HIDDEN_TERMS", "HiddenTerm"]
