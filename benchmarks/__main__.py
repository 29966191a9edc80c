"""`python -m benchmarks`: one JSON file for each size, finished sizes left as they are."""

import argparse
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two threads are slower on small models
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from .contenders import CONTENDERS
from .floor import Products, products_of, seconds
from .loop import Turns, contest, interleave
from .shares import import_ratio, operators, shares
from .sizes import LARGE, SIZES, Size

HERE = Path(__file__).parent
PROFILED = "mini"
TURN_ON_GPU = 5  # steps in a row: one is too short to be timed alone
PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "textbrewer",
    "torchdistill",
    "nvidia-modelopt",
    "trl",
    "liger-kernel",
)


def measure(
    name: str, size: Size, rounds: int, precision: dict[str, Any], only: list[str] | None = None
) -> dict[str, Any]:
    """Everything of one size."""
    able = [key for key, (*_, masked) in CONTENDERS.items() if masked or size.family != "bert"]
    wanted = [key for key in able if size.contenders is None or key in size.contenders]
    wanted = [key for key in wanted if only is None or key in only]
    with contest(size, wanted, precision) as (turns, absent):
        memory = {key: turn.peak() for key, turn in turns.items()}
        times = interleave(turns, rounds, turn_of(size))
        result: dict[str, Any] = {
            "seconds": times,
            "peak_bytes": memory,
            "absent": absent,
            "floor": floor(turns["ours"]),
        }
        if not torch.cuda.is_available():
            result["operators"] = operators(turns["ours"], min(rounds, 3) * size.turn, size.vocabulary)
        if "stock" in turns:
            result["floor"]["stock_flops"] = float(step_products(turns["stock"]).flops)
        if name == PROFILED:
            result["shares"] = shares(turns["ours"], max(rounds, 2))
    if name == PROFILED and not torch.cuda.is_available():
        result["imports"] = import_ratio(min(rounds, 5))
    return result


def turn_of(size: Size) -> int:
    """Steps in a row of a contender."""
    return max(size.turn, TURN_ON_GPU) if torch.cuda.is_available() else size.turn


def explain(name: str, size: Size, rounds: int, precision: dict[str, Any]) -> dict[str, Any]:
    """For a size that is finished: what fills our step."""
    with contest(size, ["ours"], precision) as (turns, absent):
        if absent:
            raise RuntimeError(f"{name}: {absent}")
        shared = operators(turns["ours"], min(rounds, 3) * size.turn, size.vocabulary)
    return {"operators": shared, "explained_at": machine()["commit"]}


def floor(turn: Turns) -> dict[str, float]:
    """Our step's products: how many operations, and what they take alone."""
    products = step_products(turn)
    return {"flops": float(products.flops), "seconds": seconds(products, turn.trainer.args.device.type)}


def step_products(turn: Turns) -> Products:
    """The products of one step of a contender."""
    trainer = turn.trainer
    batch = next(iter(trainer.get_train_dataloader()))

    def step() -> None:
        trainer.accelerator.backward(trainer.compute_loss(trainer.model_wrapped, dict(batch)))
        trainer.model.zero_grad()

    return products_of(step)


def machine() -> dict[str, Any]:
    """Where it ran, and with what."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"]
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "load": os.getloadavg()[0],  # of the last minute: figures of a busy machine say little
        "python": platform.python_version(),
        "versions": versions,
        # In a copy without git history the variable GIT_COMMIT names the commit.
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() or os.environ.get("GIT_COMMIT"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = {**SIZES, **LARGE}
    gpu = torch.cuda.is_available()
    parser.add_argument("--sizes", nargs="+", choices=known, default=[*SIZES, *(LARGE if gpu else ())])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender that are timed")
    parser.add_argument("--quick", action="store_true", help="a short look: 3 rounds, the smaller sizes")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="ours and these; default: all of a size")
    parser.add_argument("--explain", action="store_true", help="finished sizes: add what fills our step")
    parser.add_argument("--redo", action="store_true", help="also the sizes that are finished")
    out = HERE / "results" / "cuda" if gpu else HERE / "results"
    parser.add_argument("--out", type=Path, default=out, help="folder of the JSON files")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if args.quick:
        args.rounds, args.sizes = 3, ["tiny", "mini"]
        args.out = args.out / "quick"
    args.out.mkdir(parents=True, exist_ok=True)
    only = args.contenders and ["ours", *args.contenders]
    precision = {"bf16": True} if gpu else {"use_cpu": True}
    for name in args.sizes:
        path = args.out / f"{name}.json"
        if args.explain and path.exists():
            finished = json.loads(path.read_text(encoding="utf-8"))
            finished |= explain(name, known[name], args.rounds, precision)
            path.write_text(json.dumps(finished, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {finished['operators']}", flush=True)
            continue
        if path.exists() and not args.redo:
            print(f"{name}: done before ({path})")
            continue
        print(f"{name} ...", flush=True)
        result = {"size": name, "machine": machine(), **measure(name, known[name], args.rounds, precision, only)}
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        for line in summary(result):
            print(f"  {line}")


def summary(result: dict[str, Any]) -> list[str]:
    """A line for each contender."""
    from .report import rows

    return [" | ".join(row) for row in rows(result)]


if __name__ == "__main__":
    main()
