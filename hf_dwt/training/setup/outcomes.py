"""Options and teachers that mean nothing for what a task predicts: refused before the first step, not passed over."""

from collections.abc import Iterator

from torch import nn
from transformers import TrainingArguments

from ...arguments import DistillationArguments
from ...errors import ArgumentError, DistillationError, TaskError, TeacherError
from ...forward.row_logits import adds_tokens
from ...objective.divergences import is_forward_kl
from ...objective.divergences.forward_kl import FORWARD_KL
from ...schedules.adaptive import ADAPTIVE
from ...tasks import Outcome, Task
from ...teachers.columns import ColumnTeacher
from ...teachers.composed import ComposedTeacher, FittedTeacher


def outcome_problems(
    task: Task, student: nn.Module, teacher: object, args: TrainingArguments, options: DistillationArguments
) -> list[DistillationError]:
    """What a run asks for and its task does not have.

    Args:
        task: of the student.
        student: the model that learns.
        teacher: as the user gave it; None without one.
        args: of the run.
        options: of distillation.
    """
    problems: list[DistillationError] = []
    if task.outcome is Outcome.NUMBER:
        problems += _number_problems(teacher, args, options)
    if task.outcome is Outcome.CHOICE and teacher is not None and options.teacher_cache:
        problem = f"keeps rows of one width, and those of {task.name} differ in how much there is to choose from."
        problems.append(ArgumentError("teacher_cache", options.teacher_cache, problem, "Leave it out."))
    if isinstance(teacher, FittedTeacher) and (task.outcome is not Outcome.CLASS or not task.reads_text):
        problem = f"reads the classes of texts, and {task.name} has at a row {task.outcome.value}."
        problems.append(TeacherError("teacher_model", type(teacher).__name__, problem, "Give a model."))
    if options.hidden_term is not None and (not task.reads_text or task.name == "multiple-choice"):
        problem = f"compares the positions of one text an example, which {task.name} does not have."
        problems.append(ArgumentError("hidden_term", options.hidden_term, problem, "Leave it out."))
    if task.labels != ("labels",) and adds_tokens(student):
        problem = "puts virtual tokens before the text, by which the positions of answers would be shifted."
        problems.append(TaskError("model", type(student).__name__, problem, "Use another adapter, such as LoRA."))
    return problems


def _number_problems(
    teacher: object, args: TrainingArguments, options: DistillationArguments
) -> Iterator[DistillationError]:
    """What is made for distributions over classes, where squared errors take their place."""
    if args.label_smoothing_factor:
        problem = "spreads a label over classes, and a number has none."
        yield ArgumentError("label_smoothing_factor", args.label_smoothing_factor, problem, "Set it to 0.")
    if teacher is None:
        return
    given: dict[str, tuple[object, object, str]] = {
        "temperature": (options.temperature, 1.0, "divides logits, and a number is none."),
        "teacher_correction": (
            options.teacher_correction,
            None,
            "moves probabilities of classes, and a number has none.",
        ),
    }
    for name, (value, default, problem) in given.items():
        if value != default:
            yield ArgumentError(name, value, problem, f"Leave it out ({name}={default!r}).")
    if not is_forward_kl(options.soft_term):
        problem = "compares distributions over classes; of numbers the soft term is the squared error."
        yield ArgumentError("soft_term", options.soft_term, problem, f"Use soft_term={FORWARD_KL.name!r}.")
    if options.soft_weight > 0 and options.soft_weight_schedule == ADAPTIVE.name:
        problem = "follows the teacher margin in nats, and that of a regression has the unit of its labels."
        fix = "Use soft_weight_schedule='constant' or another curve."
        yield ArgumentError("soft_weight_schedule", ADAPTIVE.name, problem, fix)
    if isinstance(teacher, ComposedTeacher | ColumnTeacher):
        problem = "works on probabilities of classes, which a regression does not have."
        yield TeacherError("teacher_model", type(teacher).__name__, problem, "Give one model.")
