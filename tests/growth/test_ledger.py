"""The committed ledger is what the engine does: twelve types at every run, all of them by `make ledger`."""

import json
from pathlib import Path

import pytest

from hf_dwt.growth.ledger import DATA, GROWTHS, MAPS, measure, merged, page, totals, types
from tests.growth.test_exact import TWELVE

LEDGER = json.loads(DATA.read_text(encoding="utf-8"))


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("name", TWELVE)
def test_no_type_changes_its_column(name: str, growth: str) -> None:
    found = measure(TWELVE[name], name, growth)
    assert found.status == LEDGER[TWELVE[name]][name][growth]["status"], found.reason
    assert (found.difference is not None and found.difference < 1e-4) is (found.status != "refused")


def test_the_readme_says_what_the_ledger_does() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    tasks = ("causal-lm", "masked-lm", "seq2seq-lm")
    for task in tasks:
        assert totals(LEDGER)[task]["width"] in readme
    widths = [entry["width"]["status"] for task in tasks for entry in LEDGER[task].values()]
    assert f"{widths.count('declared')} of these {len(widths) - widths.count('refused')} with" in " ".join(
        readme.split()
    )


DECLARED = [
    ("causal-lm", "zamba2"),  # shared layers, which one parameter serves under several names
    ("causal-lm", "xlnet"),  # sines of relative positions, of which the wider has more frequencies
    ("masked-lm", "mobilebert"),  # a head that joins the tied table to rows of its own
    ("seq2seq-lm", "nemo_speechlm"),  # declared of a part
    ("seq2seq-lm", "voxtral_realtime"),  # sound for every token; sines of time
]


@pytest.mark.parametrize(("task", "name"), DECLARED)
def test_a_declared_type_is_refused_without_its_declaration(task: str, name: str) -> None:
    assert measure(task, name, "width").status == LEDGER[task][name]["width"]["status"] == "declared"


EXACT = [
    ("causal-lm", "doge", "depth"),  # parameters of the layer scale the stream
    ("masked-lm", "mobilebert", "depth"),  # so do modules
    ("sequence-classification", "lilt", "depth"),  # two streams, whose last norms are two
    ("causal-lm", "musicgen", "depth"),  # several rows of ids for each of the mask
    ("masked-lm", "neomme", "width"),  # one matrix writes the stream and reads it
    ("seq2seq-lm", "t5gemma2", "width"),  # a part of a part has the size
    ("seq2seq-lm", "voxtral", "width"),  # the whole takes the size from a part
    ("seq2seq-lm", "vibevoice_asr", "width"),  # parts with attention implementations of their own
    ("image-classification", "hgnet_v2", "width"),  # layers of one kind, of which each stage has a layout of its own
    ("image-classification", "hiera", "width"),  # stages that double
    ("image-classification", "mobilevit", "width"),  # convolutions that read two joined tensors
    ("image-classification", "shieldgemma2", "width"),  # a tied head that the class does not name
    ("image-classification", "cvt", "depth"),  # stages whose numbers of layers have another name
    ("sequence-classification", "funnel", "depth"),  # likewise, in an encoder of text
    ("causal-lm", "hrm_text", "depth"),  # layers that are run several times
    ("causal-lm", "reformer", "depth"),  # reversible layers, which hand on two streams
    ("causal-lm", "hy_v4", "pad"),  # several streams, normalised together without a weight
]


@pytest.mark.parametrize(("task", "name", "growth"), EXACT)
def test_a_type_of_its_kind_stays_exact(task: str, name: str, growth: str) -> None:
    found = measure(task, name, growth)
    assert found.status == LEDGER[task][name][growth]["status"] == "exact", found.reason


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


def test_single_entries_are_put_among_the_others() -> None:
    old = {"a": {"x": {"width": 1, "depth": 2}, "y": {"width": 3}}, "b": {"z": {"pad": 4}}}
    found = merged(old, {"a": {"x": {"width": 5}}, "c": {"w": {"pad": 6}}})
    assert found == {**old, "a": {"x": {"width": 5, "depth": 2}, "y": {"width": 3}}, "c": {"w": {"pad": 6}}}
    assert old["a"]["x"]["width"] == 1


def test_the_page_is_written_from_the_data() -> None:
    text = page(LEDGER)
    assert f"| masked-lm | {totals(LEDGER)['masked-lm']['width']} |" in text
    assert "| bert | exact | exact | refused |" in text and text.count("\n| ") > 400
