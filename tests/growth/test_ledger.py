"""The committed ledger is what the engine does: twelve types at every run, all of them by `make ledger`."""

import json

import pytest

from hf_dwt.growth.ledger import DATA, GROWTHS, MAPS, measure, page, totals, types
from tests.growth.test_exact import TWELVE

LEDGER = json.loads(DATA.read_text(encoding="utf-8"))


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("name", TWELVE)
def test_no_type_changes_its_column(name: str, growth: str) -> None:
    found = measure(TWELVE[name], name, growth)
    assert found.status == LEDGER[TWELVE[name]][name][growth]["status"], found.reason
    assert (found.difference is not None and found.difference < 1e-4) is (found.status != "refused")


@pytest.mark.parametrize("name", ["bloom", "zamba2"])
def test_a_declared_type_is_refused_without_its_declaration(name: str) -> None:
    assert measure("causal-lm", name, "width").status == LEDGER["causal-lm"][name]["width"]["status"] == "declared"


def test_every_type_has_an_entry_for_every_growth() -> None:
    for task in MAPS:
        assert LEDGER[task].keys() == types(task).keys()
        assert all(entries.keys() == set(GROWTHS) for entries in LEDGER[task].values())


def test_a_refusal_has_a_reason_and_nothing_else_has_one() -> None:
    entries = [e for task in LEDGER.values() for by_growth in task.values() for e in by_growth.values()]
    assert {bool(e["reason"]) for e in entries if e["status"] == "refused"} == {True}
    assert {bool(e["reason"]) for e in entries if e["status"] != "refused"} == {False}


@pytest.mark.parametrize(
    ("task", "growth", "least"),
    [
        ("masked-lm", "width", 44),
        ("causal-lm", "width", 150),
        ("seq2seq-lm", "width", 24),
        ("causal-lm", "depth", 100),
        ("causal-lm", "pad", 100),
    ],
)
def test_as_many_are_exact_as_were_promised(task: str, growth: str, least: int) -> None:
    assert int(totals(LEDGER)[task][growth].split()[0]) >= least


def test_the_page_is_written_from_the_data() -> None:
    text = page(LEDGER)
    assert f"| masked-lm | {totals(LEDGER)['masked-lm']['width']} |" in text
    assert "| bert | exact | exact | refused |" in text and text.count("\n| ") > 400
