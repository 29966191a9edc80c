"""What the arguments of `DistillationTrainer` and the fields of `TrainingArguments` may be."""

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from functools import cache

import numpy as np
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from .errors import ArgumentError, DistillationError, TeacherError
from .kinds import FLAG, FUNCTION, PROCESSOR, SOURCE, Kind, is_function


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
                problems.append(FLAG.error(name, value))
        elif isinstance(value, type) or not hasattr(value, "__float__"):
            problems.append(ArgumentError(name, value, "is no number.", _as_number(value)))
    return problems


def trainer_problems(given: Mapping[str, object]) -> list[DistillationError]:
    """Arguments of `DistillationTrainer` that are of another kind than they must be.

    Args:
        given: all of them, by name.
    """
    problems: list[DistillationError] = []
    for name, value in given.items():
        kind = _KINDS.get(name)
        if value is None or kind is None:
            continue
        is_class = isinstance(value, type) and name != "model_init"
        if is_class or not kind.is_right(value):
            error = TeacherError if name == "teacher_model" else ArgumentError
            problems.append(kind.error(name, value, _own_fix(name, value), error))
    if given["model"] is None and given["model_init"] is None:
        problems.append(ArgumentError("model", None, "is missing: nothing is trained.", "Give model or model_init."))
    if given["model"] is not None and given["model_init"] is not None:
        fix = "Give one of them; hyperparameter_search needs model_init."
        problems.append(ArgumentError("model_init", given["model_init"], "stands beside a model.", fix))
    return problems + adapter_problems(given["model"], given["peft_config"])


def adapter_problems(model: object, peft_config: object) -> list[DistillationError]:
    """A config of an adapter for a model that has one."""
    if peft_config is None or not getattr(model, "peft_config", None):
        return []
    problem = f"stands beside a model that has an adapter already ({type(model).__name__})."
    fix = "Leave peft_config out to train that adapter, or give the model without it: model.merge_and_unload()."
    return [ArgumentError("peft_config", type(peft_config).__name__, problem, fix)]


@cache
def _stock_fields() -> dict[str, set[object]]:
    """Field of `TrainingArguments` -> the types it may have, apart from None."""
    found = {}
    for name, hint in typing.get_type_hints(TrainingArguments).items():
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        found[name] = set(typing.get_args(hint) if union else (hint,)) - {type(None)}
    return {f.name: found[f.name] for f in dataclasses.fields(TrainingArguments) if f.init}


def _as_number(value: object) -> str:
    try:
        number = float(str(value))
    except ValueError:
        return "Give a number."
    return f"Give {number:g} without quotes: this is text (as which YAML reads 1e-4; write 1.0e-4 there)."


def _own_fix(name: str, value: object) -> str:
    """The fix for a frequent mistake, or ""."""
    if name in ("train_dataset", "eval_dataset") and isinstance(value, Mapping):
        return f"Give one of its splits: {', '.join(map(repr, list(value)[:4]))}."
    if name == "teacher_model" and isinstance(value, list | tuple | Mapping):
        return "Give SeveralTeachers(...) of hf_dwt.teachers with them."
    if name == "teacher_model" and isinstance(value, type):
        return f"Make one: {value.__name__}(...)."
    if name == "callbacks" and _is_callback(value):
        return "Give a list: callbacks=[...]."
    return ""


def _is_examples(value: object) -> bool:
    """Can be indexed or iterated over, and holds no data sets by name."""
    if isinstance(value, str | bytes) or (isinstance(value, Mapping) and any(isinstance(key, str) for key in value)):
        return False
    return hasattr(value, "__getitem__") or hasattr(value, "__iter__")


def _is_evaluation_data(value: object) -> bool:
    if isinstance(value, Mapping) and value:
        return all(isinstance(key, str) and _is_examples(data) for key, data in value.items())
    return _is_examples(value)


def _is_callback(value: object) -> bool:
    if isinstance(value, type):
        return issubclass(value, TrainerCallback)
    return isinstance(value, TrainerCallback) or callable(getattr(value, "on_step_end", None))


def _is_callbacks(value: object) -> bool:
    return isinstance(value, list | tuple) and all(_is_callback(callback) for callback in value)


def _is_optimizers(value: object) -> bool:
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


def _is_class_and_kwargs(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and callable(value[0]) and isinstance(value[1], Mapping)


def _is_teacher(value: object) -> bool:
    made = (hasattr(value, "targets") and hasattr(value, "columns")) or hasattr(value, "sources")
    return SOURCE.is_right(value) or made


_NOT_A_FUNCTION = "is {given}, not a function."

# argument of DistillationTrainer -> what it must be
_KINDS: dict[str, Kind] = {
    "model": Kind(
        lambda value: isinstance(value, str | os.PathLike | nn.Module),
        "is {given}, not a model.",
        "Give a model of transformers, its Hub id, or its path.",
    ),
    "args": Kind(
        lambda value: isinstance(value, TrainingArguments),
        "is {given}, not arguments of a training.",
        "Give DistillationArguments(output_dir=..., ...), or TrainingArguments.",
    ),
    "data_collator": Kind(
        is_function, _NOT_A_FUNCTION, "Give a function from a list of examples to a batch, or None."
    ),
    "train_dataset": Kind(
        _is_examples, "is {given}, not a data set.", "Give a Dataset, a list of examples or a stream."
    ),
    "eval_dataset": Kind(
        _is_evaluation_data, "is {given}, not a data set.", "Give a data set, or a dict from names to data sets."
    ),
    "processing_class": PROCESSOR,
    "model_init": Kind(
        lambda value: isinstance(value, type) or is_function(value),
        _NOT_A_FUNCTION,
        "Give a function that returns a new model.",
    ),
    "compute_loss_func": FUNCTION,
    "compute_metrics": Kind(
        is_function, _NOT_A_FUNCTION, "Give a function from an EvalPrediction to a dict of metrics."
    ),
    "callbacks": Kind(
        _is_callbacks, "is {given}, not a list of callbacks.", "Give a list of instances of TrainerCallback."
    ),
    "optimizers": Kind(
        _is_optimizers,
        "is {given}, not a pair of optimizer and scheduler.",
        "Give (optimizer, scheduler), each of them made, or None.",
    ),
    "optimizer_cls_and_kwargs": Kind(
        _is_class_and_kwargs,
        "is {given}, not a pair of a class and its arguments.",
        "Give (torch.optim.AdamW, {'lr': 1e-3}), for instance.",
    ),
    "preprocess_logits_for_metrics": FUNCTION,
    "peft_config": Kind(
        lambda value: hasattr(value, "peft_type") and not isinstance(value, nn.Module),
        "is {given}, not a config of an adapter.",
        "Give one of peft, such as LoraConfig(target_modules='all-linear'), or None.",
    ),
    "teacher_model": SOURCE._replace(is_right=_is_teacher),
    "teacher_processing_class": PROCESSOR,
}
