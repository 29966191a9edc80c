"""The cached teacher from outside: two processes, and the command line."""

import json
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
    for folder in ("cache", "only"):  # made when training began, and without training
        store = Store(tmp_path / folder, json.dumps(made_of, sort_keys=True))
        assert len(store.shards) == 2 and min(len(shard.keys) for shard in store.shards) > 15  # each made its share
    assert results["ended"] == 0
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    np.testing.assert_allclose(losses(tmp_path, "cache"), results["live"], rtol=2e-3)  # and one process reads it
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == stamps


def test_the_command_makes_the_cache_that_the_script_then_reads(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from transformers import HfArgumentParser\n"
        "from hf_dwt import DistillationArguments\n"
        "from tests.cache_processes import losses\n"
        "args, = HfArgumentParser(DistillationArguments).parse_args_into_dataclasses()\n"
        "losses(Path(args.output_dir), args.teacher_cache, args.teacher_cache_only)\n"
        "print('the script ends')\n"
    )
    line = ["cache", str(script), "--output_dir", str(tmp_path), "--use_cpu", "true"]
    assert main([*line, "--teacher_cache", "cache"]) == 0
    assert "the script ends" not in capfd.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "script.py"]  # no run that could be pushed
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["epochs"] == [0]
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(losses(tmp_path, "cache")) == 6
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == stamps
    assert main(line) == 1
    shown = capfd.readouterr()
    assert "teacher_cache=None" in shown.err and "the script ends" not in shown.out
