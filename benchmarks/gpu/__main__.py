"""All that has to be seen on a GPU, within eight minutes: `python -m benchmarks.gpu`, or `make benchmark-gpu`.

Each part is a process of its own with a limit of seconds, writes a JSON file and keeps what it has if it is stopped; a
part that fails is named, and the others run. `--device cpu --tiny` runs the same code on a CPU in a minute.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

ROOT = Path(__file__).parents[2]
SECONDS = 480
LINES_SHOWN = 15


@dataclass(frozen=True)
class Part:
    """A command, `{out}` in it standing for the folder, and the seconds after which it is stopped."""

    command: tuple[str, ...]
    limit: float


def parts(device: str, tiny: bool) -> dict[str, Part]:
    """What runs, in this order: what is most wanted comes first."""
    python = (sys.executable, "-m")
    small = ("--device", device, *(["--tiny"] if tiny else []))
    fsdp = ("benchmarks.gpu.fsdp", *small, "--engine")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node", "1", "-m")
    beside = ("--beside", "{out}/plain.json")
    found = {
        "plain": Part((*python, *fsdp, "plain", "--json", "{out}/plain.json"), 90),
        "fsdp2": Part((*python, *torchrun, *fsdp, "fsdp2", "--json", "{out}/fsdp2.json", *beside), 120),
        "tests": Part((*python, "benchmarks.gpu.cuda_tests", "--json", "{out}/tests.json"), 180),
        "losses": Part((*python, "benchmarks.gpu.losses", *small, "--json", "{out}/losses.json"), 180),
    }
    if device == "cuda":
        step = ("--sizes", "gpt2-large", "--contenders", "alone", "stock", "dense", "liger", "--redo")
        found["steps"] = Part((*python, "benchmarks", *step, "--out", "{out}"), 120)
    return found


def run(part: Part, out: Path, log: IO[str], seconds: float) -> dict[str, Any]:
    """What became of a part that has these seconds at most, how long it took, and its last lines."""
    command = [word.format(out=out) for word in part.command]
    began, start = time.perf_counter(), log.tell()
    limit = max(0.0, min(part.limit, seconds))
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    process = subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=environment,
        start_new_session=True,  # so that what it started is stopped with it
    )
    try:
        code = process.wait(timeout=limit)
        became = "done" if code == 0 else f"failed with exit code {code}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        became = f"stopped after {limit:.0f} s"
    log.flush()
    log.seek(0, os.SEEK_END)
    written = Path(log.name).read_text(encoding="utf-8", errors="replace")[start:]
    shown = [line for line in written.splitlines() if line.strip()]
    return {"became": became, "seconds": round(time.perf_counter() - began, 1), "lines": shown[-LINES_SHOWN:]}


def run_all(wanted: dict[str, Part], out: Path, seconds: float) -> dict[str, Any]:
    """Every part, one after the other, with what became of all so far in `report.json`."""
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    report: dict[str, Any] = {}
    with (out / "gpu.log").open("w+", encoding="utf-8") as log:
        for name, part in wanted.items():
            report[name] = run(part, out, log, seconds - (time.perf_counter() - began))
            print(f"{name}: {report[name]['became']}, {report[name]['seconds']} s", flush=True)
            print(*(f"  {line}" for line in report[name]["lines"]), sep="\n", flush=True)
            (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that run in a second")
    parser.add_argument("--only", nargs="+", choices=parts("cuda", False), help="these parts; default: all")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="within which all parts end")
    parser.add_argument("--out", type=Path, help="folder of the JSON files; default: below outputs/")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU; try the same code with --device cpu --tiny")
    wanted = parts(options.device, options.tiny)
    if options.only:
        wanted = {name: part for name, part in wanted.items() if name in options.only}
    out = options.out or ROOT / "outputs" / f"gpu-{options.device}"
    report = run_all(wanted, out.resolve(), options.seconds)
    print(f"written: {out}")
    return int(any(part["became"] != "done" for part in report.values()))


if __name__ == "__main__":
    sys.exit(main())
