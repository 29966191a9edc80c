"""Errors before epochs: all that can be known before the first step is checked here, and raised together."""

import inspect
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import datasets
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    BaseImageProcessor,
    FeatureExtractionMixin,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainingArguments,
)

from ..arguments import DistillationArguments
from ..errors import ArgumentError, DistillationError, TaskError, TeacherError, raise_all
from ..forward.sharding import own_part
from ..hub_access import HOW, no_connection
from ..objective import Targets
from ..objective.chunked import chunks
from ..objective.divergences import get_soft_term, require_divergence
from ..objective.sparse import SparseTargets
from ..objective.targets import Mixture
from ..publish.upload import access_problems
from ..tasks import Task, find_task, model_class, plain_model
from ..teachers import Teacher
from ..teachers.cache.request import cache_problems
from ..teachers.frozen import KnownTokens, has_position_table, most_positions
from ..teachers.loading import load_teacher, load_teacher_tokenizer
from ..teachers.placement import placement_problems
from ..teachers.vocabulary import class_count, label_problems, shared_vocabulary
from .layouts import layout_problems, teacher_layout_problems
from .misuse import collator_problems, warn_of_larger_teacher

logger = logging.getLogger(__name__)


# What arguments of the trainer may be.
Examples: TypeAlias = Dataset[Any] | datasets.Dataset | datasets.IterableDataset | Sequence[Any]
Processor: TypeAlias = PreTrainedTokenizerBase | BaseImageProcessor | FeatureExtractionMixin | ProcessorMixin
TeacherSource: TypeAlias = str | os.PathLike[str] | nn.Module | Teacher
"""Hub id, path, model, or an object with the protocol of `hf_dwt.teachers.Teacher`."""


class Setup(NamedTuple):
    """What a run consists of, once it has been checked.

    task: the student's.
    teacher: a loaded model, an object that is a teacher already, or None.
    shared_classes: P, the number of first classes that student and teacher have in common.
    known: the tokens that the teacher knows where the student's tokenizer has more, or None.
    """

    task: Task
    teacher: nn.Module | Teacher | None
    shared_classes: int
    known: KnownTokens | None = None


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
    problems += collator_problems(task, collator) + padding_problems(student, task, args, "model", tokenizer)
    teacher, shared, known = None, 0, None
    if teacher_source is not None:
        problems += cache_problems(teacher_source, options.teacher_cache)
        problems += placement_problems(teacher_source, options.teacher_placement)
        try:
            # options.__post_init__ turned JSON into a dict
            teacher = load_any_teacher(teacher_source, task, options.teacher_model_init_kwargs)  # type: ignore[arg-type]
        except TeacherError as error:
            problems.append(error)
    if isinstance(teacher, nn.Module):
        if teacher_tokenizer is None:
            teacher_tokenizer = load_teacher_tokenizer(teacher_source, options.teacher_model_init_kwargs)  # type: ignore[arg-type]
        problems += teacher_problems(student, teacher, task) + padding_problems(teacher, task, args, "teacher_model")
        if not problems:
            vocabulary = shared_vocabulary(student, teacher, tokenizer, teacher_tokenizer)
            problems += vocabulary.problems
            problems += [] if task.vocabulary else label_problems(student, teacher)
            shared, known = vocabulary.classes if task.vocabulary else class_count(student, task), vocabulary.known
    raise_all(problems)
    if isinstance(teacher, nn.Module):
        warn_of_larger_teacher(student, teacher)
        warn_of_fewer_positions(student, teacher)
    require_divergence(get_soft_term(options.soft_term), shared or class_count(student, task), args.device)
    return Setup(task, teacher, shared, known)


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


def load_any_teacher(source: TeacherSource, task: Task, init_kwargs: dict[str, Any] | None) -> nn.Module | Teacher:
    """A loaded model from an id, path or model; an object that is a teacher already as it is."""
    if isinstance(source, Teacher) and not isinstance(source, nn.Module):
        return source
    if away := no_connection(source, init_kwargs or {}):
        raise TeacherError("teacher_model", source, away, HOW)
    return load_teacher(source, task, init_kwargs)


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
        if find_task(teacher, "teacher_model") is not task:
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
