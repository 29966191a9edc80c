"""Growth: a larger student made from a smaller teacher. Knows models and configs; knows no training."""

import difflib
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..errors import DistillationError, GrowthError, raise_all
from .auto import auto_init
from .clone import clone_init
from .depth import DEPTHS
from .pad import pad_init
from .planning import GrowthPlan, plan_growth
from .random import random_init
from .remap import Rest, keep_init, remap_init, zeros
from .report import GrowthReport, Outcome, Source
from .sizes import larger_config
from .student import changed_numbers, check_shapes, own_initialisation, own_randomness
from .teacher import Teacher, open_teacher

__all__ = [
    "INITS",
    "RESTS",
    "GrowthPlan",
    "GrowthReport",
    "Outcome",
    "Source",
    "Teacher",
    "from_weak_teacher",
    "plan_growth",
]

logger = logging.getLogger(__name__)

Init = Callable[..., dict[str, Source] | Outcome]
"""Takes a student, which has its own initialisation, the `Teacher` and a `Rest`; changes the student in place and
returns the source of each parameter. A strategy that names `symmetry`, `seed` or `build_again`, which builds the
student with its own initialisation, as a parameter is given it."""

INITS: dict[str, Init] = {
    "random": random_init,
    "remap": remap_init,
    "clone": clone_init,
    "pad": pad_init,
    "auto": auto_init,
}
"""Initialisations by name. A strategy reads `teacher.model` only if it needs weights: they are loaded then."""

FILLED = (clone_init, auto_init)
"""Strategies that are given a `blank` student, as they write all of it or build it again."""

RESTS: dict[str, Rest] = {"init": keep_init, "zeros": zeros}
"""What a parameter holds where the teacher has nothing to copy, by name."""


def from_weak_teacher(
    teacher: str | Path | PreTrainedModel,
    *,
    auto_class: Any = None,
    hidden_size: int | None = None,
    num_hidden_layers: int | None = None,
    num_attention_heads: int | None = None,
    num_key_value_heads: int | None = None,
    head_dim: int | None = None,
    intermediate_size: int | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    init: str | Init = "remap",
    rest: str | Rest = "init",
    depth: str | None = None,
    symmetry: float = 0.5,
    seed: int = 0,
    output_report: bool = False,
    **from_pretrained_kwargs: Any,
) -> Any:
    """Grow a larger student from a smaller teacher (Lee et al., 2023, arXiv 2305.18239).

    Sizes that are not said are derived: heads keep their width, and heads, key/value heads and the FFN grow in
    proportion to the hidden size. Vocabulary, special ids, dropout, tied weights, dtype and generation config are the
    teacher's.

    Args:
        teacher: Hub id, local path or model.
        auto_class: class or its name, such as "AutoModelForMaskedLM"; default: the one the checkpoint names.
        hidden_size: width of the residual stream.
        num_hidden_layers: depth; the decoder of an encoder-decoder grows by the same ratio.
        num_attention_heads: query heads of a layer.
        num_key_value_heads: key/value heads of a layer, where the architecture has them.
        head_dim: width of a head.
        intermediate_size: width of the FFN.
        config_overrides: further attributes, under the config's own names; for a part of a composite config a dict.
        init: "remap" copies the teacher's parameters (the paper's), "clone" makes the student compute what the
            teacher does (integer ratios) or refuses, "pad" likewise at any ratio of a pre-norm model, "auto" the first
            of these that succeeds, else "remap" with its measured error; "random" copies none; or a function.
        rest: what stands where nothing was copied: the student's own "init" or "zeros"; or a function as in `RESTS`.
        depth: which layers new ones are made from, for "clone", "pad" and "auto". "append" (the default) and
            "interleave" add layers that hand on what they read, and are exact; "repeat_last", "stack" and
            "repeat_each" copy layers, and are refused unless they happen to be exact. "remap" repeats the last.
        symmetry: of "clone": how much the shares of copies differ; at 0 copies stay copies however long they train.
        output_report: return (student, report) instead of the student alone.
        seed: of the student's own initialisation. The global random state is neither read nor changed.
        **from_pretrained_kwargs: how to load the teacher: revision, dtype, token, subfolder, trust_remote_code, ...

    Returns:
        a stock transformers model on the CPU, in eval mode; `growth_report` says where each parameter comes from.

    Raises:
        GrowthError: in words that say what to do instead; several problems at once as `SetupError`.
    """
    problems: list[DistillationError] = []
    initialise, remainder = _choose("init", init, INITS, problems), _choose("rest", rest, RESTS, problems)
    if depth is not None:
        _choose("depth", depth, DEPTHS, problems)
    if depth is not None and callable(initialise) and "depth" not in inspect.signature(initialise).parameters:
        takes = ", ".join(name for name, known in INITS.items() if "depth" in inspect.signature(known).parameters)
        problems.append(GrowthError("depth", depth, f"init={_name(init)!r} takes none.", f"It is for {takes}."))
    raise_all(problems)
    source = open_teacher(teacher, auto_class, from_pretrained_kwargs)
    sizes = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "head_dim": head_dim,
        "intermediate_size": intermediate_size,
    }
    config = larger_config(source.config, sizes, config_overrides)
    check_shapes(source.skeleton, config)
    student = own_initialisation(source, config, seed, skip=initialise in FILLED)
    given = inspect.signature(initialise).parameters
    again = functools.partial(own_initialisation, source, config, seed)
    wanted = {"symmetry": symmetry, "seed": seed, "build_again": again} | ({} if depth is None else {"depth": depth})
    options = {key: value for key, value in wanted.items() if key in given}
    with own_randomness(seed):
        outcome = initialise(student, source, remainder, **options)
    outcome = outcome if isinstance(outcome, Outcome) else Outcome(outcome)
    parameters = outcome.parameters
    untrained = tuple(sorted(source.untrained)) if any(s.name for s in parameters.values()) else ()
    if untrained:
        logger.warning(
            "%d parameters are not in the teacher's checkpoint, so the student's are not the teacher's either: %s. "
            "If the checkpoint was trained for another task, name its class in auto_class.",
            len(untrained),
            ", ".join(untrained),
        )
    student.growth_report = GrowthReport(  # type: ignore[assignment]  # nn.Module declares tensors and modules only
        teacher=source.name,
        init=_name(init),
        rest=_name(rest),
        seed=seed,
        sizes=changed_numbers(source.config, student.config),
        parameters=parameters,
        untrained=untrained,
        preserved=outcome.preserved,
        difference=outcome.difference,
        notes=outcome.notes,
    )
    return (student.eval(), student.growth_report) if output_report else student.eval()


def _choose(argument: str, choice: Any, registry: Mapping[str, Any], problems: list[DistillationError]) -> Any:
    """The function a name stands for, or the function itself; an unknown name is added to `problems`."""
    if callable(choice) or (isinstance(choice, str) and choice in registry):
        return choice if callable(choice) else registry[choice]
    close = difflib.get_close_matches(str(choice), registry, n=1, cutoff=0.4)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    available = f"{guess}Available: {', '.join(registry)}."
    problems.append(GrowthError(argument, choice, f"Unknown {argument} {choice!r}.", available))
    return None


def _name(choice: Any) -> str:
    return choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)
