"""What an argument may be, before anything is loaded: kinds of value, each with what to give in its place."""

import dataclasses
import os
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from .errors import ArgumentError, DistillationError, TeacherError

_GIVE_FUNCTION = "Give a function, or None."


def field_problems(args: TrainingArguments) -> list[DistillationError]:
    """Fields of `TrainingArguments` that are no number or no truth value where nothing else is allowed.

    What it accepts beyond its annotations (whole numbers as floats, 0 and 1, kinds of numpy, None) is accepted.
    """
    problems: list[DistillationError] = []
    for name, allowed in _stock_fields().items():
        value = getattr(args, name)
        if value is None or not allowed <= {bool, int, float}:
            continue
        if allowed == {bool}:
            if not isinstance(value, int | np.bool_):
                fix = "Give True or False, without quotes."
                problems.append(ArgumentError(name, value, "is neither True nor False.", fix))
        elif isinstance(value, type) or not hasattr(value, "__float__"):
            problems.append(ArgumentError(name, value, "is no number.", _as_number(value)))
    return problems


def trainer_problems(given: Mapping[str, Any]) -> list[DistillationError]:
    """Arguments of `DistillationTrainer` that are not what their name says.

    Args:
        given: all of them, by name.
    """
    problems: list[DistillationError] = []
    for name, value in given.items():
        if value is None or name not in _KINDS:
            continue
        is_right, what, fix = _KINDS[name]
        is_class = isinstance(value, type) and name != "model_init"
        if is_class or not is_right(value):
            kind, error = type(value).__name__, TeacherError if name == "teacher_model" else ArgumentError
            problem = f"is {'a class' if is_class else f'of type {kind}'}, not {what}."
            problems.append(error(name, value, problem, _own_fix(name, value) or fix))
    if given["model"] is None and given["model_init"] is None:
        problems.append(ArgumentError("model", None, "is missing: nothing is trained.", "Give model or model_init."))
    if given["model"] is not None and given["model_init"] is not None:
        fix = "Give one of them; hyperparameter_search needs model_init."
        problems.append(ArgumentError("model_init", given["model_init"], "stands beside a model.", fix))
    return problems


@cache
def _stock_fields() -> dict[str, set[Any]]:
    """Field of `TrainingArguments` -> the types it may have, apart from None."""
    found = {}
    for name, hint in typing.get_type_hints(TrainingArguments).items():
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        found[name] = set(typing.get_args(hint) if union else (hint,)) - {type(None)}
    return {f.name: found[f.name] for f in dataclasses.fields(TrainingArguments) if f.init}


def _as_number(value: Any) -> str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return "Give a number."
    return f"Give {number:g} without quotes: this is text (as which YAML reads 1e-4; write 1.0e-4 there)."


def _own_fix(name: str, value: Any) -> str:
    """What to do with a frequent slip, or nothing."""
    if name == "model" and isinstance(value, str | os.PathLike):
        return "Load it: AutoModelForMaskedLM.from_pretrained(...), or the class of another task."
    if name in ("train_dataset", "eval_dataset") and isinstance(value, Mapping):
        return f"Give one of its splits: {', '.join(map(repr, list(value)[:4]))}."
    if name == "callbacks" and _is_callback(value):
        return "Give a list: callbacks=[...]."
    return ""


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, nn.Module)


def _is_examples(value: Any) -> bool:
    """Can be indexed or iterated over, and holds no data sets by name."""
    if isinstance(value, str | bytes) or (isinstance(value, Mapping) and any(isinstance(key, str) for key in value)):
        return False
    return hasattr(value, "__getitem__") or hasattr(value, "__iter__")


def _is_evaluation_data(value: Any) -> bool:
    if isinstance(value, Mapping) and value:
        return all(isinstance(key, str) and _is_examples(data) for key, data in value.items())
    return _is_examples(value)


def _is_processor(value: Any) -> bool:
    return hasattr(value, "save_pretrained") and not isinstance(value, nn.Module)


def _is_callback(value: Any) -> bool:
    if isinstance(value, type):
        return issubclass(value, TrainerCallback)
    return isinstance(value, TrainerCallback) or callable(getattr(value, "on_step_end", None))


def _is_callbacks(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_is_callback(callback) for callback in value)


def _is_optimizers(value: Any) -> bool:
    """A pair of what takes steps, or of the placeholders that accelerate has for those of DeepSpeed."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(
            part is None
            or (not isinstance(part, type) and (hasattr(part, "step") or type(part).__name__.startswith("Dummy")))
            for part in value
        )
    )


def _is_class_and_kwargs(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and callable(value[0]) and isinstance(value[1], Mapping)


def _is_teacher(value: Any) -> bool:
    return isinstance(value, str | os.PathLike | nn.Module) or (
        hasattr(value, "targets") and hasattr(value, "columns")
    )


# argument of DistillationTrainer -> whether a value is right, what it should be, what to give
_KINDS: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "model": (lambda value: isinstance(value, nn.Module), "a model", "Give a model of transformers."),
    "args": (
        lambda value: isinstance(value, TrainingArguments),
        "arguments of a training",
        "Give DistillationArguments(output_dir=..., ...), or TrainingArguments.",
    ),
    "data_collator": (_is_function, "a function", "Give a function from a list of examples to a batch, or None."),
    "train_dataset": (_is_examples, "a data set", "Give a Dataset, a list of examples or a stream."),
    "eval_dataset": (_is_evaluation_data, "a data set", "Give a data set, or a dict from names to data sets."),
    "processing_class": (_is_processor, "a tokenizer or processor", "Give one: AutoTokenizer.from_pretrained(...)."),
    "model_init": (_is_function, "a function", "Give a function that returns a new model."),
    "compute_loss_func": (_is_function, "a function", _GIVE_FUNCTION),
    "compute_metrics": (_is_function, "a function", "Give a function from an EvalPrediction to a dict of metrics."),
    "callbacks": (_is_callbacks, "a list of callbacks", "Give a list of instances of TrainerCallback."),
    "optimizers": (
        _is_optimizers,
        "a pair of optimizer and scheduler",
        "Give (optimizer, scheduler), each of them made, or None.",
    ),
    "optimizer_cls_and_kwargs": (
        _is_class_and_kwargs,
        "a pair of a class and its arguments",
        "Give (torch.optim.AdamW, {'lr': 1e-3}), for instance.",
    ),
    "preprocess_logits_for_metrics": (_is_function, "a function", _GIVE_FUNCTION),
    "teacher_model": (_is_teacher, "a teacher", "Give a Hub id, a path, or a model."),
    "teacher_processing_class": (
        _is_processor,
        "a tokenizer or processor",
        "Give one: AutoTokenizer.from_pretrained(...).",
    ),
}
