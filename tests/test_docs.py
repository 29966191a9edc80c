"""Every code block of the documents runs, and their figures are those of the committed run."""

import argparse
import ast
import builtins
import importlib
import json
import pkgutil
import re
import runpy
import shlex
import statistics
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from benchmarks import report
from hf_dwt import DistillationArguments, cli, errors
from hf_dwt.data.criteria import CRITERIA
from hf_dwt.growth import NEW_ROWS
from hf_dwt.growth.depth.rules import DEPTHS
from hf_dwt.growth.strategies import INITS
from hf_dwt.objective import SOFT_TERMS, Targets
from hf_dwt.objective.corrections import CORRECTIONS
from hf_dwt.objective.hidden import HIDDEN_TERMS
from hf_dwt.objective.scaling import SCALINGS
from hf_dwt.schedules import choices
from hf_dwt.teachers.cache.formats import format_names

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "data" / "README.md"]
PAGES.remove(ROOT / "model_card_template.md")  # a template of Jinja, not a page


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


PYTHON = [
    pytest.param(page, code, id=f"{page.name}-{n}", marks=pytest.mark.examples)
    for page in PAGES
    for n, code in enumerate(blocks(page, "python"))
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
    if page == README:
        (shown,) = blocks(page, "text")
        number = r"\d+\.\d+"
        printed, claimed = capsys.readouterr().out.splitlines()[-1], shown.strip()
        assert re.sub(number, "N", printed) == re.sub(number, "N", claimed)
        (student, teacher), figures = (map(float, re.findall(number, line)) for line in (printed, claimed))
        # another processor rounds differently, and 300 steps magnify it
        assert [student, teacher] == [pytest.approx(next(figures), abs=0.15), pytest.approx(next(figures), abs=0.011)]
        assert student < teacher
        results = json.loads((ROOT / "docs" / "curves.json").read_text(encoding="utf-8"))
        assert teacher == pytest.approx(results["teacher"]["loss"], abs=0.011)  # one figure on the whole page
    elif "term" in names:  # of one's own; for one width it is above 0, and for the same it is 0
        hidden = torch.eye(3, 8)
        assert names["args"].hidden().weight == 0.1 and names["term"](hidden, hidden, None).eq(0).all()
        assert names["term"](hidden, torch.ones(3, 4), None).gt(0.1).all()
    elif "trainer" in names:
        assert names["trainer"].state.global_step > 0
    elif "report" in names:
        assert names["report"].preserved and (tmp_path / "student" / "config.json").exists()
    elif "stages" in names:
        assert capsys.readouterr().out.startswith(blocks(page, "text")[0])
        assert names["trained"].num_parameters() == names["planned"].stages[-1].student.after.num_parameters()
    elif "student" in names:
        assert names["student"].growth_report.preserved
        if "plan" in names:
            assert capsys.readouterr().out in blocks(page, "text")
    else:
        rows = type("Rows", (), {"labels": torch.tensor([1, 2])})
        assert isinstance(names["Uniform"]().targets({}, rows), Targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_that_need_a_model_of_the_hub_are_whole_programs(page: Path) -> None:
    """Those are marked `py`: not run, but each name in them is made there, and what is imported of hf_dwt is in it."""
    for code in blocks(page, "py"):
        tree = list(ast.walk(ast.parse(code)))
        names = [node for node in tree if isinstance(node, ast.Name)]
        made = {node.id for node in names if isinstance(node.ctx, ast.Store)} | {*dir(builtins)}
        made |= {node.name for node in tree if isinstance(node, ast.FunctionDef)}
        made |= {node.arg for node in tree if isinstance(node, ast.arg)}
        for node in tree:
            if isinstance(node, ast.ImportFrom):
                made |= {alias.asname or alias.name for alias in node.names}
                if str(node.module).startswith("hf_dwt"):
                    assert all(hasattr(importlib.import_module(str(node.module)), a.name) for a in node.names)
        assert {node.id for node in names} <= made


def test_the_readme_fits_on_a_screen_or_two() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 70


def test_the_program_of_the_readme_is_found_by_what_writes_its_output() -> None:
    program = runpy.run_path(str(ROOT / "docs" / "readme.py"))["PROGRAM"]
    (found,) = program.finditer(README.read_text(encoding="utf-8"))
    assert [found["code"]] == blocks(README, "python") and [found["printed"]] == blocks(README, "text")


def shell_commands() -> list[list[str]]:
    lines = [line.split("#")[0] for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


def test_shell_blocks_name_real_commands() -> None:
    commands = shell_commands()
    assert ["make", "demo"] in commands and ["make", "test"] in commands
    for target in {tuple(command) for command in commands if command[0] == "make"}:
        dry = subprocess.run([*target, "-n"], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, dry.stderr
    for command in commands:
        match command:
            case ["make", *_]:
                pass
            case ["hf-dwt", name, *arguments]:
                parser = argparse.ArgumentParser()
                cli.COMMANDS[name](parser)
                parser.parse_args(arguments)
            case ["pip", "install", "-e", extras]:
                setup = (ROOT / "setup.py").read_text(encoding="utf-8")
                assert all(f'"{extra}": [' in setup for extra in extras.strip(".[]").split(","))
            case _:
                paths = [word.partition("::") for word in command[1:] if "/" in word]
                assert paths and all(name in (ROOT / path).read_text("utf-8") for path, _, name in paths if name)
                assert all((ROOT / path).exists() for path, _, name in paths), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_target_that_a_page_names_is_in_the_makefile(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"(?:`|^ *)make ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_command_writes_stands_between_two_markers(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    begun, ended = re.findall(r"<!-- ([^/].*?)(?:: written by.*?)? -->", text), re.findall(r"<!-- /(.*?) -->", text)
    assert len(begun) == len(ended) and all(start.startswith(end) for start, end in zip(begun, ended, strict=True))


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "CHANGELOG.md"],  # which names what is no more
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_every_name_and_path_that_a_page_gives_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`(hf_dwt(?:\.\w+)+)", text):
        pkgutil.resolve_name(name)
    for path in re.findall(r"`((?:hf_dwt|examples|benchmarks|docs|tests)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path


def anchors(page: Path) -> set[str]:
    """Those of the headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_table_of_results_is_that_of_the_committed_run() -> None:
    plot = runpy.run_path(str(ROOT / "examples" / "plot_curves.py"))
    results = json.loads((ROOT / "docs" / "curves.json").read_text(encoding="utf-8"))
    assert all(plot["table"](results) in page.read_text(encoding="utf-8") for page in (README, ROOT / "docs/index.md"))
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


def test_the_picture_of_a_matrix_shows_what_stands_below_it() -> None:
    teacher, remapped, cloned = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["grown_matrices"]().values()
    rows, columns = teacher.shape
    assert (remapped[:rows, :columns] == teacher).all()
    shares = cloned.reshape(2, rows, 2, columns)
    assert shares.sum(axis=2) == pytest.approx(teacher[None].repeat(2, axis=0), abs=1e-5)
    assert abs(shares[:, :, 0] - shares[:, :, 1]).max() > 0.1  # and they are unequal


def test_the_first_page_has_the_figures_of_the_benchmarks() -> None:
    text = report.headline(report.read(report.RESULTS), report.read(report.RESULTS / "cuda"))
    assert text in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_the_page_on_speed_says_what_was_measured_of_padding() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "padding.json").read_text(encoding="utf-8"))
    text = " ".join((ROOT / "docs" / "speed.md").read_text(encoding="utf-8").split())
    for job, name, words in (
        ("masked", "group_by_length", "{:.2f} of the time for a masked LM"),
        ("causal", "group_by_length", "{:.2f} for a causal one"),
        ("causal", "flattened", "{:.2f} of the time with PyTorch's own attention"),
    ):
        seconds = measured[job]["seconds"]
        ratio = statistics.median(t / base for t, base in zip(seconds[name], seconds["random"], strict=True))
        assert words.format(ratio) in text


def test_the_page_on_the_cache_has_what_was_measured_of_its_forms() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "cache_forms.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "cache.md").read_text(encoding="utf-8")
    measure = runpy.run_path(str(ROOT / "benchmarks" / "cache_forms.py"))
    begin, end = measure["MARKS"]
    assert text.split(begin)[1].split(end)[0].strip() == measure["table"](result)
    (sizes,) = result["sizes"].values()
    assert sizes == measure["sizes"](50_000, 768, 50)
    assert all(f"{sizes[form]:,} " in text for form in ("hidden", "top_k", "sampled"))
    assert f"up to {result['errors']['hidden']['gradient_bias']:.2%} of the gradient".replace("%", " %") in text
    assert {name.split()[0] for name in result["training"]} == {name for name in format_names() if name != "auto"}


def names_in_tables(page: str) -> set[str]:
    """What the first columns of the page's tables name in code."""
    text = re.sub(r"^\|.*\n\|--.*\n", "", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name.strip('"') for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


OWN_FIELDS = {f.name for f in fields(DistillationArguments)} - {f.name for f in fields(TrainingArguments)}
ERRORS = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("schedules.md", {*choices()}),
        ("growing.md", {*INITS, *DEPTHS}),
        ("vocabulary.md", {*NEW_ROWS}),
        ("cache.md", {*format_names()}),
        ("objective.md", {*OWN_FIELDS, *SOFT_TERMS, *SCALINGS, *CORRECTIONS}),
        ("hidden-terms.md", {*HIDDEN_TERMS}),
        ("data.md", {*CRITERIA}),
        ("errors.md", ERRORS),
        ("command-line.md", {f"hf-dwt {name}" for name in cli.COMMANDS}),
    ],
)
def test_a_table_names_all_that_there_is_and_nothing_else(page: str, names: set[str]) -> None:
    assert names_in_tables(page) == names


def test_the_page_on_the_objective_has_the_defaults() -> None:
    text = (ROOT / "docs" / "objective.md").read_text(encoding="utf-8")
    for field in fields(DistillationArguments):
        if field.name in OWN_FIELDS:
            (shown,) = re.findall(rf"^\| `{field.name}` \| (.+?) \|", text, re.MULTILINE)
            assert shown.strip('`"') == ("none" if field.default is None else str(field.default))


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for part in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^### (.+)$", part, re.MULTILINE)
        assert found and found == [kind for kind in kinds if kind in found]
    assert re.findall(r"^### (.+)$", text.split(versions[0])[1].split("\n## ")[0], re.MULTILINE) == kinds
