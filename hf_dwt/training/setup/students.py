"""The student before training is set up: loaded from an id or path, and given the adapter that is trained of it."""

import os
from typing import Any, TypeAlias

import transformers
from peft import PeftConfig
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from ...adapting import with_adapter
from ...argument_types import adapter_problems
from ...arguments import DistillationArguments
from ...errors import ArgumentError, TaskError, first_line, raise_all
from ...hub_access import HOW, no_connection
from ...tasks import TASKS, named_task
from ...teachers.loading import shown_task
from .layouts import adapter_layout_problems

_LOAD = "Load it, with the arguments that it needs, and give the model: {}.from_pretrained(...)."
StudentSource: TypeAlias = str | os.PathLike[str] | PreTrainedModel | nn.Module
"""Hub id, path, or model."""

_TRUST = {"trust_remote_code": False}  # without it transformers asks at the terminal whether code may run


def loaded_student(source: StudentSource | None, teacher: object, options: DistillationArguments) -> nn.Module | None:
    """The student; from a Hub id or path by the Auto class of its task, as `from_pretrained` loads it.

    That is the task that the teacher shows, by its class or by the class that its config names; else that of the class
    which the student's config names. Nothing else is loaded from there, its tokenizer neither.

    Raises:
        ArgumentError: it cannot be loaded, or is an adapter.
        TaskError: its task cannot be known, or it has no class for it.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    given: Any = options.teacher_model_init_kwargs  # JSON is a dict by now
    shown = shown_task(teacher, given)
    name = os.fspath(source)
    if away := no_connection(name, {}):
        raise ArgumentError("model", name, away, HOW)
    config = _config(name)
    task = shown or named_task(config)
    if task is None:
        named = ", ".join(config.architectures or ()) or "no class"
        problem = f"leaves its task open: its config names {named}, and no teacher shows it."
        raise TaskError("model", name, problem, _LOAD.format(", ".join(task.auto_class for task in TASKS)))
    try:
        loaded: PreTrainedModel = getattr(transformers, task.auto_class).from_pretrained(name, **_TRUST)
    except ValueError as error:
        problem = f"is no {task.name} model{', as the teacher is' if shown else ''}: {first_line(error)}"
        raise TaskError("model", name, problem, "Give a model of the teacher's task.") from error
    except Exception as error:  # weights that are missing, cut off or of other shapes than the config says
        raise _unreadable(name, error) from error
    return loaded


def _config(name: str) -> PreTrainedConfig:
    try:
        adapter = find_adapter_config_file(name)
    except Exception:  # nothing there at all, or no way to it: loading the config names it
        adapter = None
    if adapter is not None:
        fix = "Load it to go on training it: PeftModel.from_pretrained(base_model, adapter, is_trainable=True)."
        raise ArgumentError("model", name, "is an adapter, which holds no model.", fix)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, **_TRUST)
    except Exception as error:  # a file that is no config, code of the checkpoint's own
        raise _unreadable(name, error) from error
    return config


def _unreadable(name: str, error: Exception) -> ArgumentError:
    if "contains custom code" in str(error):
        problem = "needs code of its own, which is not run unless you ask for it."
        fix = "Read that code, load the model with trust_remote_code=True, and give the model."
        return ArgumentError("model", name, problem, fix)
    fix = "Check the id or path and your access to it; or load the model, and give the model."
    return ArgumentError("model", name, f"could not be loaded: {first_line(error)}", fix)


def adapted(model: nn.Module, peft_config: PeftConfig | None, seed: int) -> nn.Module:
    """The student with the adapter of `peft_config`, which alone learns; as it is where that is None.

    Args:
        model: changed in place, as peft does.
        peft_config: copied, since peft writes into it.
        seed: of the adapter's initialisation. The global random state stays as it was.

    Raises:
        ArgumentError: the model has an adapter already, or peft cannot make this one for it.
    """
    if peft_config is None:
        return model
    raise_all([*adapter_problems(model, peft_config), *adapter_layout_problems(model)])
    return with_adapter(model, peft_config, seed)
