"""The tests that need a GPU, with their outcomes as JSON: `python -m benchmarks.gpu.cuda_tests`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ..__main__ import machine

ROOT = Path(__file__).parents[2]


class Outcomes:
    """A plugin of pytest that keeps what became of each test, and the reason where it failed."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.of[report.nodeid] = report.outcome
        if report.failed:
            self.reasons[report.nodeid] = str(report.longrepr)[-2000:]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.cuda_tests", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="file that is written")
    options = parser.parse_args()
    outcomes = Outcomes()
    # Warnings of the machine's own libraries are not of interest here.
    arguments = [str(ROOT / "tests" / "test_cuda.py"), "-W", "ignore", "-p", "no:cacheprovider"]
    code = pytest.main(arguments, plugins=[outcomes])
    count = {kind: list(outcomes.of.values()).count(kind) for kind in ("passed", "failed", "skipped")}
    results = {"machine": machine(), "count": count, "outcomes": outcomes.of, "reasons": outcomes.reasons}
    options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
