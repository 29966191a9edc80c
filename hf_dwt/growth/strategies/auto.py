"""The best that can be had: exact by cloning, exact by padding, or the paper's remapping with its measured error."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from ...errors import GrowthError, first_line
from ..checkpoint import Teacher, renew
from ..config.rebuild import CONFIG_ERRORS
from ..report import Outcome
from ..verify.compare import compare
from ..width.mapping import Plan
from .clone import clone_init, plan_clone
from .pad import pad_init, plan_proven_pad
from .remap import Rest, plan_remap, remap_init


@dataclass(frozen=True)
class Choice:
    """The strategy that was chosen, and why not a better one.

    Args:
        init: its name.
        steps: its plan.
        refused: "name refused: reason" for each that was tried before.
    """

    init: str
    steps: Plan
    refused: tuple[str, ...] = ()


EXACT: dict[str, Any] = {"clone": clone_init, "pad": pad_init}
PLANS: dict[str, Callable[..., Plan]] = {"clone": plan_clone, "pad": plan_proven_pad}
"""What is tried before remapping, in this order."""


def choose(student: PreTrainedModel, teacher: Teacher, depth: str = "append", seed: int = 0) -> Choice:
    """What `auto_init` does, as far as that is known without a weight of the teacher."""
    refused: list[str] = []
    for init, plan in PLANS.items():
        try:
            return Choice(init, plan(student, teacher, depth, seed), tuple(refused))
        except GrowthError as error:
            refused.append(_refusal(init, error))
    return Choice("remap", plan_remap(student, teacher, depth), tuple(refused))


def _refusal(init: str, error: GrowthError) -> str:
    return f"{init} refused: {error.argument}: {error.problem}"


def auto_init(
    student: PreTrainedModel,
    teacher: Teacher,
    rest: Rest,
    *,
    depth: str = "append",
    symmetry: float = 0.5,
    seed: int = 0,
    steps: Choice | None = None,
    build_again: Callable[[], PreTrainedModel],
) -> Outcome:
    """Clone, else pad, else remap, in place; the notes say which, and why the better ones were refused.

    Args:
        depth: see `clone_init`; remapping copies layers under every rule.
        symmetry: see `clone_init`.
        seed: see `clone_init`.
        steps: of `choose`, if it was asked before; what it refused is not tried again.
        build_again: builds the student with its own initialisation.
    """
    choice = choose(student, teacher, depth, seed) if steps is None else steps
    plan: Plan | None = choice.steps
    refused = list(choice.refused)
    if choice.init != "clone":
        renew(student, build_again)  # all others keep some of the student's own initialisation, and it was given blank
    for name, initialise in list(EXACT.items())[len(refused) :]:
        options: dict[str, Any] = {"depth": depth, "seed": seed} | ({"symmetry": symmetry} if name == "clone" else {})
        try:
            outcome = initialise(student, teacher, rest, steps=plan, **options)
        except GrowthError as error:  # the proxy was right, and the teacher itself is another function
            refused.append(_refusal(name, error))
            plan = None
            renew(student, build_again)
            continue
        return replace(outcome, init=name, notes=(f"auto chose {name}", *refused, *outcome.notes))
    parameters = remap_init(student, teacher, rest, depth=depth, steps=plan)
    try:
        evidence = compare(teacher.model, student, seed)
    except (*CONFIG_ERRORS, RuntimeError) as error:
        refused.append(f"outputs could not be compared: {first_line(error)}")
        return Outcome(parameters, None, None, ("auto chose remap", *refused), init="remap")
    return Outcome(parameters, evidence.preserved, evidence.difference, ("auto chose remap", *refused), init="remap")
