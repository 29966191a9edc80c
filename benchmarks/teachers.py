"""What teachers in the plural cost: `python -m benchmarks.teachers`, beside a step of the stock Trainer without one.

Several teachers are copies of one, so that k of them have k times its operations; contenders take turns.
"""

import argparse
import copy
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two threads are slower on small models
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch import nn
from transformers import Trainer

from .contenders import CONTENDERS, Contender
from .loop import contest, interleave, quartiles
from .sizes import SIZES

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks" / "results" / "teachers.json", ROOT / "docs" / "benchmarks.md"
MARKS = "<!-- teachers: written by `python -m benchmarks.teachers` -->", "<!-- /teachers -->"
SIZES_HERE = ("mini", "small")


def _run(student: nn.Module, teacher: Any, args: dict[str, Any], **more: Any) -> Trainer:
    from hf_dwt import DistillationArguments, DistillationTrainer

    own = more.pop("options", {})
    arguments = DistillationArguments(**args, soft_weight_schedule="constant", **own)
    return DistillationTrainer(student, arguments, teacher_model=teacher, **more)


def _several(count: int) -> Any:
    def build(student: nn.Module, teacher: nn.Module, args: dict[str, Any], **more: Any) -> Trainer:
        from hf_dwt.teachers.several import SeveralTeachers

        return _run(student, SeveralTeachers([copy.deepcopy(teacher) for _ in range(count)]), args, **more)

    return build


def _online(student: nn.Module, teacher: nn.Module, args: dict[str, Any], **more: Any) -> Trainer:
    from peft import LoraConfig

    from hf_dwt.teachers.online import OnlineTeacher

    config = LoraConfig(r=8, target_modules="all-linear")
    return _run(student, OnlineTeacher(teacher, config, learning_rate=1e-3), args, **more)


def _corrected(name: str) -> Any:
    def build(*args: Any, **more: Any) -> Trainer:
        return _run(*args, options={"teacher_correction": name}, **more)

    return build


# name -> as in CONTENDERS
TEACHERS: dict[str, Contender] = {
    "stock": CONTENDERS["stock"],
    "alone": CONTENDERS["alone"],
    "ours": ("one teacher", _run, "hf_dwt", True),
    "two": ("two teachers, by cross-entropy", _several(2), "hf_dwt", True),
    "three": ("three teachers, by cross-entropy", _several(3), "hf_dwt", True),
    "online": ("an online teacher, LoRA of rank 8", _online, "hf_dwt", True),
    "revise": ('one teacher, `teacher_correction="revise"`', _corrected("revise"), "hf_dwt", True),
    "refine": ('one teacher, `teacher_correction="refine"`', _corrected("refine"), "hf_dwt", True),
}


def measure(size: str, rounds: int) -> dict[str, Any]:
    """Seconds of a step of each contender in each round, and its peak memory."""
    with contest(SIZES[size], list(TEACHERS), {"use_cpu": not torch.cuda.is_available()}, TEACHERS) as (turns, absent):
        memory = {name: turn.peak() for name, turn in turns.items()}
        seconds = interleave(turns, rounds, SIZES[size].turn)
    return {"seconds": seconds, "peak_bytes": memory, "absent": absent, "load": os.getloadavg()[0]}


def table(results: dict[str, Any]) -> str:
    """Markdown: a line for each contender and size."""
    lines = ["| size | | time / stock's (quartiles) | peak memory (MiB) |", "|---|---|---|---|"]
    for size, found in results.items():
        for name, times in found["seconds"].items():
            low, middle, high = quartiles([t / s for t, s in zip(times, found["seconds"]["stock"], strict=True)])
            cell = "1" if name == "stock" else f"{middle:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"| {size} | {TEACHERS[name][0]} | {cell} | {found['peak_bytes'][name] / 2**20:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teachers", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES_HERE)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    results = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for size in options.sizes:
        results[size] = measure(size, options.rounds)
        RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        for name, why in results[size]["absent"].items():
            print(f"{size}, {name}: did not run: {why}", flush=True)
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{table(results)}\n\n{MARKS[1]}{after}", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
