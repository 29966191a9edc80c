"""How far a reader travels: the files of hf_dwt through which one batch and one growth pass, and how large they are.

`python -m tests.structure` prints the table. Calls and returns between Python functions count: a stop is a change of
file, a way is a pair of files of which one calls the other.
"""

import io
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import hf_dwt

from .models import tiny
from .training import ragged_examples, trainer

PACKAGE = Path(hf_dwt.__file__).parent


def stops(function: Callable[[], Any]) -> list[str]:
    """The files of the package through which a call passes, in order, each change of file once."""
    seen: list[str] = []

    def follow(frame: FrameType | None, event: str, _: Any) -> None:
        if event != "call":
            return
        name = frame.f_code.co_filename if frame is not None else ""
        if name.startswith(f"{PACKAGE}/"):
            short = name.removeprefix(f"{PACKAGE}/")
            if seen[-1:] != [short]:
                seen.append(short)

    sys.setprofile(follow)
    try:
        function()
    finally:
        sys.setprofile(None)
    return seen


def batch() -> list[str]:
    """The loss of the third batch of a masked LM with a teacher: everything is set up by then."""
    found: list[list[str]] = []
    with tempfile.TemporaryDirectory() as out:
        run = trainer(
            tiny("bert"), tiny("bert"), out, train_dataset=ragged_examples(), soft_weight_schedule="constant"
        )
        inner = run.compute_loss

        def watched(*args: Any, **kwargs: Any) -> Any:
            kept: list[Any] = []
            found.append(stops(lambda: kept.append(inner(*args, **kwargs))))
            return kept[0]

        run.compute_loss = watched  # type: ignore[method-assign]
        run.train()
    return found[2]


def clone() -> list[str]:
    """A tiny BERT made twice as wide and one layer deeper, exactly."""
    teacher = tiny("bert")
    return stops(lambda: hf_dwt.from_weak_teacher(teacher, hidden_size=32, num_hidden_layers=3, init="clone"))


def tokens(name: str) -> int:
    """How often a name occurs in the code of the package."""
    texts = (path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    read = (token for text in texts for token in tokenize.generate_tokens(io.StringIO(text).readline))
    return sum(token.type == tokenize.NAME and token.string == name for token in read)


def main() -> None:
    for what, path in (("one batch", batch()), ("one clone", clone())):
        ways = len(set(pairwise(path)))
        print(f"{what}: {len(set(path))} files, {len(path)} stops, {ways} ways from one file to another")
    sources = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    folder, files = Counter(path.parent.as_posix() for path in sources).most_common(1)[0]
    lines = sum(len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) for path in sources)
    print(f"{len(sources)} files, {lines} lines; largest folder {folder}: {files} files; {tokens('Any')} times Any")


if __name__ == "__main__":
    main()
