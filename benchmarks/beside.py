"""Contenders beside one of them: step times as a share of its own, in turns, and peak memory; into a page's table."""

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from .contenders import Contender
from .loop import contest, interleave, quartiles
from .sizes import SIZES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"


def trainer(student: nn.Module, teacher: Any, args: dict[str, Any], **more: Any) -> Trainer:
    """Ours at constant weights, as in `CONTENDERS`; `options` are further arguments of distillation."""
    from hf_dwt import DistillationArguments, DistillationTrainer

    own = more.pop("options", {})
    arguments = DistillationArguments(**args, **{"soft_weight_schedule": "constant", **own})
    return DistillationTrainer(student, arguments, teacher_model=teacher, **more)


@dataclass(frozen=True)
class Beside:
    """A program that compares contenders with one of them.

    Args:
        name: of the program, `python -m benchmarks.<name>`, of its result and of its marks on the page.
        contenders: as `CONTENDERS`.
        base: the name of the one that the others are compared with.
        than: what a column says of it.
    """

    name: str
    contenders: Mapping[str, Contender]
    base: str
    than: str

    def measure(self, size: str, rounds: int) -> dict[str, Any]:
        """Seconds of a step of each contender in each round, and its peak memory."""
        where = {"use_cpu": not torch.cuda.is_available()}
        with contest(SIZES[size], list(self.contenders), where, self.contenders) as (turns, absent):
            memory = {name: turn.peak() for name, turn in turns.items()}
            seconds = interleave(turns, rounds, SIZES[size].turn)
        return {"seconds": seconds, "peak_bytes": memory, "absent": absent, "load": os.getloadavg()[0]}

    def table(self, results: Mapping[str, Any]) -> str:
        """Markdown: a line for each contender and size."""
        lines = [f"| size | | time / {self.than} (quartiles) | peak memory (MiB) |", "|---|---|---|---|"]
        for size, found in results.items():
            for name, times in found["seconds"].items():
                base = found["seconds"][self.base]
                low, middle, high = quartiles([t / s for t, s in zip(times, base, strict=True)])
                cell = "1" if name == self.base else f"{middle:.2f} ({low:.2f} to {high:.2f})"
                lines.append(
                    f"| {size} | {self.contenders[name][0]} | {cell} | {found['peak_bytes'][name] / 2**20:.0f} |"
                )
        return "\n".join(lines)

    def main(self, doc: str | None) -> None:
        """Measure the sizes that are named, keep the figures, and write the page's table."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{self.name}", description=doc)
        parser.add_argument("--sizes", nargs="+", choices=SIZES, default=("mini", "small"))
        parser.add_argument("--rounds", type=int, default=9)
        options = parser.parse_args()
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        path = ROOT / "benchmarks" / "results" / f"{self.name}.json"
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for size in options.sizes:
            results[size] = self.measure(size, options.rounds)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            for name, why in results[size]["absent"].items():
                print(f"{size}, {name}: did not run: {why}", flush=True)
        begin, end = (
            f"<!-- {self.name}: written by `python -m benchmarks.{self.name}` -->",
            f"<!-- /{self.name} -->",
        )
        before, rest = PAGE.read_text(encoding="utf-8").split(begin)
        after = rest.split(end)[1]
        PAGE.write_text(f"{before}{begin}\n\n{self.table(results)}\n\n{end}{after}", encoding="utf-8")
        print(self.table(results))
