"""How the sections of the run record are found: the model, its data, its settings and what the run stands on."""

import dataclasses
import json
import logging
import os
import platform
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from huggingface_hub import ModelCard
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import TrainingArguments

from ..errors import TaskError
from ..tasks import find_task, model_class
from .run_record import DatasetEntry, EnvironmentSection, ModelSection

logger = logging.getLogger(__name__)

# Filled in by TrainingArguments itself.
_DERIVED = ("accelerator_config", "report_to")
# Words in the names of settings that mean something on one machine only, or are secret.
_LOCAL = ("token", "_dir", "hub_", "push_to_hub", "run_name", "resume_from", "disable_tqdm")
_PACKAGES = ("hf_dwt", "transformers", "torch", "datasets", "accelerate", "peft", "huggingface_hub")


def non_default_settings(args: TrainingArguments) -> dict[str, object]:
    """The fields of a dataclass of arguments that differ from their defaults, without paths and tokens."""
    # Not from a default instance: making one resets accelerate's state, in the middle of a training.
    plain = args.to_dict()
    found: dict[str, object] = {}
    for f in dataclasses.fields(args):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        value, default = plain.get(f.name), getattr(default, "value", default)
        derived = f.name in _DERIVED or any(word in f.name for word in _LOCAL)
        if not derived and not _same_setting(value, default):
            found[f.name] = _as_json(value)
    return found


def _same_setting(value: object, default: object) -> bool:
    """Whether both are equal or both empty; arrays and other values that no `bool` can be made of are no defaults."""
    try:
        return value is default or bool(value == default) or not (value or default)
    except Exception:
        return False


def _as_json(value: object) -> object:
    """A value as it reads back from JSON, or its text where JSON has no form of it (an array, a device)."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)


def public_name(source: str | os.PathLike[str]) -> str:
    """An id as it is; of a local path its last part: others have no use for the rest."""
    text = os.fspath(source)
    local = os.path.exists(text) or os.path.isabs(text) or text.startswith(".")
    return os.path.basename(os.path.abspath(text)) if local else text


def hub_id(source: object) -> str | None:
    """A name that can only be an id of the Hub: owner/name, and nothing of that name lies here."""
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    return text if re.fullmatch(r"\w[\w.-]*/[\w.-]+", text) and not os.path.exists(text) else None


def describe_dataset(dataset: object) -> list[DatasetEntry]:
    """The name of a `datasets` data set; id and revision if it came from the Hub. Empty of any other data set."""
    info = getattr(dataset, "info", None)
    if info is None:
        return []
    found: dict[str, DatasetEntry] = {}
    for url in info.download_checksums or {}:
        if match := re.match(r"hf://datasets/([^@]+)@([^/]+)/", url):
            found[match[1]] = {"id": match[1], "name": match[1], "revision": match[2]}
    name = info.dataset_name
    return list(found.values()) or ([{"id": None, "name": name, "revision": None}] if name else [])


def inherited_license(source: object) -> str | None:
    """The license in the card of a teacher, if it has one that can be read."""
    if not isinstance(source, str | os.PathLike):
        return None
    try:
        local = Path(source) / "README.md"
        if Path(source).exists() and not local.is_file():
            return None
        found = ModelCard.load(local if local.is_file() else str(source)).data.license
    except Exception as error:  # no card, no network: the license is then not known
        logger.info("The teacher's license is not known: %s", type(error).__name__)
        return None
    return found if isinstance(found, str) else None


def parameter_count(model: nn.Module) -> int | None:
    """The number of a whole model's parameters, also where each process holds a part of them.

    None under FSDP 1 and DeepSpeed's tensor parallelism, whose parameters have the size of this process's part.
    """
    parameters = list(model.parameters())
    parts = any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    if parts or any(hasattr(parameter, "ds_is_replaced_module") for parameter in parameters):
        return None
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)  # the former of ZeRO-3


def describe_model(model: nn.Module | None) -> ModelSection:
    """Class, size (where it is known) and task of a model; of a peft adapter also its type and its base model."""
    if model is None:
        return {}
    described: ModelSection = {"class": model_class(model).__name__}
    if (count := parameter_count(model)) is not None:
        described["parameters"] = count
    for config in (getattr(model, "peft_config", None) or {}).values():
        base = config.base_model_name_or_path
        described["adapter"], described["base_model"] = config.peft_type.value, base and public_name(base)
        break
    try:
        task = find_task(model)
        described["task"], described["auto_class"] = task.name, task.auto_class
        described["outcome"] = task.outcome.name.lower()
    except TaskError:  # a model of another task, or of no library
        pass
    return described


@cache
def describe_environment() -> EnvironmentSection:
    """Hardware, Python and the versions of what a run stands on."""
    import torch

    hardware = platform.machine()
    if torch.cuda.is_available():
        hardware = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return {"hardware": hardware, "python": platform.python_version(), "versions": _versions(_PACKAGES)}


def _versions(packages: Iterable[str]) -> Mapping[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
