"""The record of a strategy: how a student is planned and filled, what that promises, and whose idea it is."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ..parts import OWN, Part, Reference, keyword_defaults
from .checkpoint import Teacher
from .paging import NotByPartsError, pages_of
from .proxy.model import Proxies
from .report import Outcome, Source
from .rests import keep_init
from .width.mapping import Plan

Filled = dict[str, Source] | Outcome
Init = Callable[..., Filled]
"""(student with its own initialisation, `Teacher`) -> the source of each parameter of the student, which is changed in
place. It is given those of `GIVEN` that it has a parameter for."""

SETTINGS = ("rest", "depth", "symmetry", "seed")
"""What a user may set of a strategy, as in `from_weak_teacher`."""

GIVEN = (*SETTINGS, "proxies", "steps", "build_again", "strategies")
"""What a strategy may have a parameter for: what a user set; `proxies`, tiny models of teacher and student, the
same for plan and function; `steps`, what was planned; `build_again`, which builds the student with its own
initialisation; `strategies`, all of them by name."""

Ratio = tuple[int, int]
"""(times, by): a width is multiplied by times / by."""

EXACT = "exact, proven on a tiny model of this type and compared with the teacher when it is grown"
PROVEN = Reference("maps of parameters proven on a tiny model of the same type", OWN)
TILED = "whole copies of the teacher's channels; copies of an input share its weight"
"""What "tiled" means."""
NET2NET = Reference("copied channels that share what reads them", "Net2Net", "1511.05641")


@dataclass(frozen=True)
class Choice:
    """The strategy that a plan chose, and why not a better one.

    Args:
        init: its name.
        steps: its plan.
        refused: "name refused: reason" for each that was tried before.
    """

    init: str
    steps: Plan
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strategy(Part[..., Filled]):
    """One way to fill a student. Its function is an `Init`; calling the record plans and fills.

    Args:
        plan: (student on the meta device, teacher) -> how each parameter is made, with options as an `Init` has them;
            None where only the function knows. It reads no weight of the teacher.
        verb: what is done with a parameter that grows, in a word.
        meaning: that word explained, for whoever reads a plan.
        exact: whether it makes the student compute what the teacher does, or refuses.
        ratios: by what an exact one can widen; the first is the smallest.
        writes_all: it writes every parameter or builds the student again, so that it is given one without values.
        reads_teacher: whether it reads the teacher's weights.
        by_parts: it writes the student through `paging.fill` alone, as `apply_plan` does, and reads the teacher by
            `paging.weights`, so that neither has to be in memory.
    """

    plan: Callable[..., Plan | Choice] | None = None
    verb: str = "copied"
    meaning: str = ""
    exact: bool = False
    ratios: tuple[Ratio, ...] = ((2, 1),)
    writes_all: bool = False
    reads_teacher: bool = True
    by_parts: bool = False

    def __call__(
        self, student: PreTrainedModel, teacher: Teacher, rest: object = keep_init, seed: int = 0, **options: object
    ) -> Filled:
        """Plan and fill, for a function that builds on this strategy; options are those of an `Init`."""
        given = {"rest": rest, "seed": seed, "proxies": Proxies(teacher.skeleton, student.config, seed), **options}
        if self.plan is not None:
            given.setdefault("steps", self.planned(student, teacher, given))
        return self.fill(student, teacher, given)

    def planned(self, student: PreTrainedModel, teacher: Teacher, options: Mapping[str, object]) -> Plan | Choice:
        """The plan, with those of `options` that it has a parameter for; empty where only the function knows."""
        return self.plan(student, teacher, **_taken(self.plan, options)) if self.plan else {}

    def fill(self, student: PreTrainedModel, teacher: Teacher, options: Mapping[str, object]) -> Filled:
        """Fill the student, with those of `options` that the function has a parameter for."""
        if pages_of(student) is not None and not self.by_parts:
            raise NotByPartsError(self.name, f"init={self.name!r} writes to the whole student")
        return self.function(student, teacher, **_taken(self.function, options))

    @property
    def parameters(self) -> dict[str, Any]:
        """Name -> default of what a user may set: those of `SETTINGS` that plan or function has a parameter for."""
        planned = keyword_defaults(self.plan) if self.plan else {}
        return {name: value for name, value in {**planned, **super().parameters}.items() if name in SETTINGS}

    @property
    def tiles(self) -> bool:
        """Whether the student's channel j of the residual stream holds the teacher's channel j mod d."""
        return self.meaning == TILED

    @property
    def depth(self) -> str:
        """The rule of depth unless another is asked for: its default, "repeat_last" where there is no choice."""
        return str(self.parameters.get("depth", "repeat_last"))


def _taken(function: Callable[..., object], options: Mapping[str, object]) -> dict[str, object]:
    """Those of `options` that `function` has a parameter for; it keeps its own default of what is None."""
    parameters = inspect.signature(function).parameters
    return {key: value for key, value in options.items() if key in parameters and value is not None}


def unplanned(function: Init) -> Strategy:
    """The record of a function of the caller's own."""
    name = getattr(function, "__name__", type(function).__name__)
    return Strategy(name, "a function of your own", function, promise="unknown: a function of your own")
