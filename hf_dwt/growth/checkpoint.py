"""The teacher to grow from: its class and config are read at once, its weights on first use."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from peft import PeftModel
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from ..adapters import Adapter, AdapterError, adapter_configs, find_adapter, merged, require_mergeable
from ..engines import gathered, whole_models
from ..errors import GrowthError
from .building import ModelClass, build
from .reading import (
    Loading,
    find_class,
    raise_quantised,
    read_config,
    read_generation_config,
    refuse_quantised,
    require_answer,
    skeleton_of,
    trusting,
    unreadable,
)

MERGE = (
    "Pass a model with its own weights alone: what PeftModel.from_pretrained(base_model, adapter).merge_and_unload() "
    "returns, where peft merges such an adapter; else the model that it adapts."
)

TeacherSource: TypeAlias = str | Path | PreTrainedModel | PeftModel
"""Hub id, local path or model; of an adapter too."""


@dataclass
class Teacher:
    """The teacher, as far as growth needs it.

    Args:
        name: id, path or class name, for the report.
        skeleton: the model on the meta device: class, config, names and shapes, no memory.
        load: loads the weights; returns the model and the names of parameters its checkpoint did not contain.
        generation_config: None where the checkpoint has none.
        untied: a parameter that the student unties -> the parameter that it starts as a copy of.
        checkpoint: (id or path, arguments of `from_pretrained`); None of a teacher that was given as a model, and of
            an adapter, which is merged in memory.
        adapter: the kind of adapter that is merged, as peft names it; "" of a model without one.
        base_model: id or path of the model that it adapts.
    """

    name: str
    skeleton: PreTrainedModel
    load: Callable[[], tuple[PreTrainedModel, frozenset[str]]]
    generation_config: GenerationConfig | None = None
    untied: Mapping[str, str] = field(default_factory=dict)
    checkpoint: tuple[str, Loading] | None = None
    adapter: str = ""
    base_model: str = ""

    @property
    def config(self) -> PreTrainedConfig:
        """The teacher's config."""
        return self.skeleton.config

    @property
    def model(self) -> PreTrainedModel:
        """The teacher with its weights, loaded on first use."""
        return self._loaded[0]

    @property
    def untrained(self) -> frozenset[str]:
        """Parameters of `model` that the checkpoint did not contain: they hold random numbers."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, frozenset[str]]:
        return self.load()


def open_teacher(teacher: TeacherSource | Teacher, auto_class: ModelClass | str | None, arguments: Loading) -> Teacher:
    """Find the teacher's class and config without reading weights.

    Args:
        teacher: Hub id, local path or model; or what is opened already.
        auto_class: class or class name to load it with, None to take the one the checkpoint names.
        arguments: of `from_pretrained`.

    Raises:
        GrowthError: no checkpoint there, a class that is unknown or does not fit, a quantised teacher, or an adapter
            that cannot be merged.
    """
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, PreTrainedModel | PeftModel):
        return _from_model(teacher, auto_class, arguments)
    if not isinstance(teacher, str | Path):
        problem = "A teacher is a Hub id, a local path or a transformers model."
        raise GrowthError("teacher", teacher, problem, "Pass one of these; take the model out of a parallel wrapper.")
    if "config" in arguments:
        problem = "The teacher's config is read from its checkpoint."
        raise GrowthError(
            "config", type(arguments["config"]).__name__, problem, "Load the teacher with it and pass the model."
        )
    require_answer(str(teacher), arguments)
    with about_adapter(teacher):
        adapter = find_adapter(str(teacher), arguments)
        if adapter is not None:
            require_mergeable([adapter.config])
            return _from_adapter(adapter, auto_class)
    opened = _from_checkpoint(str(teacher), auto_class, arguments)
    # A whole model with an adapter beside it: transformers loads both, and its files alone are not the teacher.
    return replace(opened, checkpoint=None) if Path(teacher, ADAPTER_CONFIG_NAME).is_file() else opened


def _from_checkpoint(name: str, auto_class: ModelClass | str | None, arguments: Loading) -> Teacher:
    config = read_config(name, arguments)
    refuse_quantised(config, arguments)
    model_class = find_class(auto_class, config)
    trust = {key: value for key, value in arguments.items() if key == "trust_remote_code"}
    return Teacher(
        name=name,
        skeleton=skeleton_of(model_class, config, trust),
        load=lambda: _load(model_class, name, arguments),
        generation_config=read_generation_config(name, arguments),
        checkpoint=(name, arguments),
    )


def _from_adapter(adapter: Adapter, auto_class: ModelClass | str | None) -> Teacher:
    """The model that `adapter` adapts, with the adapter merged once its weights are read."""
    try:
        require_answer(adapter.base, adapter.base_arguments)
        base = _from_checkpoint(adapter.base, auto_class or adapter.auto_class, adapter.base_arguments)
    except GrowthError as error:
        problem = f"It is an adapter of {adapter.base!r}. {error.argument}: {error.problem}"
        raise GrowthError("teacher", adapter.name, problem, error.fix) from error

    def load() -> tuple[PreTrainedModel, frozenset[str]]:
        model, absent = base.load()
        with about_adapter(adapter.name), whole_models():
            adapted, absent_still = adapter.added_to(model, absent)
            return _complete(merged(adapted, in_place=True), base.skeleton)[0], frozenset(absent_still)

    kind = adapter.config.peft_type.value
    return replace(base, name=adapter.name, load=load, checkpoint=None, adapter=kind, base_model=adapter.base)


@contextmanager
def about_adapter(teacher: object) -> Iterator[None]:
    """In the block what is wrong with an adapter is a GrowthError about `teacher`."""
    try:
        yield
    except AdapterError as error:
        name = teacher if isinstance(teacher, str | Path) else type(teacher).__name__
        raise GrowthError("teacher", str(name), f"It {error}", MERGE) from error


def _from_model(
    given: PreTrainedModel | PeftModel, auto_class: ModelClass | str | None, arguments: Loading
) -> Teacher:
    if arguments:
        problem = "It is an argument for loading a teacher, and this one is loaded already."
        raise GrowthError(next(iter(arguments)), next(iter(arguments.values())), problem, "Leave them out.")
    inner: nn.Module = given.get_base_model() if isinstance(given, PeftModel) else given
    if not isinstance(inner, PreTrainedModel):
        problem = f"It adapts a {type(inner).__name__}, which is no model of transformers."
        raise GrowthError("teacher", type(given).__name__, problem, MERGE)
    model = inner
    refuse_quantised(model.config, arguments, model)
    skeleton = build(type(model), model.config, "meta")
    _refuse_absent(model)
    adapters = list(adapter_configs(given).values())
    if not adapters:
        _refuse_other_parameters(model, skeleton)
    if auto_class is not None:
        wanted = skeleton_of(find_class(auto_class, model.config), model.config, {})
        if type(wanted) is not type(model):
            problem = f"It builds {type(wanted).__name__}, and the teacher is {type(model).__name__}."
            raise GrowthError("auto_class", auto_class, problem, "Leave it out, or pass the teacher's id or path.")
    # The weights may have been cast after loading: the student has their dtype, not that of the config.
    skeleton.config.dtype = model.dtype
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    generation = getattr(model, "generation_config", None)
    if not adapters:
        return Teacher(name, skeleton, lambda: _complete(gathered(model), skeleton), generation)
    with about_adapter(given):
        require_mergeable(adapters)

    def load() -> tuple[PreTrainedModel, frozenset[str]]:
        with about_adapter(given):
            return _complete(merged(gathered(given)), skeleton)

    base = str(adapters[0].base_model_name_or_path or name)
    return Teacher(name, skeleton, load, generation, adapter=adapters[0].peft_type.value, base_model=base)


def _refuse_absent(model: PreTrainedModel) -> None:
    """Raise where a loaded model has parameters that are not in memory."""
    away = [key for key, tensor in model.named_parameters() if tensor.is_meta]
    if away:
        problem = f"{len(away)} of its parameters are not in memory but on disk or the meta device, such as {away[0]}."
        fix = "Load it whole: without device_map, or with device_map='cpu'."
        raise GrowthError("teacher", type(model).__name__, problem, fix)


def _refuse_other_parameters(model: PreTrainedModel, skeleton: PreTrainedModel) -> None:
    """Raise where a loaded model has parameters that its class does not build."""
    name = type(model).__name__
    known = dict(skeleton.named_parameters(remove_duplicate=False)).keys()
    more = [key for key, _ in model.named_parameters() if key not in known]
    if more:
        problem = f"It has {len(more)} parameters that its class does not build from its config, such as {more[0]}."
        raise GrowthError("teacher", name, problem, MERGE)


def _complete(model: PreTrainedModel, skeleton: PreTrainedModel) -> tuple[PreTrainedModel, frozenset[str]]:
    """(`model`, no names); where it lacks parameters that its class builds (the pooler of a task's encoder), a model
    with its weights that has them, and their names.
    """
    if not skeleton.state_dict().keys() - model.state_dict().keys():
        return model, frozenset()
    whole = build(type(skeleton), model.config, "cpu").eval()
    whole.to(model.device, model.dtype)
    info = whole.load_state_dict(model.state_dict(), strict=False, assign=True)
    whole.tie_weights()
    return whole, frozenset(info.missing_keys)


def _load(model_class: ModelClass, name: str, arguments: Loading) -> tuple[PreTrainedModel, frozenset[str]]:
    if arguments.get("gguf_file") and not getattr(arguments.get("quantization_config"), "dequantize", False):
        raise_quantised(name, "gguf")
    try:
        with whole_models():
            loaded: Any = model_class.from_pretrained(name, output_loading_info=True, **trusting(arguments))
    except Exception as error:
        # Weights that do not fit the config, files cut off, code of the checkpoint's own.
        raise unreadable(name, error) from error
    model, info = loaded  # with output_loading_info it returns two
    refuse_quantised(model.config, arguments, model)
    _refuse_absent(model)
    if adapter_configs(model):
        with about_adapter(name):
            model = merged(model, in_place=True)
    _refuse_other_parameters(model, build(type(model), model.config, "meta"))
    return model, frozenset(info["missing_keys"]) | {key[0] for key in info["mismatched_keys"]}
