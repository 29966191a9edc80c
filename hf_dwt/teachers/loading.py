"""A teacher from an id, a path or a model, refused where it would teach noise."""

import os
from typing import Any

import transformers
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..errors import TeacherError, first_line
from ..tasks import Task

TeacherSource = str | os.PathLike[str] | nn.Module


def load_teacher(source: TeacherSource, task: Task, init_kwargs: dict[str, Any] | None = None) -> nn.Module:
    """The teacher's model.

    Args:
        source: Hub id, local path, or the model itself.
        task: the student's task, whose head the teacher must bring.
        init_kwargs: arguments of `from_pretrained`, for an id or a path.

    Raises:
        TeacherError: it does not exist or cannot be reached, has another architecture than the task needs, its head
            is not in the checkpoint, or arguments were given for a model that is loaded already.
    """
    if isinstance(source, nn.Module):
        if init_kwargs:
            raise TeacherError(
                "teacher_model_init_kwargs",
                init_kwargs,
                "has no effect on a model that is loaded already.",
                "Drop it, or give teacher_model as an id or path.",
            )
        return source
    if not isinstance(source, str | os.PathLike):
        raise TeacherError("teacher_model", source, "is not a teacher.", "Give a Hub id, a path, or a model.")
    name = os.fspath(source)
    auto_class = getattr(transformers, task.auto_class)
    try:
        model, info = auto_class.from_pretrained(name, output_loading_info=True, **(init_kwargs or {}))
    except OSError as error:
        raise TeacherError(
            "teacher_model",
            name,
            f"could not be loaded: {first_line(error)}",
            "Check the id or path, its revision, your access to it, and, offline, that it is in the local cache.",
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise TeacherError(
            "teacher_model",
            name,
            f"is no {task.name} model: {first_line(error)}",
            f"Give a checkpoint that {task.auto_class}.from_pretrained loads, of the student's task.",
        ) from error
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise TeacherError(
            "teacher_model",
            name,
            f"lacks weights that {type(model).__name__} needs ({', '.join(absent[:4])}"
            f"{', ...' if len(absent) > 4 else ''}): they would be random, and the student taught by noise.",
            f"Give a checkpoint with the head of a {task.name} model.",
        )
    return model


def load_teacher_tokenizer(
    source: TeacherSource, init_kwargs: dict[str, Any] | None = None
) -> PreTrainedTokenizerBase | None:
    """The tokenizer saved with the teacher, or None where there is none to be found."""
    if isinstance(source, nn.Module):
        return None
    kwargs = {k: v for k, v in (init_kwargs or {}).items() if k in ("revision", "token", "subfolder", "cache_dir")}
    try:
        return AutoTokenizer.from_pretrained(os.fspath(source), **kwargs)
    except (OSError, ValueError, KeyError):
        return None
