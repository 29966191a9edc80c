"""The best that can be had: the first exact strategy that succeeds, else the paper's with its measured error."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from transformers import PreTrainedModel

from ...errors import GrowthError, first_line
from ..building import renew
from ..checkpoint import Teacher
from ..config.rebuild import CONFIG_ERRORS
from ..proxy.model import Proxies
from ..report import Outcome
from ..rests import Rest, keep_init
from ..strategy import Choice, Strategy
from ..verify.compare import compare
from ..width.mapping import Plan

OTHERWISE = "remap"
"""What is taken where no strategy is exact."""

Strategies = Mapping[str, Strategy]


def choose(
    student: PreTrainedModel,
    teacher: Teacher,
    *,
    depth: str = "append",
    seed: int = 0,
    proxies: Proxies,
    strategies: Strategies,
) -> Choice:
    """Which strategy `grow_best` takes, as far as that is known without a weight of the teacher."""
    options = {"depth": depth, "seed": seed, "proxies": proxies}
    refused: list[str] = []
    for strategy in _exact(strategies):
        try:
            return Choice(strategy.name, _steps(strategy, student, teacher, options), tuple(refused))
        except GrowthError as error:
            refused.append(_refusal(strategy.name, error))
    return Choice(OTHERWISE, _steps(strategies[OTHERWISE], student, teacher, options), tuple(refused))


def grow_best(
    student: PreTrainedModel,
    teacher: Teacher,
    *,
    rest: Rest = keep_init,
    depth: str = "append",
    symmetry: float = 0.5,
    seed: int = 0,
    proxies: Proxies,
    steps: Choice,
    build_again: Callable[[], PreTrainedModel],
    strategies: Strategies,
) -> Outcome:
    """Fill `student` in place; the notes say by which strategy, and why the better ones were refused.

    Args:
        rest: of a strategy that copies a part.
        depth: a key of `DEPTHS`.
        symmetry: of copies of channels.
        seed: of all that is random.
        proxies: of which every strategy has the same.
        steps: of `choose`; what it refused is not tried again.
        build_again: builds the student with its own initialisation.
        strategies: all of them by name.
    """
    options = {"rest": rest, "depth": depth, "symmetry": symmetry, "seed": seed, "proxies": proxies}
    refused, left = list(steps.refused), list(_exact(strategies))[len(steps.refused) :]
    known: Plan | None = steps.steps  # of the first that is left
    if not strategies[steps.init].writes_all:
        renew(student, build_again)

    def filled(strategy: Strategy) -> Outcome:
        plan = _steps(strategy, student, teacher, options) if known is None else known
        result = strategy.fill(student, teacher, options | {"steps": plan})
        return result if isinstance(result, Outcome) else Outcome(result)

    for strategy in left:
        try:
            return _chosen(strategy.name, refused, filled(strategy))
        except GrowthError as error:  # the tiny model was right, and the teacher itself computes another function
            refused.append(_refusal(strategy.name, error))
            known = None
            renew(student, build_again)
    outcome = filled(strategies[OTHERWISE])
    try:
        evidence = compare(teacher.model, student, seed)
    except (*CONFIG_ERRORS, RuntimeError) as error:
        return _chosen(OTHERWISE, [*refused, f"outputs could not be compared: {first_line(error)}"], outcome)
    outcome = replace(outcome, preserved=evidence.preserved, difference=evidence.difference)
    return _chosen(OTHERWISE, refused, outcome)


def _exact(strategies: Strategies) -> Iterator[Strategy]:
    return (strategy for strategy in strategies.values() if strategy.exact)


def _steps(strategy: Strategy, student: PreTrainedModel, teacher: Teacher, options: Mapping[str, object]) -> Plan:
    planned = strategy.planned(student, teacher, options)
    return planned.steps if isinstance(planned, Choice) else planned


def _refusal(init: str, error: GrowthError) -> str:
    return f"{init} refused: {error.argument}: {error.problem}"


def _chosen(init: str, refused: list[str], outcome: Outcome) -> Outcome:
    return replace(outcome, init=init, notes=(f"auto chose {init}", *refused, *outcome.notes))


# A plan says which of the others is chosen, with the promise and the references of that one.
STRATEGY = Strategy(
    "auto",
    "the first exact one that succeeds, else remap",
    grow_best,
    promise="those of the one it takes; the report has the measured error",
    plan=choose,
    writes_all=True,
    by_parts=True,
)
