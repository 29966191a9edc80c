"""The models that an attribution looks at: the current one, checkpoints of its run, and one from before it."""

import copy
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import ArgumentError, DistillationError, arguments_as, first_line
from ..tasks import Task, find_task, plain_model
from ..teachers.loading import load_teacher
from ..teachers.vocabulary import class_count
from ..training.resume import is_whole

Source = str | os.PathLike[str] | nn.Module
Checkpoints = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
FILES = ("config.json", "adapter_config.json")


def folders_of(checkpoints: Checkpoints) -> list[Path]:
    """The folders of models that are meant, in the order of their steps; none for the current model.

    Args:
        checkpoints: a folder of a run, one checkpoint, a list of such folders, or None.

    Raises:
        ArgumentError: a folder that does not exist, or has no checkpoint that was saved to its end.
    """
    if checkpoints is None:
        return []
    given = [checkpoints] if isinstance(checkpoints, str | os.PathLike) else checkpoints
    if not isinstance(given, Sequence) or not all(isinstance(one, str | os.PathLike) for one in given):
        shown = type(checkpoints).__name__ if isinstance(checkpoints, nn.Module) else checkpoints
        raise ArgumentError("checkpoints", shown, "are no folders.", "Give a folder, a list of folders, or None.")
    if not given:
        raise ArgumentError("checkpoints", checkpoints, "is an empty list.", "Give folders, or None.")
    return [folder for one in given for folder in _within(Path(one))]


def _within(folder: Path) -> list[Path]:
    numbered = [(path.name.rpartition("-")[2], path) for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")]
    found = sorted((int(step), path) for step, path in numbered if step.isdigit() and is_whole(path))
    if found:
        return [path for _, path in found]
    if any((folder / name).is_file() for name in FILES):
        return [folder]
    problem = "does not exist." if not folder.is_dir() else "has neither a whole checkpoint-* nor a model in it."
    fix = "Give the output_dir of a run with save_strategy='steps', or the folder of a model."
    raise ArgumentError("checkpoints", str(folder), problem, fix)


def checkpoint_problems(
    folders: Sequence[Path], model: nn.Module, other_arguments: Callable[[str], Sequence[str]]
) -> list[DistillationError]:
    """What tells that folders are of another run than the one whose model is given.

    Args:
        folders: each with a model.
        model: of the run.
        other_arguments: from a checkpoint to the arguments under which it was not saved as the run has them.
    """
    problems: list[DistillationError] = []
    own = _shape(plain_model(model).config)
    for folder in folders:
        if (folder / FILES[0]).is_file():
            try:
                there = _shape(AutoConfig.from_pretrained(folder))
            except (OSError, ValueError) as error:
                problem = f"has a config that cannot be read: {first_line(error)}"
                problems.append(ArgumentError("checkpoints", str(folder), problem, "Leave this checkpoint out."))
                continue
            unlike = [f"{name} {there.get(name)}, not {own.get(name)}" for name in own | there]
            unlike = [text for name, text in zip(own | there, unlike, strict=True) if own.get(name) != there.get(name)]
            if unlike:
                problem = f"has a model of another architecture: {', '.join(unlike[:4])}."
                problems.append(ArgumentError("checkpoints", str(folder), problem, "Give folders of the same run."))
                continue
        if found := other_arguments(str(folder)):
            problem = f"is of another run: {'; '.join(found[:4])}."
            fix = "Give folders of the trainer's own run, or a trainer with the arguments of that run."
            problems.append(ArgumentError("checkpoints", str(folder), problem, fix))
    return problems


def _shape(config: PreTrainedConfig) -> dict[str, Any]:
    """What of a config decides which parameters a model has: its kind and its whole numbers, but ids of tokens."""
    values = json.loads(config.to_json_string(use_diff=False))
    numbers = {name: value for name, value in values.items() if type(value) is int and not name.endswith("_token_id")}
    return {"model_type": values.get("model_type"), **numbers}


def loaded(folder: Path, model: nn.Module, task: Task, argument: str) -> nn.Module:
    """The model in a folder: an adapter on a copy of the student, whose other weights it has.

    Raises:
        DistillationError: it cannot be loaded, naming `argument`.
    """
    is_adapter = (folder / FILES[1]).is_file() and not (folder / FILES[0]).is_file()
    if is_adapter and hasattr(model, "load_adapter") and hasattr(model, "active_adapter"):
        return _with_adapter(folder, model, argument)
    with arguments_as(lambda _: argument):
        return load_teacher(folder, task)


def _with_adapter(folder: Path, model: Any, argument: str) -> nn.Module:
    found: Any = copy.deepcopy(model)
    if vars(found).pop("_original_forward", None) is not None:  # mixed precision calls the forward of the original
        del found.forward
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            found.load_adapter(folder, model.active_adapter, is_trainable=True)
    except Exception as error:  # files cut off, weights of other shapes or at other places
        problem = f"has an adapter that is not the student's: {' '.join(str(error).split())[:300]}"
        raise ArgumentError(argument, str(folder), problem, "Give folders of the same run.") from error
    plain: nn.Module = found
    return plain


def base_model(base: Source, model: nn.Module, task: Task) -> nn.Module:
    """The model from before training.

    Args:
        base: it, or its folder.
        model: the student.
        task: its task.

    Raises:
        DistillationError: it cannot be loaded, or has another task or other classes.
    """
    found = base if isinstance(base, nn.Module) else loaded(Path(base), model, task, "base")
    if find_task(found, "base").name != task.name or class_count(found, task) != class_count(model, task):
        classes = f"{class_count(found, task)} classes, not {class_count(model, task)}"
        problem = f"is a model for {find_task(found, 'base').name} with {classes}."
        fix = "Give the student as it was before training: student.save_pretrained(...) keeps it."
        raise ArgumentError("base", type(found).__name__, problem, fix)
    return found


def models_of(folders: Sequence[Path], model: nn.Module, task: Task) -> Iterator[nn.Module]:
    """Each of the checkpoints, one at a time, on the device of the model; or, without any, that itself."""
    device = next(model.parameters()).device
    if not folders:
        yield model
    for folder in folders:
        yield loaded(folder, model, task, "checkpoints").to(device)
