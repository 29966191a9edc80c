"""What examples with several seeds share: flags, results that go on, differences paired by seed, tables in pages."""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Runs = dict[str, dict[str, Any]]
"""Figures of each run, by "arm / seed"."""

T_OF_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantiles of Student's t, by the number of differences; of more, a little more than the last."""


def parser_of(description: str | None, results: Path) -> argparse.ArgumentParser:
    """A parser with the flags that all of them have; `results` is where runs are kept by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--report", action="store_true", help="train nothing: what is printed of the runs there are")
    parser.add_argument("--page", type=Path, help="with --report: the page whose tables are written anew")
    parser.add_argument("--quick", action="store_true", help="a few steps of each arm, one seed; name other --results")
    parser.add_argument("--seeds", type=int, default=3)
    return parser


def arguments(folder: str, **own: Any) -> Any:
    """`DistillationArguments` of a run on one CPU core, whose result is kept elsewhere."""
    from hf_dwt import DistillationArguments

    shared: dict[str, Any] = {
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "weight_decay": 0.01,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return DistillationArguments(folder, **{**shared, **own})


def of_seeds(runs: dict[str, dict[str, Any]], arm: str, figure: str) -> dict[str, Any]:
    """Seed -> figure, of the runs "arm / seed" that have it."""
    found = {key.rpartition(" / ")[2]: run for key, run in runs.items() if key.rpartition(" / ")[0] == arm}
    return {seed: run[figure] for seed, run in sorted(found.items()) if figure in run}


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval; NaN where there are too few for either."""
    count = len(differences)
    if count < 2:
        return (differences[0] if differences else math.nan), math.nan
    return statistics.mean(differences), T_OF_95.get(count, 2.8) * statistics.stdev(differences) / math.sqrt(count)


def mean_of(runs: Runs, arm: str, figure: str) -> float:
    """The mean over seeds; NaN where no run has it."""
    found = of_seeds(runs, arm, figure)
    return statistics.mean(found.values()) if found else math.nan


def difference(runs: Runs, arm: str, other: str) -> tuple[float, float]:
    """By how much the loss of `arm` is above that of `other`, paired by seed: the mean, and half its 95 % interval."""
    own, others = of_seeds(runs, arm, "loss"), of_seeds(runs, other, "loss")
    return interval([own[seed] - others[seed] for seed in own.keys() & others.keys()])


def opened(results: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The content of a file of results, with the runs that are in it already; of other settings the program ends."""
    content: dict[str, Any] = {"settings": settings, "python": sys.version.split()[0], "runs": {}}
    if results.is_file():
        before = json.loads(results.read_text(encoding="utf-8"))
        if before["settings"] != settings:
            sys.exit(f"error: {results} has runs of other settings; move it away, or name another --results")
        content["runs"] = before["runs"]
    return content


def keep(results: Path, content: dict[str, Any], key: str, run: dict[str, Any]) -> None:
    """Add a run to the file, and print it."""
    content["runs"][key] = run
    results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{key}: {run}", flush=True)


def write_table(page: Path, name: str, table: str) -> None:
    """Put a table into a page, between the comments that have its name."""
    before, _, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->")
    behind = rest.partition(f"<!-- /{name} -->")[2]
    page.write_text(f"{before}<!-- {name} -->\n\n{table}\n\n<!-- /{name} -->{behind}", encoding="utf-8")


def report(
    results: Path,
    page: Path | None = None,
    *,
    tables: Mapping[str, Callable[[Runs], str]],
    marks: Callable[[Runs], list[tuple[str, bool]]] = lambda runs: [],
) -> None:
    """Print the tables of a file of results, and what its runs are held to; write the tables into a page."""
    runs = json.loads(results.read_text(encoding="utf-8"))["runs"]
    for name, table in tables.items():
        print(table(runs), "\n")
        if page is not None:
            write_table(page, name, table(runs))
    for what, holds in marks(runs):
        print(f"{'met    ' if holds else 'NOT MET'}  {what}")
