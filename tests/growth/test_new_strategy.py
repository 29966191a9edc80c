"""A strategy is one record and one line: everything that knows of strategies finds a new one by itself."""

import argparse
import importlib.util
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.coverage.growths import growths
from benchmarks.coverage.measure import DATA, measure_type
from benchmarks.coverage.page import page
from hf_dwt import from_weak_teacher
from hf_dwt.cli import _grow, main
from hf_dwt.errors import GrowthError
from hf_dwt.growth import plan_growth
from hf_dwt.growth.strategies import INITS
from hf_dwt.growth.strategy import EXACT, Strategy
from hf_dwt.parts import Reference
from hf_dwt.publish.card import model_card
from hf_dwt.publish.run_record import RunRecord
from tests.growth.test_exact import apart
from tests.models import tiny

ROOT = Path(__file__).parents[2]


def load_from_the_diff(folder: Path) -> tuple[Strategy, list[str]]:
    """(the record of the file that the diff in docs/design.md adds, the lines that it adds to other files)."""
    (diff,) = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), re.DOTALL)
    added, changed = re.split(r"^--- a/.*\n", diff, flags=re.MULTILINE)
    lines = [line[1:] for line in added.splitlines() if line.startswith("+") and not line.startswith("+++")]
    (folder / "even.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location("hf_dwt.growth.strategies.even", folder / "even.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.STRATEGY, [line for line in changed.splitlines() if re.match(r"[+-](?!\+\+)", line)]


@pytest.fixture(params=[True, False], ids=["registered", "not registered"])
def registered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """Whether the registry has the line; without it nothing may know of the strategy."""
    strategy, lines = load_from_the_diff(tmp_path)
    assert lines == ['+    "even",']
    if request.param:
        cited = (Reference("equal shares", "Evenness", "1234.56789"),)
        monkeypatch.setitem(INITS, "even", replace(strategy, ratios=((3, 1),), references=cited))
    return request.param


def test_the_factory_and_the_plan_find_it(registered: bool) -> None:
    teacher, larger = tiny("bert"), {"hidden_size": 32, "num_hidden_layers": 3}
    if not registered:
        with pytest.raises(GrowthError, match="init='even': is unknown"):
            from_weak_teacher(teacher, **larger, init="even")
        return
    student = from_weak_teacher(teacher, **larger, init="even")
    assert apart(teacher, student) < 1e-5 and student.growth_report.init == "even"
    plan = plan_growth(teacher, **larger, init="even")
    assert plan.exact and plan.sources == {key: one.name for key, one in student.growth_report.parameters.items()}
    shown = str(plan)
    assert "init=even: exact, proven on a tiny model of this type" in shown and "evened\n" in shown
    assert "(evened: whole copies, which share weights equally)" in shown
    assert "  with depth=append, seed=0\n" in shown  # parameters of plan and function, and no other
    assert "bert.encoder.layer: 0<-0 1<-1 2<-1" in shown


def test_auto_tries_it_behind_the_other_exact_ones(registered: bool) -> None:
    notes = plan_growth(tiny("bert"), hidden_size=24, init="auto").notes
    refused = [note.split()[0] for note in notes[1:]]
    assert refused == ["clone", "pad", *(["even"] if registered else [])]


def test_the_command_line_finds_it(registered: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    _grow(parser)
    text = " ".join(parser.format_help().split())
    assert ("even (copies of channels with equal shares)" in text) is ("random,even}" in text) is registered
    tiny("bert").save_pretrained(tmp_path)
    code = main(["grow", str(tmp_path), "--hidden-size", "32", "--init", "even", "--dry-run"])
    assert code == (0 if registered else 1)
    assert ("init=even: exact" in capsys.readouterr().out) is registered


def test_the_card_cites_it(registered: bool, tmp_path: Path) -> None:
    init = "even" if registered else "remap"
    report = from_weak_teacher(tiny("bert"), hidden_size=32, init=init).growth_report
    (tmp_path / "growth.json").write_text(json.dumps(report.to_dict()))
    assert ("- equal shares: Evenness ([arXiv:1234.56789]" in str(model_card(RunRecord(), tmp_path))) is registered


def test_the_table_of_the_docs_finds_it(registered: bool) -> None:
    docs = ROOT / "docs"
    tables = runpy.run_path(str(docs / "parts.py"))
    text = tables["written"]((docs / "growing.md").read_text(encoding="utf-8"))
    row = f'| `"even"` | copies of channels with equal shares | {EXACT} |'
    assert (row in text) is ("[Evenness](https://arxiv.org/abs/1234.56789)" in text) is registered


def test_the_coverage_tool_measures_it_and_its_page_has_a_column(registered: bool) -> None:
    assert ("even" in growths()) is registered
    if registered:
        _, found = measure_type("causal-lm", "llama", ["even"], ["first"])
        assert found["even"]["first"]["status"] == "exact"
        assert growths()["even"].ratios == ((3, 1),)
    coverage = json.loads(DATA.read_text(encoding="utf-8"))
    lines = page(coverage, "title\n\ntext").splitlines()
    assert ("| map | width x 2 | depth x 2 | width x 1.5 | width x 3 |" in lines) is registered
    (llama,) = [line for line in lines if line.startswith("| llama | ")][:1]
    assert ("not measured" in llama) is registered
