"""The program that tunes and prunes does what it promises."""

import json
from pathlib import Path

import pytest

from .test_examples import EXAMPLES, example

pytestmark = pytest.mark.examples


def test_tuning_and_pruning_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program, file, page = example("tune_and_prune"), tmp_path / "results.json", tmp_path / "page.md"
    runs = program.main(["--quick", "--results", str(file)])["runs"]
    assert list(runs) == [f"{arm} / 0" for arm in program.ARMS]
    matrices = 2 * (4 * (128 + 384) + 4 * (128 + 512) + 4 * (256 + 128))  # of two layers: Wqkv, Wi, mlp.Wo
    assert (runs["LoRA / 0"]["learns"], runs["dual / 0"]["learns"]) == (matrices, matrices + 2 * 3 * 16)
    pruned = [run for arm, run in runs.items() if "pruned" in arm]
    assert len({run["loss at once"] for run in pruned}) == len(pruned) == 4
    assert all(abs(run["operations saved"] - 0.25) < 0.005 and run["reread"] < 1e-4 for run in pruned)
    page.write_text("before\n<!-- tune and prune -->\nold\n<!-- /tune and prune -->\nbehind\n")
    program.main(["--report", "--results", str(file), "--page", str(page)])
    assert "| pruned by change | 9,576 | 75.1 % |" in page.read_text()
    program.main(["--quick", "--results", str(file)])  # nothing is left to run
    assert json.loads(file.read_text(encoding="utf-8"))["runs"] == runs
