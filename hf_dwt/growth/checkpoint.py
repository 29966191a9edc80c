"""The teacher to grow from: its class and config are read at once, its weights on first use."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from ..engines import gathered, whole_models
from ..errors import GrowthError, first_line
from ..hub_access import HOW, no_connection
from .building import ModelClass, build

MERGE = (
    "Merge an adapter first, and pass what PeftModel.from_pretrained(base_model, adapter).merge_and_unload() returns; "
    "or pass the model that it adapts."
)
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


Loading = Mapping[str, Any]
"""Arguments of `from_pretrained`."""


@dataclass
class Teacher:
    """The teacher, as far as growth needs it.

    Args:
        name: id, path or class name, for the report.
        skeleton: the model on the meta device: class, config, names and shapes, no memory.
        load: loads the weights; returns the model and the names of parameters its checkpoint did not contain.
        generation_config: None where the checkpoint has none.
        untied: a parameter that the student unties -> the parameter that it starts as a copy of.
        checkpoint: (id or path, arguments of `from_pretrained`); None of a teacher that was given as a model.
    """

    name: str
    skeleton: PreTrainedModel
    load: Callable[[], tuple[PreTrainedModel, frozenset[str]]]
    generation_config: GenerationConfig | None = None
    untied: Mapping[str, str] = field(default_factory=dict)
    checkpoint: tuple[str, Loading] | None = None

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


def open_teacher(
    teacher: str | Path | PreTrainedModel, auto_class: ModelClass | str | None, arguments: Loading
) -> Teacher:
    """Find the teacher's class and config without reading weights.

    Args:
        teacher: Hub id, local path or model.
        auto_class: class or class name to load it with, None to take the one the checkpoint names.
        arguments: of `from_pretrained`.

    Raises:
        GrowthError: no checkpoint there, a class that is unknown or does not fit, or a quantised teacher.
    """
    if isinstance(teacher, PreTrainedModel):
        return _from_model(teacher, auto_class, arguments)
    if not isinstance(teacher, str | Path):
        problem = "A teacher is a Hub id, a local path or a transformers model."
        raise GrowthError("teacher", teacher, problem, "Pass one of these; unwrap a PEFT or parallel model first.")
    if "config" in arguments:
        problem = "The teacher's config is read from its checkpoint."
        raise GrowthError(
            "config", type(arguments["config"]).__name__, problem, "Load the teacher with it and pass the model."
        )
    config = _read_config(str(teacher), arguments)
    _refuse_quantised(config, arguments)
    model_class = _find_class(auto_class, config)
    trust = {key: value for key, value in arguments.items() if key == "trust_remote_code"}
    return Teacher(
        name=str(teacher),
        skeleton=_skeleton(model_class, config, trust),
        load=lambda: _load(model_class, str(teacher), arguments),
        generation_config=_read_generation_config(str(teacher), arguments),
        checkpoint=(str(teacher), arguments),
    )


def _from_model(model: PreTrainedModel, auto_class: ModelClass | str | None, arguments: Loading) -> Teacher:
    if arguments:
        problem = "It is an argument for loading a teacher, and this one is loaded already."
        raise GrowthError(next(iter(arguments)), next(iter(arguments.values())), problem, "Leave them out.")
    _refuse_quantised(model.config, arguments, model)
    skeleton = build(type(model), model.config, "meta")
    _refuse_other_parameters(model, skeleton)
    if auto_class is not None:
        wanted = _skeleton(_find_class(auto_class, model.config), model.config, {})
        if type(wanted) is not type(model):
            problem = f"It builds {type(wanted).__name__}, and the teacher is {type(model).__name__}."
            raise GrowthError("auto_class", auto_class, problem, "Leave it out, or pass the teacher's id or path.")
    # The weights may have been cast after loading: the student has their dtype, not that of the config.
    skeleton.config.dtype = model.dtype
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    generation = getattr(model, "generation_config", None)
    return Teacher(name, skeleton, lambda: _complete(gathered(model), skeleton), generation)


def _refuse_other_parameters(model: PreTrainedModel, skeleton: PreTrainedModel) -> None:
    """Raise where a loaded model has parameters that its class does not build, or that are not in memory."""
    name = type(model).__name__
    away = [key for key, tensor in model.named_parameters() if tensor.is_meta]
    if away:
        problem = f"{len(away)} of its parameters are not in memory but on disk or the meta device, such as {away[0]}."
        raise GrowthError("teacher", name, problem, "Load it whole: without device_map, or with device_map='cpu'.")
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
    whole = build(type(model), model.config, "cpu").eval()
    whole.to(model.device, model.dtype)
    info = whole.load_state_dict(model.state_dict(), strict=False, assign=True)
    whole.tie_weights()
    return whole, frozenset(info.missing_keys)


def _load(model_class: ModelClass, name: str, arguments: Loading) -> tuple[PreTrainedModel, frozenset[str]]:
    if arguments.get("gguf_file") and not getattr(arguments.get("quantization_config"), "dequantize", False):
        _raise_quantised(name, "gguf")
    try:
        with whole_models():
            loaded: Any = model_class.from_pretrained(name, output_loading_info=True, **_trusting(arguments))
    except Exception as error:
        # Weights that do not fit the config, files cut off, code of the checkpoint's own.
        raise _unreadable(name, error) from error
    model, info = loaded  # with output_loading_info it returns two
    _refuse_quantised(model.config, arguments, model)
    _refuse_other_parameters(model, build(type(model), model.config, "meta"))
    return model, frozenset(info["missing_keys"]) | {key[0] for key in info["mismatched_keys"]}


def _read_config(name: str, arguments: Loading) -> PreTrainedConfig:
    if away := no_connection(name, arguments):
        raise GrowthError("teacher", name, away, HOW)
    wanted = {key: value for key, value in arguments.items() if key not in ("quantization_config", "device_map")}
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, **_trusting(wanted))
        return config
    except Exception as error:  # code of the checkpoint's own may raise anything
        raise _unreadable(name, error, arguments) from error


def _is_adapter(name: str, where: Loading) -> bool:
    try:
        return find_adapter_config_file(name, **where) is not None
    except Exception:  # nothing there at all, or no way to it
        return False


def _trusting(arguments: Loading) -> Loading:
    """`arguments` under which a checkpoint's own code is refused, without a question, unless they allow it."""
    return {"trust_remote_code": False, **arguments}


def _unreadable(name: str, error: Exception, arguments: Loading | None = None) -> GrowthError:
    where = {key: value for key, value in (arguments or {}).items() if key in HUB_ARGUMENTS}
    if arguments is not None and _is_adapter(name, where):
        return GrowthError("teacher", name, "It is an adapter, which holds no model.", MERGE)
    problem = f"No checkpoint can be loaded from there ({type(error).__name__}: {first_line(error)})"
    if isinstance(error, RuntimeError) and "ignore_mismatched_sizes" in str(error):
        problem = "Its weights are not of the shapes that its config says."
        return GrowthError("teacher", name, problem, "Restore the config.json that the weights were saved with.")
    if "contains custom code" in str(error):
        problem = "It needs code of its own, which is not run unless you ask for it."
        return GrowthError("teacher", name, problem, "Read that code, then pass trust_remote_code=True.")
    fix = (
        "Check the spelling of the id or that the folder holds config.json and weights; for a private repository log "
        "in or pass token=; with HF_HUB_OFFLINE=1 only what was downloaded before is found."
    )
    return GrowthError("teacher", name, problem, fix)


def _read_generation_config(name: str, arguments: Loading) -> GenerationConfig | None:
    wanted = {key: value for key, value in arguments.items() if key in HUB_ARGUMENTS}
    try:
        return GenerationConfig.from_pretrained(name, **wanted)
    except OSError:
        return None


def _find_class(auto_class: ModelClass | str | None, config: PreTrainedConfig) -> ModelClass:
    """The class that loads the checkpoint: `auto_class`, else the one that `config.architectures` names."""
    if auto_class is not None and not isinstance(auto_class, str):
        return auto_class
    name = auto_class or next(iter(config.architectures or ()), None)
    # Code that ships with a checkpoint is reached through the Auto class it registers its class under.
    remote = getattr(config, "auto_map", None) or {}
    name = next((auto for auto, path in remote.items() if auto.startswith("AutoModel") and _ends(path, name)), name)
    found: ModelClass | None = getattr(transformers, name, None) if name else None
    if found is None:
        close = difflib.get_close_matches(name or "", [n for n in dir(transformers) if "For" in n], n=1)
        problem = f"transformers has no class {name!r}." if name else "The checkpoint's config names no class."
        guess = f"Did you mean {close[0]!r}? " if close else ""
        raise GrowthError(
            "auto_class", auto_class, problem, f'{guess}Say which task it is for, as in "AutoModelForMaskedLM".'
        )
    return found


def _ends(path: object, name: str | None) -> bool:
    return name is not None and str(path).endswith(f".{name}")


def _skeleton(model_class: ModelClass, config: PreTrainedConfig, arguments: Loading) -> PreTrainedModel:
    try:
        return build(model_class, config, "meta", **arguments)
    except (ValueError, AttributeError, TypeError) as error:
        problem = f"It builds no model from a {type(config).__name__} ({first_line(error)})"
        fix = "Name a class for the task the checkpoint was trained on."
        raise GrowthError("auto_class", getattr(model_class, "__name__", model_class), problem, fix) from error


def _refuse_quantised(config: PreTrainedConfig, arguments: Loading, model: PreTrainedModel | None = None) -> None:
    """A student grown from packed weights would hold packed blocks, or its config would say that it does."""
    stored = getattr(config, "quantization_config", None)
    packed = getattr(model, "is_quantized", False) if model is not None else stored is not None
    if model is None and getattr(arguments.get("quantization_config"), "dequantize", False):
        return
    if packed:
        method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
        _raise_quantised(config.name_or_path, str(getattr(method, "value", method or "unknown")))


def _raise_quantised(name: str | None, method: str) -> None:
    fix = "Load it in full precision: for weights of the same checkpoint quantization_config=...(dequantize=True)"
    if method == "gguf":
        fix = "Pass quantization_config=GgufConfig(dequantize=True) from transformers"
    problem = f"The teacher is quantised ({method}); its parameters are packed blocks, which cannot be grown."
    raise GrowthError("teacher", name, problem, f"{fix}, or pass a model that was dequantised.")
