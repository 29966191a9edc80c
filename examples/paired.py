"""What examples with several seeds share: results that go on, differences paired by seed, and tables in pages."""

import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

T_OF_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantiles of Student's t, by the number of differences; of more, a little more than the last."""


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval; NaN where there are too few for either."""
    count = len(differences)
    if count < 2:
        return (differences[0] if differences else math.nan), math.nan
    return statistics.mean(differences), T_OF_95.get(count, 2.8) * statistics.stdev(differences) / math.sqrt(count)


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
