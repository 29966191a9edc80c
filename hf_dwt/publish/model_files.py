"""Which files of a folder belong to its model, and which of them are its weights."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import HubError
from .run_record import RUN_FILE

WEIGHTS = re.compile(r"((?:adapter_|pytorch_)?model)(?:-\d+-of-\d+)?\.(safetensors|bin)(?:\.index\.json)?")
ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
MODEL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_PICKLED = re.compile(r"(?!training_args\.bin).*\.(bin|pt|pth|pkl|ckpt)")
# Of a checkpoint, but no part of the model: what is neither pickled nor of torch's distributed checkpoints ("_...").
_TRAINING_ONLY = re.compile(r"trainer_state\.json|latest(_universal)?|zero_to_\w+\.py|shard-\d+-model-.*")


def is_adapter(files: Mapping[str, Path]) -> bool:
    """Whether these files are an adapter, which `from_pretrained` looks for first.

    Where the weights of a whole model lie beside it, `run.json` holds which of the two was saved last.
    """
    if "adapter_config.json" not in files or not files.keys() & set(MODEL) or RUN_FILE not in files:
        return "adapter_config.json" in files
    try:
        return "adapter" in json.loads(files[RUN_FILE].read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, LookupError, TypeError):
        return True


def weights_read(files: Mapping[str, Path], adapter: bool | None = None) -> set[str]:
    """Names of the weights that a model of these files consists of: the first that `from_pretrained` finds.

    Args:
        files: by their names.
        adapter: whether they are an adapter; None asks the files.
    """
    adapter = is_adapter(files) if adapter is None else adapter
    found = next((name for name in (ADAPTER if adapter else MODEL) if name in files), None)
    if found is None:
        return set()
    return {found, *_shards(files[found])} if found.endswith(".json") else {found}


def _shards(index: Path) -> set[str]:
    return set(re.findall(r'"([^"]+-\d+-of-\d+\.\w+)"', index.read_text(encoding="utf-8")))


def _may_belong(parts: tuple[str, ...]) -> bool:
    """Whether a file, by the parts of its path, is none of the training's.

    Engines write their states under many names, and all of them pickled. Of pickled files those go along that
    `from_pretrained` reads, and the arguments.
    """
    if any(part.startswith((".", "_", "checkpoint-")) for part in parts) or _TRAINING_ONLY.fullmatch(parts[0]):
        return False
    return not _PICKLED.fullmatch(parts[-1]) or WEIGHTS.fullmatch(parts[-1]) is not None


def files_to_push(folder: Path) -> dict[str, Path]:
    """Path in the repository -> file, of everything in a folder that belongs to the model.

    Left out: names that begin with "_" or ".", checkpoints, the state of the training, pickled files that are no
    weights, and weights that the model does not consist of, such as those of the base model beside an adapter.

    Raises:
        HubError: no such folder, weights without a config, or a config without weights.
    """
    if not folder.is_dir():
        raise HubError("folder", str(folder), "There is no such folder.", "Give the folder of a saved model.")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and _may_belong(parts):
            files["/".join(parts)] = path
    foreign = {name for name in files if WEIGHTS.fullmatch(name)} - weights_read(files)
    if not is_adapter(files):  # one of an earlier run would be read in place of the model
        foreign |= {"adapter_config.json"}
    files = {name: path for name, path in files.items() if name not in foreign}
    require_whole(files, folder)
    return files


def require_whole(files: Mapping[str, Path], folder: str | Path) -> None:
    """Raise a HubError unless these files, by their names, have weights and config; the error names the folder."""
    if missing := _missing(files):
        problem = f"holds no whole model: {missing} is missing."
        raise HubError("folder", str(folder), problem, "Give the folder of a finished save.")


def _missing(files: Mapping[str, Path]) -> str | None:
    if "adapter_config.json" not in files and "config.json" not in files:
        return "config.json"
    weights = weights_read(files)
    if not weights:
        return ADAPTER[0] if is_adapter(files) else MODEL[0]
    return min(weights - files.keys(), default=None)
