"""Growth: a larger student made from a smaller teacher. Knows models and configs; knows no training."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

from transformers import PreTrainedModel

from ..parts import Reference
from .checkpoint import Teacher
from .declare import declare
from .plan import GrownModel, GrowthPlan, plan_growth
from .report import GrowthReport, Outcome, Source
from .strategies import INITS, RESTS, Init, Rest
from .vocabulary import NEW_ROWS, NewRows

__all__ = [
    "INITS",
    "NEW_ROWS",
    "RESTS",
    "GrownModel",
    "GrowthPlan",
    "GrowthReport",
    "Outcome",
    "Reference",
    "Source",
    "Teacher",
    "declare",
    "from_weak_teacher",
    "plan_growth",
]


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
) -> GrownModel: ...


@overload
def from_weak_teacher(
    teacher: str | Path | PreTrainedModel, *, output_report: Literal[True], **options: Any
) -> tuple[GrownModel, GrowthReport]: ...


@overload
def from_weak_teacher(
    teacher: str | Path | PreTrainedModel, *, output_report: bool, **options: Any
) -> GrownModel | tuple[GrownModel, GrowthReport]: ...


@functools.wraps(plan_growth, assigned=())  # the same signature
def from_weak_teacher(teacher: Any, **arguments: Any) -> GrownModel | tuple[GrownModel, GrowthReport]:
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
    student = plan_growth(teacher, **arguments).apply()
    return (student, student.growth_report) if arguments.get("output_report") else student
