"""Which files of a folder are the weights of its model."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

WEIGHTS = re.compile(r"((?:adapter_|pytorch_)?model)(?:-\d+-of-\d+)?\.(safetensors|bin)(?:\.index\.json)?")
ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
MODEL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def is_adapter(files: Mapping[str, Path]) -> bool:
    """Whether these files are an adapter, which `from_pretrained` looks for first.

    Where the weights of a whole model lie beside it, `run.json` holds which of the two was saved last.
    """
    if "adapter_config.json" not in files or not files.keys() & set(MODEL) or "run.json" not in files:
        return "adapter_config.json" in files
    try:
        return "adapter" in json.loads(files["run.json"].read_text(encoding="utf-8"))["model"]
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
