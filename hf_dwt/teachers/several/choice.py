"""What a user may give as weighting, checked before a model is loaded: a name, numbers, or a function."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...errors import DistillationError, TeacherError, first_line, unknown_name
from ...kinds import Bounds, is_function
from ...objective import Targets
from ...parts import registry
from .cross_entropy import CROSS_ENTROPY
from .equal import EQUAL
from .perplexity import PERPLEXITY
from .record import Figures, Weigh, Weighting

WEIGHTINGS: dict[str, Weighting] = registry(CROSS_ENTROPY, PERPLEXITY, EQUAL)
"""Name -> weighting that `SeveralTeachers` may name."""
_OTHERWISE = "a number for each teacher, a function, or a ReinforcedSelection"


def weighting_problems(weighting: object, teachers: int, temperature: float) -> list[DistillationError]:
    """What is wrong with a weighting of so many teachers; a function is tried on a few rows."""
    if isinstance(weighting, str):
        known = weighting in WEIGHTINGS
        return [] if known else [unknown_name("weighting", weighting, WEIGHTINGS, _OTHERWISE, TeacherError)]
    if is_function(weighting):
        return _function_problems(weighting, teachers, temperature)  # type: ignore[arg-type]
    if isinstance(weighting, Sequence):
        return _number_problems(weighting, teachers)
    return [unknown_name("weighting", weighting, WEIGHTINGS, _OTHERWISE, TeacherError)]


def _number_problems(numbers: Sequence[object], teachers: int) -> list[DistillationError]:
    fix = f"Give {teachers} finite numbers from 0 upwards, in the order of the teachers, at least one above 0."
    if len(numbers) != teachers:
        problem = f"are {len(numbers)} numbers for {teachers} teachers."
        return [TeacherError("weighting", list(numbers), problem, fix)]
    wrong = [number for number in numbers if number not in Bounds()]
    if wrong:
        return [TeacherError("weighting", list(numbers), f"holds {wrong[0]!r}, which is no weight.", fix)]
    if not any(numbers):
        return [TeacherError("weighting", list(numbers), "leaves all teachers out.", fix)]
    return []


def _function_problems(
    function: Weigh, teachers: int, temperature: float, classes: int = 5
) -> list[DistillationError]:
    """Three rows of two examples."""
    drawn = torch.randn(teachers, 3, classes, generator=torch.Generator().manual_seed(0))
    figures = Figures([Targets(logits) for logits in drawn], torch.arange(3), torch.tensor([0, 0, 1]))
    try:
        made: object = function(figures, temperature)
    except Exception as error:
        problem = f"raised {type(error).__name__} for 3 rows of {teachers} teachers: {first_line(error)}"
    else:
        problem = _problem_of(made, teachers)
    fix = "Give a function of `Figures` and the temperature to (n, K) weights from 0 upwards, with row sums of 1."
    return [TeacherError("weighting", function, problem, fix)] if problem else []


def _problem_of(made: object, teachers: int) -> str:
    where = f"for 3 rows of {teachers} teachers."
    if not isinstance(made, Tensor):
        return f"returned a {type(made).__name__} {where}"
    if made.shape != (3, teachers):
        return f"returned a tensor of shape {tuple(made.shape)} {where}"
    if not (torch.isfinite(made).all() and (made >= 0).all()):
        return f"returned weights below 0, or that are not finite, {where}"
    if not torch.allclose(made.double().sum(1), torch.ones(3, dtype=torch.float64), atol=1e-4):
        return f"returned weights with sums of {[round(float(s), 4) for s in made.sum(1)]} {where}"
    return ""


def get_weighting(weighting: "str | Sequence[float] | Weigh") -> Weigh:
    """The weighting that passed `weighting_problems`."""
    if isinstance(weighting, str):
        return WEIGHTINGS[weighting]
    return weighting if callable(weighting) else Numbers(weighting)


class Numbers:
    """Weights that are the same on all rows: numbers from 0 upwards, divided by their sum."""

    def __init__(self, numbers: Sequence[float]) -> None:
        parts = [number / max(numbers) for number in numbers]  # whose sum is finite, however large they are
        self._shares = [part / sum(parts) for part in parts]

    def __call__(self, figures: Figures, temperature: float) -> Tensor:
        """Those of each row; the temperature is not read."""
        return torch.tensor(self._shares, device=figures.groups.device).expand(figures.shape)


def named_teachers(teachers: object) -> tuple[dict[str, object], list[DistillationError]]:
    """Teachers by name, those of a list by their place; and what is wrong with the names."""
    fix = "Give ids, paths, models or teachers, in a list or by names."
    if isinstance(teachers, str) or not isinstance(teachers, Sequence | Mapping):
        return {}, [TeacherError("teachers", teachers, "is no list of teachers.", fix)]
    if not teachers:
        return {}, [TeacherError("teachers", teachers, "are none: nothing could be mixed.", fix)]
    if not isinstance(teachers, Mapping):
        return {str(place): one for place, one in enumerate(teachers)}, []
    wrong = [name for name in teachers if not (isinstance(name, str) and name.replace("-", "_").isidentifier())]
    wrong = [name for name in wrong if not str(name).isdigit()]
    if len({str(name) for name in teachers}) < len(teachers):
        twice, own = "has a name twice.", "Give each teacher a name of its own."
        return {}, [TeacherError("teachers", list(teachers), twice, own)]
    problem = "is no name for logs and folders."
    how = "Use letters, digits, - and _."
    return {str(name): one for name, one in teachers.items()}, [
        TeacherError("teachers", name, problem, how) for name in wrong
    ]
