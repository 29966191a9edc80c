"""The best that can be had: exact by cloning, exact by padding, or the paper's remapping with its measured error."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from ..errors import GrowthError, first_line
from .clone import clone_init
from .configs import CONFIG_ERRORS
from .pad import pad_init
from .proof import compare
from .remap import Rest, remap_init
from .report import Outcome
from .teacher import Teacher, renew


def auto_init(
    student: PreTrainedModel,
    teacher: Teacher,
    rest: Rest,
    *,
    depth: str = "append",
    symmetry: float = 0.5,
    seed: int = 0,
    build_again: Callable[[], PreTrainedModel],
) -> Outcome:
    """Clone, else pad, else remap, in place; the notes say which, and why the better ones were refused.

    Args:
        depth: see `clone_init`; remapping copies layers under every rule.
        symmetry: see `clone_init`.
        seed: see `clone_init`.
        build_again: builds the student with its own initialisation.
    """
    refused = []
    strategies: dict[str, Any] = {"clone": clone_init, "pad": pad_init}
    for name, initialise in strategies.items():
        options: dict[str, Any] = {"depth": depth} | ({"symmetry": symmetry} if name == "clone" else {})
        try:
            outcome = initialise(student, teacher, rest, seed=seed, **options)
        except GrowthError as error:
            refused.append(f"{name} refused: {error.argument}: {error.problem}")
            renew(student, build_again)
            continue
        return replace(outcome, notes=(f"auto chose {name}", *refused))
    parameters = remap_init(student, teacher, rest, depth=depth)
    try:
        evidence = compare(teacher.model, student, seed)
    except (*CONFIG_ERRORS, RuntimeError) as error:
        refused.append(f"outputs could not be compared: {first_line(error)}")
        return Outcome(parameters, None, None, ("auto chose remap", *refused))
    return Outcome(parameters, evidence.preserved, evidence.difference, ("auto chose remap", *refused))
