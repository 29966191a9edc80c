"""Mistakes that training would not show: a collator of another task, teacher and student in each other's place."""

import logging

from torch import Tensor, nn
from transformers import DataCollatorForLanguageModeling

from ...arguments import DistillationArguments
from ...errors import ArgumentError, DataError, DistillationError, TeacherError
from ...forward.calls import Batch
from ...forward.rows import HARD, SOFT
from ...publish.describe import parameter_count
from ...tasks import IGNORED, Task
from ...teachers import CorrectedTeacher, OnlineTeacher, SeveralTeachers

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


def require_weights_in_batch(dataset: object, batch: Batch) -> None:
    """Raise a DataError for weights of rows that are columns of the data set, and do not reach the batch."""
    for name in {HARD, SOFT} & set(getattr(dataset, "column_names", None) or ()):
        if name not in batch:
            problem = f"is a column of train_dataset, and no entry of the batch, which has {', '.join(sorted(batch))}."
            fix = "Use a data collator that keeps it, such as DataCollatorForLanguageModeling, or drop the column."
            raise DataError(name, "a column", problem, fix)


def truth_problems(options: DistillationArguments, teacher: object) -> list[DistillationError]:
    """What reads the label of each row as the truth, and cannot tell rows that have none."""
    problem = f"reads the label of each row as the truth, and the batches weigh them ({HARD})."
    if options.teacher_correction is not None:
        return [ArgumentError("teacher_correction", options.teacher_correction, problem, "Leave it out.")]
    if isinstance(teacher, SeveralTeachers | CorrectedTeacher | OnlineTeacher):
        return [TeacherError("teacher_model", type(teacher).__name__, problem, "Give one frozen model.")]
    return []


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
