"""Corrections of what a teacher predicts, row by row: one file and one line here each."""

from collections.abc import Callable, Mapping
from functools import partial

import torch

from ...errors import ArgumentError, first_line, unknown_name
from ...kinds import require_in_bounds
from ...parts import Part, registry, require_call
from ..targets import Correct, Targets
from .confidence import CONFIDENCE
from .gate import GATE
from .record import CorrectionPart
from .refine import REFINE
from .revise import REVISE

CORRECTIONS: dict[str, CorrectionPart] = registry(REVISE, REFINE, GATE, CONFIDENCE)
"""Name -> correction that `teacher_correction` may name."""
_TAKEN = {"the student's logits": None, "the teacher's": None, "labels": None, "progress": 0.0}
_FIX = "Give a function of the student's logits (n, C), the teacher's (n, P), labels (n,) and progress to `Targets`."


def get_correction(
    correction: "str | Correct | None", parameters: Mapping[str, object] | None = None
) -> Correct | None:
    """The correction of that name (or the callable itself) with its parameters bound; None without one.

    Raises:
        ArgumentError: unknown name, unknown parameter, or one out of its bounds.
    """
    parameters = parameters or {}
    if correction is None:
        if parameters:
            fix = "Name a correction: teacher_correction='revise'."
            raise ArgumentError("teacher_correction_kwargs", parameters, "have no correction to go to.", fix)
        return None
    known = CORRECTIONS.get(correction) if isinstance(correction, str) else None
    function: Callable[..., object] | None = correction if callable(correction) else known
    if function is None:
        otherwise = "a function of the student's logits, the teacher's, the labels and the progress of training"
        raise unknown_name("teacher_correction", correction, CORRECTIONS, otherwise)
    require_call("teacher_correction", correction, function, _TAKEN, parameters, _FIX)
    if isinstance(function, Part):
        require_in_bounds("teacher_correction_kwargs", parameters, function.bounds)
    bound: Correct = partial(function, **parameters)  # type: ignore[assignment]  # checked by calling it
    _require_targets(correction, bound)
    return bound


def _require_targets(name: object, correct: Correct, classes: int = 5) -> None:
    """Raise an ArgumentError unless (3, `classes`) logits give targets of 3 rows."""
    student, teacher = torch.randn(2, 3, classes, generator=torch.Generator().manual_seed(0))
    cause: Exception | None = None
    try:
        made: object = correct(student, teacher, torch.arange(3), 0.5)
    except Exception as error:
        problem, cause = f"raised {type(error).__name__}: {first_line(error)}", error
    else:
        if isinstance(made, Targets) and made.logits.shape == teacher.shape:
            return
        problem = f"returned a {type(made).__name__}"
    raise ArgumentError("teacher_correction", name, f"{problem} for 3 rows of {classes} classes.", _FIX) from cause


__all__ = ["CORRECTIONS", "get_correction"]
