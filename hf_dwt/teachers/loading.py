"""A teacher from an id, a path or a model, refused where it would teach noise."""

import difflib
import inspect
import logging
import os
from collections.abc import Mapping
from typing import Any

import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..adapters import Adapter, AdapterError, find_adapter
from ..engines import gathered, whole_models
from ..errors import TaskError, TeacherError, first_line
from ..hub_access import HOW, no_connection
from ..tasks import TASKS, Task, find_task, named_task, plain_model
from ..tokenization import OF_FILES, saved_tokenizer
from .composed import ComposedTeacher

logger = logging.getLogger(__name__)

_ADAPTER = (
    "Give a folder or id that peft loads, whose adapter_config.json names the base model; or load that yourself, and "
    "give PeftModel.from_pretrained(base, adapter)."
)
_FIX = "Check the id or path, its revision, your access to it, and, offline, that it is in the local cache."

TeacherSource = str | os.PathLike[str] | nn.Module


def load_teacher(source: TeacherSource, task: Task, init_kwargs: dict[str, Any] | None = None) -> nn.Module:
    """The teacher's model, whole on every process.

    Args:
        source: Hub id, local path, or the model itself; of a model that DeepSpeed keeps in parts a copy is returned.
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
        return gathered(source)
    if not isinstance(source, str | os.PathLike):
        raise TeacherError("teacher_model", source, "is not a teacher.", "Give a Hub id, a path, or a model.")
    name = os.fspath(source)
    try:
        adapter = find_adapter(name, init_kwargs or {})
    except AdapterError as error:
        raise TeacherError("teacher_model", name, str(error), _ADAPTER) from error
    if adapter is not None:
        return _load_adapter(adapter, task)
    return _load(name, task, init_kwargs or {})


def _load(name: str, task: Task, init_kwargs: dict[str, Any]) -> nn.Module:
    model, absent = _read(name, task, init_kwargs)
    _require_all(name, model, absent, task)
    return model


def _load_adapter(adapter: Adapter, task: Task) -> nn.Module:
    """The model that `adapter` names as its base, with the adapter as peft adds it."""
    name = adapter.name
    if adapter.auto_class not in (None, task.auto_class):
        problem = f"is an adapter for {adapter.auto_class} ({adapter.config.task_type}), not for {task.name}."
        raise TeacherError("teacher_model", name, problem, f"Give an adapter of a {task.name} model.")
    try:
        with whole_models():
            base, absent = _read(adapter.base, task, adapter.base_arguments, name)
            model, absent = adapter.added_to(base, absent)
    except AdapterError as error:
        raise TeacherError("teacher_model", name, str(error), _ADAPTER) from error
    _require_all(name, base, absent, task)
    return model


def _read(name: str, task: Task, init_kwargs: dict[str, Any], adapter: str = "") -> tuple[PreTrainedModel, list[str]]:
    """(the model, the names of its parameters that the checkpoint does not contain).

    Args:
        adapter: of which this is the base model.
    """
    auto_class = getattr(transformers, task.auto_class)
    _require_known(name, auto_class, init_kwargs)
    of = f"is an adapter of {name!r}, which " if adapter else ""
    if adapter and (away := no_connection(name, init_kwargs)):
        raise TeacherError("teacher_model", adapter, of + away, _ADAPTER)
    try:
        with whole_models():
            model, info = auto_class.from_pretrained(name, output_loading_info=True, **init_kwargs)
    except (OSError, SafetensorError) as error:  # nothing there, no way to it, or a file that was cut off
        problem = f"{of}could not be loaded: {first_line(error)}"
        raise TeacherError("teacher_model", adapter or name, problem, _ADAPTER if adapter else _FIX) from error
    except (ValueError, TypeError, KeyError) as error:
        problem = f"{of}is no {task.name} model: {first_line(error)}"
        fix = f"Give a checkpoint that {task.auto_class}.from_pretrained loads, of the student's task."
        raise TeacherError("teacher_model", adapter or name, problem, fix) from error
    return model, sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])


def _require_all(name: str, model: nn.Module, absent: list[str], task: Task) -> None:
    if absent:
        raise TeacherError(
            "teacher_model",
            name,
            f"lacks weights that {type(model).__name__} needs ({', '.join(absent[:4])}"
            f"{', ...' if len(absent) > 4 else ''}): they would be random, and the student taught by noise.",
            f"Give a checkpoint with the head of a {task.name} model.",
        )


def shown_task(source: object, init_kwargs: dict[str, Any] | None = None) -> Task | None:
    """The task that a teacher shows before it is loaded: by its class, or by the class that its config names.

    Of a teacher that is made of others, that of the first which shows one. None where none is shown: by an object that
    is no model, or by what loading the teacher will refuse.
    """
    if isinstance(source, nn.Module):
        try:
            return find_task(source, "teacher_model")
        except TaskError:
            return None
    if isinstance(source, ComposedTeacher):
        return next((task for part in source.sources.values() if (task := shown_task(part, init_kwargs))), None)
    if not isinstance(source, str | os.PathLike):
        return None
    name, given = os.fspath(source), init_kwargs or {}
    try:
        if adapter := find_adapter(name, given):
            own = next((task for task in TASKS if task.auto_class == adapter.auto_class), None)
            return own or shown_task(adapter.base, adapter.base_arguments)
        return named_task(open_config(name, given))
    except Exception:  # loading the teacher raises the error that names it
        return None


def open_config(source: str | os.PathLike[str], init_kwargs: Mapping[str, Any] | None = None) -> Any:
    """The config of a teacher that is an id or a path, or that of the model that its adapter is of; no weights.

    Raises:
        TeacherError: there is none.
    """
    name, given = os.fspath(source), dict(init_kwargs or {})
    try:
        adapter = find_adapter(name, given)
    except AdapterError as error:
        raise TeacherError("teacher_model", name, str(error), _ADAPTER) from error
    if adapter is not None:
        return open_config(adapter.base, adapter.base_arguments)
    if away := no_connection(name, given):
        raise TeacherError("teacher_model", name, away, HOW)
    files = {key: value for key, value in given.items() if key in OF_FILES}
    try:
        return AutoConfig.from_pretrained(name, **{"trust_remote_code": False, **files})
    except (OSError, ValueError) as error:
        problem = f"could not be loaded: {first_line(error)}"
        raise TeacherError("teacher_model", name, problem, _FIX) from error


def _require_known(name: str, auto_class: Any, init_kwargs: dict[str, Any]) -> None:
    """Raise a TeacherError for an argument that neither `from_pretrained` nor the teacher's config knows."""
    known = _names_in(auto_class.from_pretrained) | _names_in(PreTrainedModel.from_pretrained) | OF_FILES
    unknown = [key for key in init_kwargs if key not in known]
    if not unknown:
        return
    files = {key: value for key, value in init_kwargs.items() if key in OF_FILES}
    try:
        config = AutoConfig.from_pretrained(name, **{"trust_remote_code": False, **files})
    except Exception:  # loading the model raises the error that names it
        return
    for key in (key for key in unknown if not hasattr(config, key)):
        close = difflib.get_close_matches(key, sorted(known | vars(config).keys()), n=1)
        raise TeacherError(
            "teacher_model_init_kwargs",
            key,
            "is unknown." + (f" Did you mean {close[0]!r}?" if close else ""),
            f"Give arguments of {auto_class.__name__}.from_pretrained, or values of the teacher's config.",
        )


def _names_in(function: Any) -> set[str]:
    """The names that a function knows: those it declares, and all that it may take out of its **kwargs."""
    code = inspect.unwrap(function.__func__).__code__
    constants = [part for one in code.co_consts for part in (one if isinstance(one, tuple) else (one,))]
    names = {one for one in constants if isinstance(one, str) and one.isidentifier()}
    return names | set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def load_teacher_tokenizer(
    source: TeacherSource, init_kwargs: dict[str, Any] | None = None
) -> PreTrainedTokenizerBase | None:
    """The tokenizer saved with the teacher, or with the model that its adapter is of.

    None where there is none that can be loaded; a warning then gives the reason, since nothing can be compared.
    """
    if isinstance(source, nn.Module):
        name, loading = str(getattr(plain_model(source), "name_or_path", "")), {"local_files_only": True}
        if not os.path.isdir(name):  # built from a config; or from the Hub, where its tokenizer need not be cached
            return None
    else:
        name, loading = os.fspath(source), init_kwargs or {}
    found = saved_tokenizer(name, loading)
    if not isinstance(found, str):
        return found
    logger.warning("The tokenizer of the teacher %s cannot be loaded: %s", name, found)
    return None
