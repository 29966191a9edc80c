"""The cached teacher from outside: two processes, and the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_dwt.cli import main
from hf_dwt.teachers.cache.store import Store

from .cache_processes import losses, thrice
from .processes import run_in_two_processes

ROOT = Path(__file__).parents[1]


def test_two_processes_make_and_read_one_cache(tmp_path: Path) -> None:
    results = run_in_two_processes(thrice, tmp_path)
    assert results["processes"] == 2 and len(results["live"]) == 6
    np.testing.assert_allclose(results["made"], results["live"], rtol=2e-3)
    assert results["read"] == results["made"]
    made_of = json.loads((tmp_path / "cache" / "cache.json").read_text())["made_of"]
    store = Store(tmp_path / "cache", json.dumps(made_of, sort_keys=True))
    assert len(store.shards) == 2 and min(len(shard.keys) for shard in store.shards) > 15  # each made its share
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    np.testing.assert_allclose(losses(tmp_path, "cache"), results["live"], rtol=2e-3)  # and one process reads it
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == stamps


def test_the_command_makes_the_cache_that_the_script_then_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.cache_processes import losses\n"
        "from pathlib import Path\n"
        "print('flags', sys.argv[1:])\n"
        "losses(Path(sys.argv[2]), sys.argv[1] if sys.argv[1] != 'none' else None)\n"
        "print('trained')\n"
    )
    command = [sys.executable, "-m", "hf_dwt.cli", "cache", str(script)]
    made = subprocess.run([*command, "cache", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0 and "trained" not in made.stdout, made.stdout + made.stderr
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["epochs"] == [0]
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(losses(tmp_path, "cache")) == 6
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == stamps
    assert main(["cache", str(script), "none", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "teacher_cache=None" in told.err and "trained" not in told.out
