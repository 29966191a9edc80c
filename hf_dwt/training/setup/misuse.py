"""Mistakes that training would not show: a collator of another task, teacher and student in each other's place."""

import logging

from torch import Tensor, nn
from transformers import DataCollatorForLanguageModeling

from ...errors import DataError, DistillationError
from ...forward.calls import Batch
from ...publish.describe import parameter_count
from ...tasks import IGNORED, Task

logger = logging.getLogger(__name__)

ENOUGH = 16  # labelled positions: a masked LM's collator leaves one token of ten as it is, but not all of so many


def collator_problems(task: Task, collator: object) -> list[DistillationError]:
    """A collator that masks tokens for a task that wants none masked, or none for one that does."""
    masks = getattr(collator, "mlm", None)
    if masks and getattr(collator, "mlm_probability", None) == 0:
        problem, fix = "masks no token, so no position has a label.", "Give a share above 0, such as 0.15."
        return [DataError("data_collator.mlm_probability", 0, problem, fix)]
    if getattr(type(collator), "torch_call", None) is not DataCollatorForLanguageModeling.torch_call:
        return []  # how it masks is its own affair: its first batch shows it
    if task.auto_class == "AutoModelForMaskedLM" and not masks:
        return [_of_another_task(task, collator, "with mlm=False masks nothing")]
    if task.auto_class == "AutoModelForCausalLM" and masks:
        return [_of_another_task(task, collator, "with mlm=True masks tokens")]
    return []


def require_labels_of_task(task: Task, batch: Batch, collator: object, mask_id: int | None) -> None:
    """Raise a DataError for a batch that teaches a masked LM to copy, or a causal LM to fill in masks.

    Args:
        batch: with "labels", to be compared with "input_ids" of the same shape.
        mask_id: of the token that stands for a masked one, if the tokenizer has one.
    """
    ids, labels = batch.get("input_ids"), batch.get("labels")
    if not isinstance(ids, Tensor) or not isinstance(labels, Tensor) or ids.shape != labels.shape:
        return
    counts = labels != IGNORED
    if task.auto_class == "AutoModelForMaskedLM" and counts.sum() >= ENOUGH and bool((ids == labels)[counts].all()):
        does = f"gives labels that equal the inputs at all {int(counts.sum())} labelled positions"
        raise _of_another_task(task, collator, does)
    if task.auto_class == "AutoModelForCausalLM" and mask_id is not None and "shift_labels" not in batch:
        masked = int((counts & (ids == mask_id) & (labels != mask_id)).sum())
        if masked:
            raise _of_another_task(task, collator, f"gives {masked} labels to tokens that are masked in the inputs")


def warn_of_larger_teacher(student: nn.Module, teacher: nn.Module) -> None:
    """Log that the teacher is the larger model: it may be meant, or the two may have changed places."""
    own, other = parameter_count(student), parameter_count(teacher)
    if own is not None and other is not None and other > own:
        logger.warning(
            "The teacher has %s parameters, the student %s. If they changed places, swap model and teacher_model.",
            f"{other:,}",
            f"{own:,}",
        )


def _of_another_task(task: Task, collator: object, does: str) -> DataError:
    """The error for a collator that does what suits causal language models for masked ones, or the other way."""
    masked = task.auto_class == "AutoModelForMaskedLM"
    why = (
        "a masked language model would learn to copy its input."
        if masked
        else "a causal language model predicts the next token of whole text."
    )
    other = "text generation" if masked else "fill-mask"
    fix = f"Use DataCollatorForLanguageModeling(tokenizer, mlm={masked}), or a model for {other}."
    return DataError("data_collator", type(collator).__name__, f"{does}: {why}", fix)
