"""A file of flags: YAML or JSON, one flag a line. Imports neither torch nor transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_file(path: str | Path) -> dict[str, Any]:
    """Flag -> value.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    import yaml

    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: expected lines of 'flag: value'")
    return entries


def flags_of(entries: Mapping[str, Any]) -> list[str]:
    """The command line of the same flags; one without a value is left out."""
    argv: list[str] = []
    for name, value in entries.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            argv += [f"--{name}", *(json.dumps(one) if isinstance(one, dict) else str(one) for one in values)]
    return argv
