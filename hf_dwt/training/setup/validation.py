"""Errors before epochs: all that can be known before the first step is checked here, and raised together."""

import inspect
import logging
from pathlib import Path

import torch
from torch import nn
from transformers import (
    TrainingArguments,
)

from ...arguments import DistillationArguments
from ...errors import ArgumentError, DistillationError, TaskError, TeacherError
from ...forward.sharding import own_part
from ...objective import Targets
from ...objective.chunked import chunks
from ...objective.sparse import SparseTargets
from ...objective.targets import Mixture
from ...option_checks import wants_every_class
from ...publish.upload import access_problems
from ...tasks import Task, find_task, model_class, plain_model
from ...teachers.frozen import has_position_table, most_positions
from .layouts import teacher_layout_problems

logger = logging.getLogger(__name__)


def warn_of_fewer_positions(student: nn.Module, teacher: nn.Module) -> None:
    """Say how long examples may be where the teacher reads shorter ones than the student."""
    most, own = most_positions(teacher), most_positions(student)
    if has_position_table(teacher) and most is not None and own is not None and most < own:
        logger.warning(
            "The teacher reads examples of up to %d tokens, the student of up to %d: a longer one ends the run. "
            "Truncate them to max_length=%d, or take a teacher that reads longer ones.",
            most,
            own,
            most,
        )


def hub_problems(args: TrainingArguments) -> list[DistillationError]:
    """A repository that one may not write to, if that is where the model is to go."""
    if not args.push_to_hub or args.process_index > 0:
        return []
    repo_id = args.hub_model_id or Path(str(args.output_dir)).absolute().name
    return access_problems(repo_id, args.hub_token)


def frozen_problems(student: nn.Module) -> list[DistillationError]:
    """A student of which no parameter learns: it can be evaluated, and not trained."""
    if any(parameter.requires_grad for parameter in student.parameters()):
        return []
    return [
        TaskError(
            "model",
            model_class(student).__name__,
            "has no parameter with requires_grad, so there is nothing to train.",
            "Call model.requires_grad_(True), or leave the layers that are to learn unfrozen.",
        )
    ]


def teacher_problems(student: nn.Module, teacher: nn.Module, task: Task) -> list[DistillationError]:
    """Models that cannot be this student's teacher."""
    problems = teacher_layout_problems(teacher)
    name = model_class(teacher).__name__
    try:
        own = find_task(teacher, "teacher_model")
        if own.auto_class == task.auto_class and own.outcome is not task.outcome:
            kind = getattr(plain_model(teacher).config, "problem_type", None)
            problem = f"has the teacher predict {own.outcome.value}; the student predicts {task.outcome.value}."
            fix = "Give both models' configs the same problem_type, that of the data."
            problems.append(TeacherError("teacher_model.config.problem_type", kind, problem, fix))
        elif own != task:
            problems.append(
                TeacherError(
                    "teacher_model",
                    name,
                    f"has no {task.name} head.",
                    f"Load it with {task.auto_class}.from_pretrained.",
                )
            )
    except TaskError as error:
        problems.append(TeacherError(error.argument, error.value, error.problem, error.fix))
    if _share_weights(student, teacher):
        problems.append(
            TeacherError(
                "teacher_model",
                name,
                "shares weights with the student, so it would change with every step.",
                "Give a copy: copy.deepcopy(model), or the id it came from.",
            )
        )
    method = getattr(getattr(plain_model(teacher).config, "quantization_config", None), "quant_method", None)
    if getattr(teacher, "is_quantized", False) and str(getattr(method, "value", method)) == "gguf":
        problems.append(
            TeacherError(
                "teacher_model",
                name,
                "was loaded from GGUF and still counts as quantised.",
                "Load it with quantization_config=GgufConfig(dequantize=True).",
            )
        )
    return problems


def column_problems(options: DistillationArguments, task: Task, alone: bool) -> list[DistillationError]:
    """What a run cannot do with a teacher that ran elsewhere, of which a few classes are known.

    alone: whether it is the whole teacher, and no part of one.
    """
    problems: list[DistillationError] = []
    if not alone:
        problem = "cannot be a part of another teacher, which needs the probabilities of all classes."
        fix = "Give it as teacher_model by itself, or models alone."
        problems.append(TeacherError("teacher_model", "ColumnTeacher", problem, fix))
    if task.name not in ("text-generation", "fill-mask"):
        problem = f"reads columns of tokens, which a student for {task.name} does not predict."
        problems.append(TeacherError("teacher_model", "ColumnTeacher", problem, "Use a causal or masked LM."))
    if options.temperature != 1.0:
        problem = "cannot be applied to a ColumnTeacher: it has log-probabilities at 1, and not of all classes."
        problems.append(ArgumentError("temperature", options.temperature, problem, "Use temperature=1."))
    if wanted := wants_every_class(options, most_likely=True):
        name, other = wanted
        problem = "cannot be computed from the few classes that a ColumnTeacher has."
        problems.append(ArgumentError(name, getattr(options, name), problem, f"Use {other}, or a model as teacher."))
    return problems


def _share_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have parameters in common; what this process holds of one may be nothing."""
    own = {id(parameter) for parameter in one.parameters()}
    return any(id(parameter) in own for parameter in other.parameters()) or bool(_addresses(one) & _addresses(other))


def _addresses(model: nn.Module) -> set[int]:
    """Where what this process holds of a model's parameters lies; those on the meta device lie nowhere (0)."""
    held = [own_part(parameter) for parameter in model.parameters()]
    return {tensor.data_ptr() for tensor in held if tensor.numel()} - {0}


def padding_problems(
    model: nn.Module, task: Task, args: TrainingArguments, argument: str, tokenizer: object = None
) -> list[DistillationError]:
    """A classifier that reads the last token before the padding, without an id of padding in its config.

    Args:
        argument: what it is called by the caller, model or teacher_model.
        tokenizer: whose padding the Trainer writes into the config before training.
    """
    evaluates = args.eval_strategy != "no"
    size = max(args.per_device_train_batch_size, args.per_device_eval_batch_size if evaluates else 1)
    config = plain_model(model).config.get_text_config()
    known = (getattr(config, "pad_token_id", None), getattr(tokenizer, "pad_token_id", None))
    if size == 1 or known != (None, None) or task.name != "text-classification" or not _reads_padding(model):
        return []
    error = TeacherError if argument == "teacher_model" else ArgumentError
    return [
        error(
            f"{argument}.config.pad_token_id",
            None,
            f"leaves open where an example ends in a batch of {size}, and {model_class(model).__name__} "
            "classifies at its last token.",
            "Set it to the id that the data collator pads with, such as tokenizer.pad_token_id.",
        )
    ]


def _reads_padding(model: nn.Module) -> bool:
    """Whether a forward reads `pad_token_id`: its own, or the one of a base class that it calls."""
    for cls in model_class(model).__mro__:
        if "forward" in vars(cls):
            names = inspect.unwrap(vars(cls)["forward"]).__code__.co_names
            if "pad_token_id" in names or "super" not in names:
                return "pad_token_id" in names
    return False


def require_finite(targets: Targets, step: int) -> None:
    """Raise a TeacherError for targets with NaN or infinity."""
    if isinstance(targets.logits, Mixture):
        for each in targets.logits.parts:
            require_finite(each, step)
        return
    if isinstance(targets.logits, SparseTargets):  # looked at when they were stored
        return
    wrong = sum(int((~torch.isfinite(targets.logits[part])).sum()) for part in chunks(targets.logits))
    if wrong:
        raise TeacherError(
            "teacher_model",
            f"step {step}",
            f"gave {wrong} logits of {targets.logits.shape.numel()} that are NaN or infinite: nothing to learn from.",
            "Check its weights, or load it in a wider type: teacher_model_init_kwargs={'dtype': 'float32'}.",
        )
