"""Every code block of the documents runs, and their figures are those of the committed run."""

import json
import re
import runpy
import shlex
import statistics
import subprocess
from pathlib import Path

import pytest

from hf_dwt.objective import Targets
from hf_dwt.schedules import SCHEDULES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


PYTHON = [
    pytest.param(page, code, id=f"{page.name}-{n}") for page in PAGES for n, code in enumerate(blocks(page, "python"))
]


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_python_blocks_run(
    page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(script))
    if "trainer" in names:
        (shown,) = blocks(page, "text")
        printed = [line for line in capsys.readouterr().out.splitlines() if "eval_teacher_loss" in line][-1]
        figures, claimed = json.loads(printed.replace("'", '"')), json.loads(shown.replace("'", '"'))
        # another processor rounds differently, and 300 steps magnify it
        assert figures == pytest.approx(claimed, abs=0.15)
        assert figures["eval_teacher_loss"] == pytest.approx(claimed["eval_teacher_loss"], abs=0.011)
        assert figures["eval_loss"] < figures["eval_teacher_loss"]
    elif "student" in names:
        assert names["student"].growth_report.preserved
    else:
        rows = type("Rows", (), {"labels": __import__("torch").tensor([1, 2])})
        assert isinstance(names["Uniform"]().targets({}, rows), Targets)


def test_shell_blocks_name_real_commands() -> None:
    lines = [
        line.split("#")[0].strip() for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()
    ]
    commands = [shlex.split(line) for line in lines if line]
    assert ["make", "demo"] in commands and ["make", "test"] in commands
    for command in commands:
        assert command[0] == "make"
        dry = subprocess.run([*command, "-n"], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if not target.startswith("http")]
    assert all((page.parent / target).exists() for target in local), local


def test_the_table_of_results_is_that_of_the_committed_run() -> None:
    plot = runpy.run_path(str(ROOT / "examples" / "plot_curves.py"))
    results = json.loads((ROOT / "docs" / "curves.json").read_text(encoding="utf-8"))
    assert plot["table"](results) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert results["student"]["loss"] < results["teacher"]["loss"] - 0.25
    assert results["student"]["loss"] < results["baseline"]["loss"]
    data_page = (ROOT / "examples" / "data" / "README.md").read_text(encoding="utf-8")
    assert f"-->{results['teacher']['loss']:.3f}<!--" in data_page


def test_the_picture_ends_at_the_figures_of_the_table() -> None:
    results = json.loads((ROOT / "docs" / "curves.json").read_text(encoding="utf-8"))
    for name in ("student", "baseline"):
        row, last = results[name], results[name]["curve"][-1]
        assert row["curve_blocks"] == row["blocks"] == results["teacher"]["blocks"]
        assert last["eval_loss"] == pytest.approx(row["loss"], abs=1e-3)
    taught = [point["eval_teacher_loss"] for point in results["student"]["curve"] if "eval_teacher_loss" in point]
    assert taught and taught == pytest.approx([results["teacher"]["loss"]] * len(taught), abs=1e-3)


def test_the_guide_says_what_was_measured_of_padding() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "padding.json").read_text(encoding="utf-8"))
    text = " ".join((ROOT / "docs" / "guide.md").read_text(encoding="utf-8").split())
    for job, name, words in (
        ("masked", "group_by_length", "{:.2f} of the time for a masked LM"),
        ("causal", "group_by_length", "{:.2f} for a causal one"),
        ("causal", "flattened", "{:.2f} of the time with PyTorch's own attention"),
    ):
        seconds = measured[job]["seconds"]
        ratio = statistics.median(t / base for t, base in zip(seconds[name], seconds["random"], strict=True))
        assert words.format(ratio) in text


def test_every_schedule_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f'`"{name}"`' in text for name in SCHEDULES)
