"""What a run is set up of, checked before the first step: all that is wrong is raised together."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import datasets
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    BaseImageProcessor,
    FeatureExtractionMixin,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainingArguments,
)

from ...arguments import DistillationArguments
from ...batches.proposing import plain_of
from ...errors import ArgumentError, DistillationError, SetupError, TaskError, raise_all
from ...objective.divergences import get_soft_term, require_divergence
from ...tasks import Task, find_task
from ...teachers.cache.request import cache_problems
from ...teachers.composed import TeacherSource
from ...teachers.corrected import CorrectedTeacher
from ...teachers.placement import placement_problems
from ...teachers.vocabulary import class_count
from .hidden_plan import HiddenPlan, make_hidden_plan
from .layouts import layout_problems
from .misuse import collator_problems
from .outcomes import outcome_problems
from .proposals import proposal_problems
from .sources import Loaded, SourceCheck, widest
from .validation import hub_problems, padding_problems

# What arguments of the trainer may be.
Examples: TypeAlias = Dataset[Any] | datasets.Dataset | datasets.IterableDataset | Sequence[Any]
Processor: TypeAlias = PreTrainedTokenizerBase | BaseImageProcessor | FeatureExtractionMixin | ProcessorMixin


class Setup(NamedTuple):
    """What a run consists of, once it has been checked.

    task: the student's.
    teacher: the loaded models and other objects that it is made of, or None.
    hidden: what the term on hidden states compares, or None.
    """

    task: Task
    teacher: Loaded | None
    hidden: HiddenPlan | None


def check_setup(
    student: nn.Module,
    teacher_source: TeacherSource | None,
    args: TrainingArguments,
    options: DistillationArguments,
    tokenizer: Any = None,
    teacher_tokenizer: Any = None,
    collator: object = None,
) -> Setup:
    """Load the teacher and check that student, teacher, tokenizers, collator and arguments go together.

    Raises:
        DistillationError: one of its kinds for one problem; a `SetupError` with all of them for several.
    """
    problems = layout_problems(student, args) + hub_problems(args)
    if options.hard_weight == 0 and teacher_source is None:
        problems.append(
            ArgumentError("hard_weight", 0, "without teacher_model leaves nothing to learn.", "Raise it above 0.")
        )
    try:
        task = find_task(student)
    except TaskError as error:
        raise_all([*problems, error])
        raise
    problems += collator_problems(task, plain_of(collator)) + padding_problems(student, task, args, "model", tokenizer)
    problems += proposal_problems(collator, student, task, tokenizer, teacher_source, args, options)
    problems += outcome_problems(task, student, teacher_source, args, options)
    teacher = None
    if teacher_source is not None:
        form = options.teacher_cache_form if task.vocabulary else None
        problems += cache_problems(teacher_source, options.teacher_cache, form)
        if isinstance(teacher_source, CorrectedTeacher) and (given := options.teacher_correction) is not None:
            problem = "stands beside a teacher that has a correction already, and a row is corrected once."
            problems.append(ArgumentError("teacher_correction", given, problem, "Give one of them."))
        problems += placement_problems(teacher_source, options.teacher_placement)
        check = SourceCheck(student, task, args, options, tokenizer, teacher_tokenizer)
        teacher = check.load(teacher_source)
        problems += check.problems
    hidden = None
    try:
        hidden = make_hidden_plan(student, teacher_source, teacher, options, args)
    except DistillationError as error:
        problems += error.problems if isinstance(error, SetupError) else [error]
    raise_all(problems)
    classes = widest(teacher) or class_count(student, task)
    require_divergence(get_soft_term(options.soft_term), max(classes, 2), args.device)
    return Setup(task, teacher, hidden)
