"""What is read of a teacher's checkpoint before its weights: its config, its class, what it generates with."""

import difflib
from collections.abc import Mapping
from typing import Any

import transformers
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel

from ..adapters import HUB_ARGUMENTS
from ..errors import GrowthError, first_line
from ..hub_access import HOW, no_connection
from .building import ModelClass, build

Loading = Mapping[str, Any]
"""Arguments of `from_pretrained`."""


def require_answer(name: str, arguments: Loading) -> None:
    """Raise a GrowthError for an id that is not cached while the Hub does not answer: one request shows it."""
    if away := no_connection(name, arguments):
        raise GrowthError("teacher", name, away, HOW)


def read_config(name: str, arguments: Loading) -> PreTrainedConfig:
    wanted = {key: value for key, value in arguments.items() if key not in ("quantization_config", "device_map")}
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, **trusting(wanted))
        return config
    except Exception as error:  # code of the checkpoint's own may raise anything
        raise unreadable(name, error) from error


def trusting(arguments: Loading) -> Loading:
    """`arguments` under which a checkpoint's own code is refused, without a question, unless they allow it."""
    return {"trust_remote_code": False, **arguments}


def unreadable(name: str, error: Exception) -> GrowthError:
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


def read_generation_config(name: str, arguments: Loading) -> GenerationConfig | None:
    wanted = {key: value for key, value in arguments.items() if key in HUB_ARGUMENTS}
    try:
        return GenerationConfig.from_pretrained(name, **wanted)
    except OSError:
        return None


def find_class(auto_class: ModelClass | str | None, config: PreTrainedConfig) -> ModelClass:
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


def skeleton_of(model_class: ModelClass, config: PreTrainedConfig, arguments: Loading) -> PreTrainedModel:
    try:
        return build(model_class, config, "meta", **arguments)
    except (ValueError, AttributeError, TypeError) as error:
        problem = f"It builds no model from a {type(config).__name__} ({first_line(error)})"
        fix = "Name a class for the task the checkpoint was trained on."
        raise GrowthError("auto_class", getattr(model_class, "__name__", model_class), problem, fix) from error


def refuse_quantised(config: PreTrainedConfig, arguments: Loading, model: PreTrainedModel | None = None) -> None:
    """A student grown from packed weights would hold packed blocks, or its config would say that it does."""
    stored = getattr(config, "quantization_config", None)
    packed = getattr(model, "is_quantized", False) if model is not None else stored is not None
    if model is None and getattr(arguments.get("quantization_config"), "dequantize", False):
        return
    if packed:
        method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
        raise_quantised(config.name_or_path, str(getattr(method, "value", method or "unknown")))


def raise_quantised(name: str | None, method: str) -> None:
    fix = "Load it in full precision: for weights of the same checkpoint quantization_config=...(dequantize=True)"
    if method == "gguf":
        fix = "Pass quantization_config=GgufConfig(dequantize=True) from transformers"
    problem = f"The teacher is quantised ({method}); its parameters are packed blocks, which cannot be grown."
    raise GrowthError("teacher", name, problem, f"{fix}, or pass a model that was dequantised.")
