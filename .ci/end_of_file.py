"""Let each named file end with one newline and its lines with no blanks; 1 if any was changed, for pre-commit."""

import re
import sys
from pathlib import Path


def tidy(text: str) -> str:
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip("\n") + "\n" if text else text


def main(names: list[str]) -> int:
    changed = 0
    for path in map(Path, names):
        text = path.read_text(encoding="utf-8")
        if tidy(text) != text:
            path.write_text(tidy(text), encoding="utf-8")
            print(f"tidied {path}")
            changed = 1
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
