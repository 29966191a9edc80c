"""Measure what a weak teacher is worth: teacher quality x soft weight x initialisation x schedule, with seeds.

    python examples/reproduce_paper.py --preset cpu --jobs 2          # everything; about five hours on two cores
    python examples/reproduce_paper.py --preset cpu --groups main     # initialisation x schedule, with controls
    python examples/reproduce_paper.py --list                         # what is to be run, what is done
    python examples/reproduce_paper.py --preset cpu --share 2/3       # a third of the cells: for three machines
    python examples/reproduce_paper.py --report PAGE.md               # tables and pictures, from the results alone
    python examples/reproduce_paper.py --preset gpu --train_file TEXT --valid_file TEXT --tasks TASK.jsonl

Runs nothing twice: a finished cell is a line of the results file, and the same command goes on where it was stopped.
The method is Lee et al., 2023 (arXiv 2305.18239), sections 4 and 5, on models and text that train within minutes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from study.cells import PRESETS, Cell, Study
from tqdm.auto import tqdm

# Two threads are slower than one on models this small; the cells are what runs in parallel.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--groups", nargs="+", help="only these: " + ", ".join(PRESETS["cpu"].groups))
    only = "cells whose line in --list contains one of these, in this order, such as 'remap auto'"
    parser.add_argument("--only", nargs="+", metavar="TEXT", help=only)
    parser.add_argument("--train_file", type=Path, default=HERE / "data" / "train.txt")
    parser.add_argument("--valid_file", type=Path, default=HERE / "data" / "valid.txt")
    parser.add_argument(
        "--tasks",
        type=Path,
        nargs="+",
        metavar="FILE",
        help='fine-tune every student on these: lines of {"text": ..., "label": ...}',
    )
    parser.add_argument("--results", type=Path, help="JSON lines; default: docs/study/PRESET.jsonl")
    parser.add_argument("--work_dir", type=Path, help="where teachers are kept; default: outputs/study/PRESET")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each (0: without a bar)")
    parser.add_argument("--share", default="1/1", help="i/n: the i-th of n equal shares")
    parser.add_argument("--list", action="store_true", help="show the cells and stop")
    parser.add_argument(
        "--report",
        type=Path,
        nargs="+",
        metavar="PAGE",
        help="write the tables into these pages, and pictures, and stop",
    )
    parser.add_argument("--evidence", type=Path, help="with --report: write what hf_dwt.assess rests on, too")
    options = parser.parse_args(argv)
    study = PRESETS[options.preset]
    options.results = options.results or HERE.parent / "docs" / "study" / f"{options.preset}.jsonl"
    options.work_dir = options.work_dir or Path("outputs/study") / options.preset
    if unknown := set(options.groups or ()) - set(study.groups):
        parser.error(f"no group {sorted(unknown)}; there are {', '.join(study.groups)}")
    try:
        index, count = (int(part) for part in options.share.split("/"))
        if not 1 <= index <= count:
            raise ValueError
    except ValueError:
        parser.error(f"--share {options.share!r}: give i/n with 1 <= i <= n")
    for file in (options.train_file, options.valid_file, *(options.tasks or ())):
        if not file.is_file():
            parser.error(f"no such file: {file}")
    return options


# ---- results ----


def read(results: Path) -> dict[str, dict[str, Any]]:
    """Finished cells by key. A line that was cut off counts as none."""
    done: dict[str, dict[str, Any]] = {}
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            done[row["key"]] = row
    return done


def append(results: Path, row: dict[str, Any]) -> None:
    """One write of one line, after a newline where a process was stopped within one."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        gap = b"\n" if size and file.read(1) != b"\n" else b""
        file.write(gap + json.dumps(row).encode() + b"\n")


def ready(study: Study, cells: list[Cell], done: dict[str, dict[str, Any]]) -> list[tuple[Cell, float]]:
    """Unfinished cells, or the tuning cells that they wait for, in their order, each with its learning rate."""
    losses = {key: row["loss"] for key, row in done.items()}
    found: dict[Cell, float] = {}
    for cell in cells:
        if cell.key not in done:
            needed = study.rate(cell, losses)
            if isinstance(needed, Cell):
                found[needed] = needed.rate or 0.0
            else:
                found[cell] = needed
    return list(found.items())


# ---- the whole ----


def chosen(study: Study, options: argparse.Namespace) -> list[Cell]:
    """The cells that were asked for, in the order in which they are to be run."""
    index, count = (int(part) for part in options.share.split("/"))
    cells = study.cells(options.groups)[index - 1 :: count]
    if not options.only:
        return cells
    return list(dict.fromkeys(cell for text in options.only for cell in cells if text in str(cell)))


class Claims:
    """Which process of this machine runs which cell, so that several share the work without a plan."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, cell: Cell) -> bool:
        """Whether the cell is ours now. A claim of a process that has ended is void."""
        path, own = self.folder / cell.key, self.folder / f"_{os.getpid()}"
        own.write_text(str(os.getpid()))
        try:
            os.link(own, path)  # a claim is never seen without its owner
            return True
        except FileExistsError:
            try:
                owner = path.read_text()
            except FileNotFoundError:  # released since
                return False
        finally:
            own.unlink()
        if Path(f"/proc/{owner}").exists():
            return False
        path.unlink(missing_ok=True)
        return self.take(cell)

    def release(self, cell: Cell) -> None:
        (self.folder / cell.key).unlink(missing_ok=True)


def work(study: Study, cells: list[Cell], options: argparse.Namespace) -> None:
    """Run cells until all of them are finished, here or by another process."""
    from study.run import Bench, run

    bench, claims = Bench(study, options), Claims(options.work_dir / "claims")
    while todo := ready(study, cells, read(options.results)):
        cell, rate = next((pair for pair in todo if claims.take(pair[0])), (None, 0.0))
        if cell is None:  # what is left is being run, or rests on what is
            time.sleep(5)
            continue
        try:
            if cell.key in read(options.results):
                continue
            row = run(cell, rate, bench)
            append(options.results, {"key": cell.key, "cell": asdict(cell), **row, "machine": machine()})
            tqdm.write(f"{cell}: {row['loss']:.3f} nats, {row['curve'][-1]['seconds']:.0f} s", file=sys.stdout)
        finally:
            claims.release(cell)


@contextmanager
def progress(cells: list[Cell], results: Path) -> Iterator[None]:
    """A bar over the cells that shows what this and other processes have finished."""
    stop = threading.Event()

    def watch() -> None:
        with tqdm(total=len(cells), desc="cells", unit="cell") as bar:
            while True:
                stopped = stop.wait(2)
                done = read(results)
                bar.update(sum(cell.key in done for cell in cells) - bar.n)
                if stopped:
                    return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def report(study: Study, options: argparse.Namespace) -> None:
    """Pages, pictures and evidence, from the results alone."""
    from study.report import write
    from study.results import Results, evidence

    rows = list(read(options.results).values())
    timed, hidden = (
        list(read(options.results.with_name(name)).values()) if options.preset == "cpu" else []
        for name in ("timing.jsonl", "timing-hidden.jsonl")
    )
    pictures = options.results.parent / ("" if options.preset == "cpu" else options.preset)
    write(study, rows, timed, options.report, pictures, options.preset, hidden)
    if options.evidence:
        from study.run import Bench

        told = evidence(Results(rows), study, Bench(study, options).unigram())
        options.evidence.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    import torch
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": device, "threads": torch.get_num_threads(), **versions}


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv)
    study = PRESETS[options.preset]
    if options.list:
        done = read(options.results)
        for cell in chosen(study, options):
            print(f"{done[cell.key]['loss']:.3f}" if cell.key in done else "  -  ", cell)
        return
    if options.report:
        report(study, options)
        return
    cells = chosen(study, options)
    if options.jobs == 0:  # one of several
        work(study, cells, options)
        return
    with progress(cells, options.results):
        if options.jobs == 1:
            work(study, cells, options)
            return
        again = [sys.executable, __file__, *argv, "--jobs", "0"]
        processes = [subprocess.Popen(again) for _ in range(options.jobs)]
        failed = sum(process.wait() != 0 for process in processes)
    if failed:
        sys.exit("error: a process failed; what is finished is kept, and the same command goes on")


if __name__ == "__main__":
    main()
