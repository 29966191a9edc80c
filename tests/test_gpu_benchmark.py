"""What `make benchmark-gpu` runs on a GPU, tiny and on the CPU: the same code, and its parts apart."""

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as together
from benchmarks.gpu import fsdp, losses

from .processes import run_in_processes

pytestmark = pytest.mark.engines


def arguments(part: str, out: Path) -> list[str]:
    """Those of a part's module, as the command has them."""
    command = together.parts("cpu", True)[part].command
    return [word.format(out=out) for word in command[command.index(f"benchmarks.gpu.{module(part)}") :]]


def module(part: str) -> str:
    return "losses" if part == "losses" else "fsdp"


def test_every_loss_is_measured_beside_fp64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [*arguments("losses", tmp_path), "--rounds", "2", "--calls", "1"])
    losses.main()
    results = json.loads((tmp_path / "losses.json").read_text(encoding="utf-8"))
    assert results["machine"]["device"] and results["device"] == "cpu"
    for term, kernels in losses.TERMS.items():
        found = results["tiny"][term]
        assert {*found["seconds"], *found["absent"]} == {*kernels} and {"ours", "dense"} <= {*found["seconds"]}
        for name, seconds in found["seconds"].items():
            assert len(seconds) == 2 and found["peak_bytes"][name] > 0
            assert 0 < found["gradient_error"][name] < 0.01  # of bf16
            assert found["loss"][name] == pytest.approx(found["loss"]["dense"], rel=0.01)


def test_a_wrong_gradient_and_a_kernel_that_fails_are_seen() -> None:
    def fails(heads: losses.Heads) -> torch.Tensor:
        raise ImportError("no such kernel\nmore")

    def wrong(heads: losses.Heads) -> torch.Tensor:
        return 1.1 * losses.ours(heads)

    kernels: dict[str, losses.Loss] = {"ours": wrong, "fails": fails, "dense": losses.dense}
    found = losses.measure(losses.TINY["tiny"], kernels, "cpu", rounds=1, calls=1)
    assert found["gradient_error"]["ours"] == pytest.approx(0.1, rel=0.1) and {*found["seconds"]} == {"ours", "dense"}
    assert losses.lines(found)[0] == "fails did not run: ImportError: no such kernel"


def run_fsdp(part: str, out: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(sys, "argv", arguments(part, out))
        fsdp.main()
    # The engine warns of much; this would be of what we do within the model's forward.
    assert not [str(warning.message) for warning in caught if "returned a view" in str(warning.message)]


def test_fsdp2_is_compared_with_a_plain_run(tmp_path: Path) -> None:
    run_fsdp("plain", tmp_path)
    run_in_processes(1, {}, run_fsdp, "fsdp2", tmp_path)
    results = json.loads((tmp_path / "fsdp2.json").read_text(encoding="utf-8"))
    assert results["runs"].keys() == {"gpt2, fp32", "gpt2, bf16"}
    steps = results["runs"]["gpt2, fp32"]["steps"]
    assert len({loss for loss, *_ in steps}) == fsdp.STEPS and results["compared"]["gpt2, fp32"]["difference"] < 1e-5


def test_a_figure_that_differs_is_found() -> None:
    plain = {"runs": {"gpt2, fp32": {"steps": [[4.0, 2.0], [3.0, 1.0]], "peak_bytes": 100}}}
    other = {"runs": {"gpt2, fp32": {"steps": [[4.0, 2.0], [3.0, 1.01]], "peak_bytes": 110}}}
    assert fsdp.compare(plain, plain)["gpt2, fp32"] == {"difference": 0.0, "peak": 1.0}
    assert fsdp.compare(plain, other)["gpt2, fp32"] == {"difference": pytest.approx(0.01), "peak": 1.1}


def test_a_part_that_fails_or_hangs_leaves_the_others(tmp_path: Path) -> None:
    def script(code: str) -> tuple[str, ...]:
        return sys.executable, "-c", code

    hangs = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    wanted = {
        "fails": together.Part(script("print('why'); raise SystemExit(3)"), 60),
        "hangs": together.Part(script(hangs), 0.5),
        "works": together.Part(script(r"open(r'{out}/works.json', 'w').write('1'); print('so')"), 60),
    }
    report = together.run_all(wanted, tmp_path, 60)
    assert [part["became"] for part in report.values()] == ["failed with exit code 3", "stopped after 0 s", "done"]
    assert report["fails"]["lines"] == ["why"] and report["works"]["lines"] == ["so"]
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert (tmp_path / "works.json").read_text(encoding="utf-8") == "1"
    late = together.run_all({"works": wanted["works"]}, tmp_path / "late", -1.0)
    assert late["works"]["became"] == "stopped after 0 s"
