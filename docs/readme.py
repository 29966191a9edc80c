"""Run the program in README.md as a new user would, and write what it prints below it: `python docs/readme.py`.

`make readme` runs it. Half a minute on one CPU core.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "README.md"
PROGRAM = re.compile(r"^```python\n(?P<code>.*?)^```\n```text\n(?P<printed>.*?)^```", re.DOTALL | re.MULTILINE)


def run(code: str) -> str:
    """The last line that the program prints, run in a folder that holds nothing but the examples."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "examples").symlink_to(ROOT / "examples")
        Path(folder, "program.py").write_text(code, encoding="utf-8")
        paths = os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path)
        done = subprocess.run(
            [sys.executable, "program.py"],
            cwd=folder,
            env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return done.stdout.splitlines()[-1]


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (program,) = PROGRAM.finditer(text)
    printed = run(program["code"])
    PAGE.write_text(text[: program.start("printed")] + printed + "\n" + text[program.end("printed") :], "utf-8")
    print(printed)


if __name__ == "__main__":
    main()
