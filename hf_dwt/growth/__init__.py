"""Growth: a larger student made from a smaller teacher. Knows models and configs; knows no training."""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import DistillationError, GrowthError, raise_all, unknown_name
from .aki import aki_init
from .auto import auto_init
from .clone import clone_init
from .declare import declare
from .depth import DEPTHS, order
from .pad import pad_init
from .planning import GrowthPlan, plan_growth
from .random import random_init
from .remap import Rest, keep_init, remap_init, zeros
from .report import GrowthReport, Outcome, Source
from .sizes import larger_config, padded_vocabulary
from .student import changed_numbers, check_shapes, own_initialisation, own_randomness
from .tables import NEW_ROWS, NewRows, with_new_rows, without_new_rows
from .teacher import Teacher, open_teacher

__all__ = [
    "INITS",
    "NEW_ROWS",
    "RESTS",
    "GrowthPlan",
    "GrowthReport",
    "Outcome",
    "Source",
    "Teacher",
    "declare",
    "from_weak_teacher",
    "plan_growth",
]

logger = logging.getLogger(__name__)

Init = Callable[..., dict[str, Source] | Outcome]
"""Takes a student, which has its own initialisation, the `Teacher` and a `Rest`; changes the student in place and
returns the source of each parameter. A strategy with a parameter `depth`, `symmetry`, `seed` or
`build_again`, which builds the student with its own initialisation, is given it."""

INITS: dict[str, Init] = {
    "random": random_init,
    "remap": remap_init,
    "clone": clone_init,
    "pad": pad_init,
    "aki": aki_init,
    "auto": auto_init,
}
"""Initialisations by name. A strategy reads `teacher.model` only if it needs weights: they are loaded then."""

FILLED = (clone_init, aki_init, auto_init)
"""Strategies that are given a `blank` student, as they write all of it or build it again."""

RESTS: dict[str, Rest] = {"init": keep_init, "zeros": zeros}
"""What a parameter holds where the teacher has nothing to copy, by name."""


@overload
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
    vocab_size: int | None = None,
    pad_vocab_to_multiple_of: int | None = None,
    max_position_embeddings: int | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    init: str | Init = "remap",
    rest: str | Rest = "init",
    new_rows: str | NewRows = "init",
    depth: str | None = None,
    symmetry: float = 0.5,
    seed: int = 0,
    output_report: Literal[False] = False,
    **from_pretrained_kwargs: Any,
) -> PreTrainedModel: ...


@overload
def from_weak_teacher(
    teacher: str | Path | PreTrainedModel, *, output_report: Literal[True], **options: Any
) -> tuple[PreTrainedModel, GrowthReport]: ...


@overload
def from_weak_teacher(
    teacher: str | Path | PreTrainedModel, *, output_report: bool, **options: Any
) -> PreTrainedModel | tuple[PreTrainedModel, GrowthReport]: ...


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
    vocab_size: int | None = None,
    pad_vocab_to_multiple_of: int | None = None,
    max_position_embeddings: int | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    init: str | Init = "remap",
    rest: str | Rest = "init",
    new_rows: str | NewRows = "init",
    depth: str | None = None,
    symmetry: float = 0.5,
    seed: int = 0,
    output_report: bool = False,
    **from_pretrained_kwargs: Any,
) -> PreTrainedModel | tuple[PreTrainedModel, GrowthReport]:
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
        vocab_size: number of rows of the embedding and the head, such as len(tokenizer) with added tokens. Old tokens
            keep their rows, and their logits under the exact initialisations.
        pad_vocab_to_multiple_of: rounds the number of rows up.
        max_position_embeddings: number of positions; learned ones get new rows behind the old.
        config_overrides: further attributes, under the config's own names; for a part of a composite config a dict.
        init: "remap" copies the teacher's parameters (the paper's), "clone" makes the student compute what the
            teacher does (integer ratios) or refuses, "pad" likewise at any ratio of a pre-norm model, "auto" the first
            of these that succeeds, else "remap" with its measured error; "aki" takes new neurons from the layer above
            (bert2BERT), not exact; "random" copies none; or a function.
        rest: what stands where nothing was copied: the student's own "init" or "zeros"; or a function as in `RESTS`.
        new_rows: what the rows of new tokens hold: the student's own "init", the "mean" of the old ones, or draws from
            the "normal" distribution with their mean and covariance; or a function as in `NEW_ROWS`.
        depth: which layers new ones are made from: "append", "interleave", "stack", "repeat_each" or "repeat_last".
            For "clone", "pad" and "auto" the first two add layers that hand on what they read, and are exact ("append"
            is their default), and the others are refused unless they happen to be exact. "remap" copies layers under
            every rule ("repeat_last" is the paper's), "aki" stacks. What a config lists per layer goes with its layer.
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
    rows = _choose("new_rows", new_rows, NEW_ROWS, problems)
    if depth is not None:
        _choose("depth", depth, dict.fromkeys(DEPTHS), problems)
    raise_all(problems)
    source = open_teacher(teacher, auto_class, from_pretrained_kwargs)
    sizes = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "head_dim": head_dim,
        "intermediate_size": intermediate_size,
        "vocab_size": padded_vocabulary(source.config, vocab_size, pad_vocab_to_multiple_of),
        "max_position_embeddings": max_position_embeddings,
    }
    options = _options(initialise, depth=depth, symmetry=symmetry, seed=seed)
    layers = depth or options.get("depth", "repeat_last")
    config = larger_config(source.config, sizes, config_overrides, functools.partial(order, layers))
    check_shapes(source.skeleton, config, layers)
    outcome, student = _grown(source, config, initialise, remainder, rows, options, seed)
    named = {"init": _name(init), "rest": _name(rest), "seed": seed}
    report = _report(source, student, outcome, named)
    student.growth_report = report  # type: ignore[assignment]  # nn.Module declares tensors and modules only
    return (student, report) if output_report else student


def _choose(argument: str, choice: Any, registry: Mapping[str, Any], problems: list[DistillationError]) -> Any:
    """The function a name stands for, or the function itself; an unknown name is added to `problems`."""
    if isinstance(choice, str) and choice in registry:
        return registry[choice]
    if not callable(choice):
        problems.append(unknown_name(argument, choice, registry, error=GrowthError))
    return choice


def _options(initialise: Init, **wanted: Any) -> dict[str, Any]:
    """Those of the options that a strategy takes, with its own default for the depth that was not said."""
    given = inspect.signature(initialise).parameters
    own = {"depth": given["depth"].default} if "depth" in given and wanted["depth"] is None else {}
    return {key: value for key, value in {**wanted, **own}.items() if key in given}


def _grown(
    source: Teacher,
    config: PreTrainedConfig,
    initialise: Init,
    rest: Rest,
    rows: NewRows,
    options: Mapping[str, Any],
    seed: int,
) -> tuple[Outcome, PreTrainedModel]:
    """What the strategy did, and the student it did it to."""
    teacher, shares = with_new_rows(source, config, rows, seed)
    student = own_initialisation(source, config, seed, skip=initialise in FILLED)
    again = functools.partial(own_initialisation, source, config, seed)
    more = {"build_again": again} if "build_again" in inspect.signature(initialise).parameters else {}
    with own_randomness(seed):
        outcome = initialise(student, teacher, rest, **options, **more)
    outcome = outcome if isinstance(outcome, Outcome) else Outcome(outcome)
    return replace(outcome, parameters=without_new_rows(outcome.parameters, shares)), student.eval()


def _report(source: Teacher, student: PreTrainedModel, outcome: Outcome, named: dict[str, Any]) -> GrowthReport:
    parameters = outcome.parameters
    untrained = tuple(sorted(source.untrained)) if any(s.name for s in parameters.values()) else ()
    if untrained:
        logger.warning(
            "%d parameters are not in the teacher's checkpoint, so the student's are not the teacher's either: %s. "
            "If the checkpoint was trained for another task, name its class in auto_class.",
            len(untrained),
            ", ".join(untrained),
        )
    return GrowthReport(
        teacher=source.name,
        **named,
        sizes=changed_numbers(source.config, student.config),
        parameters=parameters,
        untrained=untrained,
        preserved=outcome.preserved,
        difference=outcome.difference,
        notes=outcome.notes,
        unproven=outcome.unproven,
    )


def _name(choice: Any) -> str:
    return choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)
