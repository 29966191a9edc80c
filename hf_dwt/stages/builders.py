"""Lists of stages as papers have them, upwards: from a small model to a large one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..errors import ArgumentError, raise_all
from ..training.setup.check import Examples
from .heads import BodyOf
from .stage import PREVIOUS, Stage, Stages

Sizes = Mapping[str, Any]


def progressive(
    sizes: Sequence[Sizes], masks: float | Sequence[float], steps: int | Sequence[int], **arguments: Any
) -> Stages:
    """Students of growing size, each the next one's teacher, with features compared at masked positions.

    After PMD (arXiv 2401.12997), which goes downwards, from 12 layers to 3 at mask rates from 20 % to 0: a rate for
    each capacity, and each student the next teacher, are the paper's. Upwards, with a rate that rises, is ours.

    Args:
        sizes: of each student, as arguments of `from_weak_teacher`, from the smallest on.
        masks: share of tokens to predict at each size.
        steps: of each stage, or of all.
        **arguments: of all stages, as `Stage` has them; `hidden_term` is "masked_features" unless they say another.

    Raises:
        ArgumentError: lists of different lengths, or what `Stage` refuses.
    """
    _require_free(arguments, "grow", "mask", "data_collator")
    lengths = _each("steps", steps, len(sizes))
    rates = _each("masks", masks, len(sizes))
    return Stages(
        Stage(
            grow=size,
            mask=mask,
            steps=length,
            **{"name": f"size-{number}", "teacher": PREVIOUS, "hidden_term": "masked_features", **arguments},
        )
        for number, (size, mask, length) in enumerate(zip(sizes, rates, lengths, strict=True), start=1)
    )


def generations(sizes: Sequence[Sizes], steps: int | Sequence[int], **arguments: Any) -> Stages:
    """Students of growing size, each the next one's teacher, whose soft weight falls to 0 within its stage.

    After Knowledge Inheritance over generations (arXiv 2105.13880), whose students start at random: that is
    `{"init": "random", ...}` in each of the sizes. Students that start from their teacher are ours.

    Args:
        sizes: of each student, as arguments of `from_weak_teacher`, from the smallest on.
        steps: of each stage, or of all.
        **arguments: of all stages, as `Stage` has them; `soft_weight_schedule` is "knowledge_inheritance" unless they
            say another.

    Raises:
        ArgumentError: lists of different lengths, or what `Stage` refuses.
    """
    _require_free(arguments, "grow")
    given = {"teacher": PREVIOUS, "soft_weight_schedule": "knowledge_inheritance", **arguments}
    return Stages(
        Stage(grow=size, steps=length, **{"name": f"generation-{number}", **given})
        for number, (size, length) in enumerate(zip(sizes, _each("steps", steps, len(sizes)), strict=True), start=1)
    )


def ernie_tiny(
    *,
    pretrained: str | Path | PreTrainedModel,
    finetuned: str | Path | PreTrainedModel,
    general: Examples,
    task: Examples,
    steps: int | Sequence[int],
    grow: Sizes | None = None,
    mask: float = 0.15,
    hidden_term: str = "masked_features",
    eval_general: Examples | None = None,
    eval_task: Examples | None = None,
    **arguments: Any,
) -> Stages:
    """ERNIE-Tiny's four stages (arXiv 2106.02241), from a masked language model to a classifier of texts.

    1. general: the pretrained teacher's hidden states, on general text;
    2. enhanced: the fine-tuned teacher's hidden states, on general text;
    3. adaptive: the same teacher's, on the texts of the task, without their labels;
    4. specific: the same, with its predictions and the labels.

    The four are the paper's, of which no more than the abstract was at hand: its loss on hidden states is not known,
    and `hidden_term` stands for it. In the second stage the body of the fine-tuned teacher has the pretrained one's
    head (`BodyOf`), since the student is a masked language model still; that head is not in the loss. Before the third
    the student gets a classifier's head: see `Stage`.

    Args:
        pretrained: Hub id, path or model: a masked language model.
        finetuned: the same, fine-tuned as a classifier of texts; it must not have seen what the result is tested on.
        general: tokenised text.
        task: tokenised texts with labels.
        steps: of each stage, or of all.
        grow: arguments of `from_weak_teacher`, by which the student of the first stage starts.
        mask: share of tokens to predict on general text: where hidden states are compared.
        hidden_term: see `DistillationArguments`.
        eval_general: to evaluate on in the first two stages.
        eval_task: to evaluate on in the last two.
        **arguments: of all stages, as `Stage` has them; `hard_weight` and `soft_weight` of the last alone.

    Raises:
        ArgumentError: a number of steps for another number of stages, or what `Stage` refuses.
    """
    _require_free(arguments, "name", "teacher", "dataset", "eval_dataset")
    lengths = _each("steps", steps, 4)
    hidden = {"hidden_term": hidden_term, **arguments}
    alone = {**hidden, "hard_weight": 0.0, "soft_weight": 0.0}
    texts: dict[str, Any] = {"dataset": general, "eval_dataset": eval_general, "mask": mask}
    topics: dict[str, Any] = {"dataset": task, "eval_dataset": eval_task, "teacher": finetuned}
    body = BodyOf(finetuned, head=pretrained)
    return Stages(
        [
            Stage(name="general", teacher=pretrained, steps=lengths[0], grow=grow, **texts, **alone),
            Stage(name="enhanced", teacher=body, steps=lengths[1], **texts, **alone),
            Stage(name="adaptive", steps=lengths[2], task="text-classification", **topics, **alone),
            Stage(name="specific", steps=lengths[3], **topics, **hidden),
        ]
    )


def _each(name: str, values: Any, count: int) -> Sequence[Any]:
    """A value for each of so many stages."""
    if isinstance(values, int | float):
        return [values] * count
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        problem = f"is not of the {count} stages."
        raise ArgumentError(name, values, problem, f"Give {count}, or a single number.")
    return values


def _require_free(arguments: Mapping[str, object], *names: str) -> None:
    """Raise an ArgumentError for what the list gives to each stage by itself."""
    fix = "Leave it out, or write the stages as a list."
    raise_all(
        [ArgumentError(n, arguments[n], "is that of each stage by itself.", fix) for n in names if n in arguments]
    )
