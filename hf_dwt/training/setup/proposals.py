"""What a run cannot be with a collator that makes text."""

from typing import Any

from torch import nn
from transformers import TrainingArguments

from ...arguments import DistillationArguments
from ...batches.proposing import ProposingCollator
from ...errors import ArgumentError, DistillationError, TeacherError
from ...tasks import Task
from ...teachers.columns import ColumnTeacher
from .misuse import truth_problems


def proposal_problems(
    collator: object,
    student: nn.Module,
    task: Task,
    tokenizer: Any,
    teacher: object,
    args: TrainingArguments,
    options: DistillationArguments,
) -> list[DistillationError]:
    """Why the text of a proposing collator teaches this student nothing, or teaches it under wrong names.

    Args:
        collator: of training; nothing is wrong with one that makes no text.
        student, task: whom it is for.
        tokenizer: of the trainer, or None.
        teacher: `teacher_model`.
        args, options: of the run.
    """
    if not isinstance(collator, ProposingCollator) or not collator.proposes:
        return []
    name, problems = type(collator).__name__, collator.problems(student, task, tokenizer)
    if options.teacher_cache:
        problem = f"keeps what a teacher predicts for texts that come again, and {name} makes others each time."
        problems.append(ArgumentError("teacher_cache", options.teacher_cache, problem, "Leave it out."))
    if isinstance(teacher, ColumnTeacher):
        problem = f"has predicted for the texts of the data set, and {name} makes others."
        problems.append(TeacherError("teacher_model", type(teacher).__name__, problem, "Give a model."))
    if args.dataloader_num_workers and collator.runs_on_gpu:
        problem = f"run models for {name}, which a worker cannot do on a GPU."
        fix = "Use 0, or give the collator a teacher by id or path, which is then run on the CPU."
        problems.append(ArgumentError("dataloader_num_workers", args.dataloader_num_workers, problem, fix))
    if not collator.hides_labels:
        return problems
    fix = "Give it, or leave the collator's words as labels: labels='words'."
    if teacher is None:
        problem = f"leaves the words that {name} draws without any term."
        problems.append(TeacherError("teacher_model", None, problem, fix))
    elif options.soft_weight == 0:
        problem = f"leaves the words that {name} draws without any term."
        problems.append(ArgumentError("soft_weight", 0, problem, "Raise it above 0, or use labels='words'."))
    return problems + truth_problems(options, teacher)
