"""The committed coverage is what the engine does: twelve types at every run, all of them by `make coverage`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaForCausalLM, PreTrainedConfig

from benchmarks.coverage import measure as tool
from benchmarks.coverage.drawn import DEFAULT, FIRST, SETTINGS, draw, moves
from benchmarks.coverage.growths import growths
from benchmarks.coverage.measure import (
    DATA,
    MAPS,
    arguments,
    measure,
    measure_type,
    run,
    tiny_config,
    tiny_teacher,
    types,
)
from benchmarks.coverage.page import page, totals, verdict, write
from tests.growth.test_exact import TWELVE

COVERAGE = json.loads(DATA.read_text(encoding="utf-8"))
FOUND = COVERAGE["growths"]
GROWTHS = growths()


OTHERS = [setting for setting in SETTINGS if setting != FIRST]


@pytest.mark.parametrize(("name", "setting"), [(name, OTHERS[i % 3]) for i, name in enumerate(TWELVE)])
def test_no_type_changes_its_column(name: str, setting: str) -> None:
    """At the first sizes, and at drawn ones or at its default's proportions."""
    committed = FOUND[TWELVE[name]][name]
    sizes, found = measure_type(TWELVE[name], name, GROWTHS, (FIRST, setting))
    assert sizes == {setting: COVERAGE["sizes"][TWELVE[name]][name][setting]} and all(sizes.values())
    assert found.keys() == committed.keys()
    for growth, by_setting in found.items():
        assert by_setting.keys() == committed[growth].keys() & {FIRST, setting}
        for one, entry in by_setting.items():
            assert entry["status"] == committed[growth][one]["status"], entry
            small = entry["difference"] is not None and entry["difference"] < 1e-4
            assert small is (entry["status"] != "refused")


def test_the_first_page_says_what_the_coverage_table_does() -> None:
    page = (Path(__file__).parents[2] / "docs" / "index.md").read_text(encoding="utf-8")
    tasks = ("causal-lm", "masked-lm", "seq2seq-lm")
    for task in tasks:
        assert totals(COVERAGE)[task]["width"] in page
    widths = [verdict(entry["width"])[0] for task in tasks for entry in FOUND[task].values()]
    exact = widths.count("exact") + widths.count("declared")
    assert f"{widths.count('declared')} of these {exact} need a layout" in " ".join(page.split())
    assert f"{widths.count('partly')} more grow exactly at some" in " ".join(page.split())


DECLARED = [
    ("causal-lm", "zamba2"),  # shared layers, which one parameter serves under several names
    ("causal-lm", "xlnet"),  # sines of relative positions, of which the wider has more frequencies
    ("masked-lm", "mobilebert"),  # a head that joins the tied table to rows of its own
    ("seq2seq-lm", "nemo_speechlm"),  # declared of a part
]


@pytest.mark.parametrize(("task", "name"), DECLARED)
def test_a_declared_type_is_refused_without_its_declaration(task: str, name: str) -> None:
    assert measure(task, name, "width").status == FOUND[task][name]["width"][FIRST]["status"] == "declared"


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
    assert found.status == FOUND[task][name][growth][FIRST]["status"] == "exact", found.reason


ENTRIES = [
    e for types in FOUND.values() for by_growth in types.values() for s in by_growth.values() for e in s.values()
]


def test_every_type_has_an_entry_for_every_growth_and_setting() -> None:
    for task in MAPS:
        assert FOUND[task].keys() == types(task).keys()
        for name, by_growth in FOUND[task].items():
            assert by_growth.keys() == set(GROWTHS)
            legal = {setting for setting, drawn in COVERAGE["sizes"][task][name].items() if drawn is not None}
            for by_setting in by_growth.values():
                first = by_setting[FIRST]["status"]
                assert by_setting.keys() == ({FIRST} if first == "refused" else {FIRST} | legal)


def test_what_is_measured_beside_the_first_sizes_is_at_others() -> None:
    drawn = [
        one for by_type in COVERAGE["sizes"].values() for by_setting in by_type.values() for one in by_setting.values()
    ]
    assert all(one != {} for one in drawn) and sum(one is not None for one in drawn) > 1000


def test_a_refusal_has_a_reason_and_nothing_else_has_one() -> None:
    assert {bool(e["reason"]) for e in ENTRIES if e["status"] == "refused"} == {True}
    assert {bool(e["reason"]) for e in ENTRIES if e["status"] != "refused"} == {False}


def test_no_student_computes_something_else() -> None:
    """What is not exact was refused: on further batches no more than rounding was found."""
    assert not [e["reason"] for e in ENTRIES if (e["difference"] or 0) > 1e-3]


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
    assert int(totals(COVERAGE)[task][growth].split()[0]) >= least


def test_a_wrong_student_is_an_entry_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_teacher("causal-lm", "llama", "a")
    plain = tool.held_out

    def spoilt(one: Any, student: Any) -> float:
        with torch.no_grad():
            student.lm_head.weight[0] += 1
        return plain(one, student)

    monkeypatch.setattr(tool, "held_out", spoilt)
    entry = measure("causal-lm", "llama", "width", "a", teacher)
    assert entry.status == "refused" and "held-out" in entry.reason and entry.difference > 1e-3


def test_what_is_exact_at_some_sizes_is_partly_so() -> None:
    exact, refused = {"status": "exact"}, {"status": "refused"}
    assert verdict({"first": exact, "a": exact}) == ("exact", "2 of 2")
    assert verdict({"first": {"status": "declared"}, "a": exact}) == ("declared", "2 of 2")
    assert verdict({"first": exact, "a": refused, "b": exact}) == ("partly", "2 of 3")
    assert verdict({"first": refused}) == ("refused", "0 of 1")


def no_other(config: PreTrainedConfig, times: int, by: int) -> PreTrainedConfig:
    raise AssertionError("not asked for")


def test_a_draw_depends_on_its_name_alone_and_moves_every_size() -> None:
    model_class, tiny, default = tiny_config("causal-lm", "llama")
    one, again, other = (draw(model_class, tiny, default, name, no_other) for name in ("a", "a", "b"))
    assert one.to_dict() == again.to_dict() != other.to_dict()
    assert {"hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"} <= moves(tiny, one).keys()
    assert draw(model_class, tiny, default, FIRST, no_other) is tiny


def test_the_defaults_proportions_are_kept() -> None:
    """Llama 2's: as many keys as heads, an FFN of 2.6875 times the width, up to rounding to a pair."""
    model_class, tiny, default = tiny_config("causal-lm", "llama")
    small = draw(model_class, tiny, default, DEFAULT, no_other)
    assert abs(small.intermediate_size / small.hidden_size - default.intermediate_size / default.hidden_size) < 0.05
    assert small.num_attention_heads == small.num_key_value_heads
    model_class, tiny, default = tiny_config("causal-lm", "mistral")  # 32 heads share 8
    small = draw(model_class, tiny, default, DEFAULT, no_other)
    assert small.num_attention_heads == 4 * small.num_key_value_heads > 4


class Choosy(BertForMaskedLM):
    """Of three heads at most, and with as many words as it likes."""

    def __init__(self, config: BertConfig) -> None:
        if config.num_attention_heads > 4 or config.intermediate_size != 40:
            raise ValueError("no")
        super().__init__(config)


class Rigid(LlamaForCausalLM):
    """Of one size."""

    def __init__(self, config: PreTrainedConfig) -> None:
        if config.hidden_size != 32 or config.vocab_size != 64 or config.max_position_embeddings != 64:
            raise NotImplementedError
        if (config.intermediate_size, config.num_attention_heads, config.num_key_value_heads) != (40, 4, 4):
            raise NotImplementedError
        super().__init__(config)


def test_what_a_class_refuses_stays_and_the_rest_moves() -> None:
    _, tiny, default = tiny_config("masked-lm", "bert")
    for setting in ("a", "b"):
        drawn = draw(Choosy, tiny, default, setting, no_other)
        assert drawn.intermediate_size == 40 and drawn.num_attention_heads <= 4
        assert drawn.vocab_size != tiny.vocab_size and drawn.hidden_size != tiny.hidden_size


def test_a_class_of_one_size_has_no_others() -> None:
    _, tiny, default = tiny_config("causal-lm", "llama")

    def wider(config: PreTrainedConfig, times: int, by: int) -> PreTrainedConfig:
        return type(config).from_dict({**config.to_dict(), "hidden_size": 32 * times // by})

    assert draw(Rigid, tiny, default, "a", wider) is None


def test_a_model_of_stages_is_measured_at_other_widths() -> None:
    sizes, _ = measure_type("image-classification", "swin", ["width"], ["a"])
    assert sizes["a"]["embed_dim"] != 16


def test_padding_takes_a_ratio_that_leaves_heads_whole() -> None:
    _, config, _ = tiny_config("causal-lm", "llama")
    config.num_attention_heads = config.num_key_value_heads = 5
    config.hidden_size, config.head_dim = 40, 8
    assert arguments("causal-lm", "pad", config, "a")["hidden_size"] == 48
    assert arguments("causal-lm", "pad", config)["hidden_size"] == 60


def test_a_run_writes_what_it_measured_and_keeps_the_rest(tmp_path: Path) -> None:
    kept = {"sizes": {"x": {"y": {"a": None}}}, "growths": {"x": {"y": {"pad": {"first": {"status": "refused"}}}}}}
    coverage: dict[str, Any] = json.loads(json.dumps(kept))
    lines = list(run(coverage, [("causal-lm", "llama")], ["depth"], [FIRST]))
    assert len(lines) == 1 and "depth exact 1 of 1" in lines[0]
    list(run(coverage, [("causal-lm", "llama")], ["depth"], ["a"]))
    path = tmp_path / "coverage.json"
    write(coverage, path)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read == coverage and read["growths"]["x"] == kept["growths"]["x"]
    assert read["growths"]["causal-lm"]["llama"]["depth"].keys() == {FIRST, "a"}


def test_the_page_is_written_from_the_data() -> None:
    text = page(COVERAGE, tool.__doc__ or "")
    assert text == (Path(__file__).parents[2] / "docs" / "coverage.md").read_text(encoding="utf-8")
    assert f"| masked-lm | {totals(COVERAGE)['masked-lm']['width']} |" in text
    assert "| bert | exact, 4 of 4 | exact, 4 of 4 | refused |" in text and text.count("\n| ") > 400
