"""Adapters of peft: found in a folder or on the Hub, loaded with their base model, merged into a copy of it."""

import copy
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.peft_utils import find_adapter_config_file

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
"""Arguments of `from_pretrained` that say where files are, and are the same for models and adapters."""

_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."  # of the names of weights in an adapter's file


class AdapterError(ValueError):
    """What is wrong with an adapter, a clause behind its name; whoever asked makes an error of hf_dwt of it."""


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder or on the Hub, of which the config has been read.

    Args:
        name: folder or id.
        config: a `PeftConfig`.
        arguments: all that were given to load it with, as for `from_pretrained`.
    """

    name: str
    config: Any
    arguments: Mapping[str, Any]

    @property
    def base(self) -> str:
        """Id or path of the model that it adapts.

        Raises:
            AdapterError: its config names none.
        """
        if not (named := self.config.base_model_name_or_path):
            raise AdapterError("is an adapter whose config names no model that it adapts (base_model_name_or_path).")
        return str(named)

    @property
    def base_arguments(self) -> dict[str, Any]:
        """To load the base model with: `revision` and `subfolder` are the adapter's, whose config has the base's."""
        own = {key: value for key, value in self.arguments.items() if key not in ("revision", "subfolder")}
        return own | ({"revision": self.config.revision} if self.config.revision else {})

    @property
    def auto_class(self) -> str | None:
        """Name of the Auto class of its task; None where its config leaves that open, as of a masked LM."""
        return _AUTO_CLASSES.get(str(self.config.task_type or ""))

    def added_to(self, base: PreTrainedModel, absent: Iterable[str]) -> tuple[nn.Module, list[str]]:
        """(the model with its adapter as peft loads it, what of `absent` the adapter does not bring either).

        Args:
            base: changed in place.
            absent: names of parameters that the checkpoint of the base model did not contain.

        Raises:
            AdapterError: it does not fit the base model, or lacks weights.
        """
        from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

        folder = self._folder_of_weights()  # peft asks the Hub for what is in the cache too
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Found missing adapter keys")  # it is an error here
                config = copy.deepcopy(self.config)
                model: nn.Module = PeftModel.from_pretrained(base, folder, config=config, torch_device="cpu")
            stored = load_peft_weights(folder, device="cpu").keys()
        except Exception as error:  # files cut off, weights of other shapes, modules that are not there
            why = " ".join(str(error).split())[:300]
            raise AdapterError(f"cannot be added to {self.config.base_model_name_or_path!r}: {why}") from error
        wanted = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
        if missing := sorted(wanted - stored):
            raise AdapterError(f"lacks weights of its adapter ({_some(missing)}): they would be random.")
        if unused := sorted(stored - wanted - model.state_dict().keys()):
            name = type(base).__name__
            raise AdapterError(f"is an adapter of another model or task: {name} has no place for {_some(unused)}.")
        return model, [name for name in absent if f"{_PREFIX}{name}" not in stored]

    def _folder_of_weights(self) -> str:
        where = {key: value for key, value in self.arguments.items() if key in HUB_ARGUMENTS and value is not None}
        for file in _WEIGHTS:
            try:
                found = cached_file(self.name, file, **where)
            except OSError:
                continue
            if found is not None:
                return os.path.dirname(found)
        raise AdapterError(f"is an adapter without weights: there is no {_WEIGHTS[0]}.")


def find_adapter(name: str, arguments: Mapping[str, Any]) -> Adapter | None:
    """The adapter in a folder or repository; None where there is none, or a whole model beside it.

    Args:
        name: folder or Hub id.
        arguments: of `from_pretrained`.

    Raises:
        AdapterError: its config cannot be read.
    """
    if Path(name, CONFIG_NAME).is_file():
        return None  # transformers loads both from there
    where = {key: value for key, value in arguments.items() if key in HUB_ARGUMENTS}
    try:
        found = find_adapter_config_file(name, **where)
    except Exception:  # nothing there at all, or no way to it: whoever loads it says so
        return None
    if found is None:
        return None
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(os.path.dirname(found))
    except Exception as error:  # no JSON, a kind of adapter that this version of peft does not know
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise AdapterError(f"is an adapter whose config cannot be read: {why}") from error
    return Adapter(name, config, arguments)


def adapter_configs(model: nn.Module) -> dict[str, Any]:
    """Name -> config of each adapter of a model."""
    return dict(getattr(model, "peft_config", None) or {})


def require_mergeable(configs: Iterable[Any]) -> None:
    """Raise an AdapterError for a kind of adapter that is known not to be merged, before weights are read."""
    for config in configs:
        if config.is_prompt_learning:
            kind = config.peft_type.value
            raise AdapterError(f"has virtual tokens ({kind}), which are no weights of the model and cannot be merged.")


def merged(model: nn.Module, in_place: bool = False) -> PreTrainedModel:
    """A model of transformers with its active adapters merged into the weights.

    Args:
        model: peft's, or one with an adapter within (`model.add_adapter`).
        in_place: it may be changed; otherwise a copy is.

    Raises:
        AdapterError: its adapters cannot be merged.
    """
    from peft import PeftModel, get_model_status
    from peft.tuners.tuners_utils import BaseTuner

    require_mergeable(adapter_configs(model).values())
    if isinstance(model, PeftModel) and not isinstance(model.base_model, BaseTuner):
        raise AdapterError(f"cannot be merged: peft does not merge a {type(model.base_model).__name__}.")
    if tied := _tied(model):
        problem = f"changes {tied}, whose weights are tied to another module's: merged, they would change there too."
        raise AdapterError(problem)
    if get_model_status(model).enabled is not True:
        raise AdapterError("has adapters that are disabled, of all its layers or of some.")
    try:
        duplicate = model if in_place else copy.deepcopy(model)
        plain: Any = duplicate.merge_and_unload() if isinstance(duplicate, PeftModel) else _without(duplicate)
    except Exception as error:  # a kind of adapter, or quantised weights, that peft does not merge
        raise AdapterError(f"cannot be merged: {' '.join(str(error).split())[:300]}") from error
    whole: PreTrainedModel = plain
    return whole


def _tied(model: nn.Module) -> str | None:
    """A module with an adapter whose own weights are also another module's."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for name, part in model.named_modules():
        if hasattr(part, "adapter_layer_names"):
            own = getattr(part, "base_layer", getattr(part, "original_module", None))
            if own is not None and any(uses[id(parameter)] > 1 for parameter in own.parameters()):
                return str(name).removeprefix(_PREFIX)
    return None


def _without(model: nn.Module) -> nn.Module:
    """A model with its adapters merged, in place; of one with an adapter within, of which peft has no wrapper."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, part in list(model.named_modules()):
        if hasattr(part, "unload_and_optionally_merge_module"):
            own = part.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        elif isinstance(part, BaseTunerLayer):
            part.merge()
            own = part.get_base_layer()
        else:
            continue
        model.set_submodule(name, own)
    del model.peft_config
    return model


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
