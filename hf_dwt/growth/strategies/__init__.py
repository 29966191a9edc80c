"""The strategies: how each fills a student, how that is planned, what it promises, and whose idea it is."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...parts import Reference
from ..report import Outcome, Source
from ..width.mapping import Plan
from .aki import aki_init, plan_aki
from .auto import Choice, auto_init, choose
from .clone import clone_init, plan_clone
from .pad import pad_init, plan_proven_pad
from .random import plan_random, random_init
from .remap import Rest, keep_init, plan_remap, remap_init, zeros

Init = Callable[..., dict[str, Source] | Outcome]
"""Takes a student, which has its own initialisation, the `Teacher` and a `Rest`; changes the student in place and
returns the source of each parameter. A strategy with a parameter `depth`, `symmetry`, `seed`, `steps`, the plan that
was made, or `build_again`, which builds the student with its own initialisation, is given it."""


@dataclass(frozen=True)
class Strategy:
    """One way to fill a student.

    Args:
        initialise: fills it.
        plan: (student on the meta device, teacher, options that it has a parameter for) -> how each parameter is made;
            None where only `initialise` knows. It reads no weight of the teacher.
        promise: what it says of the outputs.
        what: it does with a parameter that grows.
        exact: whether it makes the student compute what the teacher does, or refuses.
        writes_all: it is given a `blank` student, as it writes all of it or builds it again.
        reads_teacher: whether it reads the teacher's weights.
        references: whose ideas it is made of; those without a paper are this project's own.
    """

    initialise: Init
    plan: Callable[..., Plan | Choice] | None = None
    promise: str = "unknown: a function of your own"
    what: str = "copied"
    exact: bool = False
    writes_all: bool = False
    reads_teacher: bool = True
    references: tuple[Reference, ...] = ()


_EXACT = "exact, proven on a tiny proxy; compared again on the student when it is grown"
_PROVEN = Reference("maps of parameters proven on a tiny model of the same type", "hf_dwt's own")
_NET2NET = Reference("copied channels that share what reads them", "Net2Net", "1511.05641")

STRATEGIES: dict[str, Strategy] = {
    "random": Strategy(
        random_init,
        plan_random,
        "not exact: the class's own initialisation, nothing of the teacher is read",
        reads_teacher=False,
    ),
    "remap": Strategy(
        remap_init,
        plan_remap,
        "not exact: the overlap with the teacher's parameters is copied, outputs will differ",
        "overlap copied",
        references=(Reference("parameter remapping", "Fast Neural Network Adaptation", "2001.02525"),),
    ),
    "clone": Strategy(
        clone_init,
        plan_clone,
        _EXACT,
        "tiled",
        exact=True,
        writes_all=True,
        references=(
            _NET2NET,
            Reference("widening by integer ratios", "HyperCloning", "2409.12903"),
            Reference("new layers that hand on what they read", "LEMON", "2310.07999"),
            _PROVEN,
        ),
    ),
    "pad": Strategy(
        pad_init,
        plan_proven_pad,
        _EXACT,
        "padded",
        exact=True,
        references=(Reference("new channels and layers that change no output", "LEMON", "2310.07999"), _PROVEN),
    ),
    "aki": Strategy(
        aki_init,
        plan_aki,
        "not exact: new outputs are those of the layer above",
        "tiled",
        writes_all=True,
        references=(_NET2NET, Reference("advanced knowledge initialisation", "bert2BERT", "2110.07143"), _PROVEN),
    ),
    # Its plan says which of the others it chooses, with that one's promise and references.
    "auto": Strategy(auto_init, choose, writes_all=True),
}

INITS: dict[str, Init] = {name: strategy.initialise for name, strategy in STRATEGIES.items()}
"""Initialisations by name. A strategy reads `teacher.model` only if it needs weights: they are loaded then."""

RESTS: dict[str, Rest] = {"init": keep_init, "zeros": zeros}
"""What a parameter holds where the teacher has nothing to copy, by name."""


def strategy_of(init: str | Init) -> tuple[str, Strategy]:
    """(name, strategy) of a key of `INITS` or a function; a function that is in no registry has no plan."""
    initialise = INITS[init] if isinstance(init, str) else init
    for name, strategy in STRATEGIES.items():
        if strategy.initialise is initialise:
            return name, strategy
    name = init if isinstance(init, str) else getattr(init, "__name__", type(init).__name__)
    return name, Strategy(initialise)


def taken(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that `function` has a parameter for; it keeps its own default of what is None."""
    given = inspect.signature(function).parameters
    return {key: value for key, value in options.items() if key in given and value is not None}


def default_depth(strategy: Strategy) -> str:
    """The rule of depth that a strategy goes by unless another is asked for."""
    parameter = inspect.signature(strategy.initialise).parameters.get("depth")
    return "repeat_last" if parameter is None or parameter.default is parameter.empty else parameter.default
