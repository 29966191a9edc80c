"""The plan is printed before a weight moves; `auto` says what it chose; the command line does both."""

import json
from pathlib import Path

import pytest
import torch

from hf_dwt.cli import main
from hf_dwt.errors import GrowthError, GrowthNotPreservedError
from hf_dwt.growth import from_weak_teacher, plan_growth
from tests.models import tiny


def test_the_plan_shows_axes_maps_and_gains() -> None:
    plan = plan_growth(tiny("gpt2"), hidden_size=32, num_hidden_layers=3)
    text = str(plan)
    assert "transformer.h.*.attn.c_attn.weight" in text and "16->32|" in text
    assert "tiled" in text and "filled with 0" in text
    assert plan.steps["transformer.ln_f.weight"].gain is not None  # the tied head's factor
    assert abs(plan.steps["transformer.ln_f.weight"].gain.factor - 0.5) < 1e-4
    assert plan.parameters[1] == from_weak_teacher(tiny("gpt2"), hidden_size=32, num_hidden_layers=3).num_parameters()


def test_a_plan_reads_no_weights(tmp_path: Path) -> None:
    teacher = tiny("llama")
    teacher.config.architectures = ["LlamaForCausalLM"]
    teacher.config.save_pretrained(tmp_path)
    assert "padded" in str(plan_growth(tmp_path, hidden_size=24, init="pad"))
    with pytest.raises(GrowthError, match="teacher="):
        from_weak_teacher(tmp_path, hidden_size=32, init="clone")


def test_a_plan_that_would_not_be_exact_is_refused() -> None:
    with pytest.raises(GrowthError, match="promises nothing|no plan"):
        plan_growth(tiny("bert"), hidden_size=32, init="remap")
    with pytest.raises(GrowthNotPreservedError, match="q_proj|o_proj|layout"):
        plan_growth(tiny("llama"), config_overrides={"num_key_value_heads": 4, "num_attention_heads": 4})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init": "remap", "depth": "append"}, "init='remap' takes none. It is for clone, pad, auto."),
        ({"init": "clone", "depth": "apend"}, "Did you mean 'append'? Available: append, interleave"),
    ],
)
def test_a_depth_that_would_have_no_effect_is_refused(settings: dict[str, str], words: str) -> None:
    with pytest.raises(GrowthError, match="depth=") as error:
        from_weak_teacher(tiny("llama"), num_hidden_layers=4, **settings)
    assert words in str(error.value)
    deeper = from_weak_teacher(tiny("llama"), num_hidden_layers=4, init="auto", depth="interleave")
    assert deeper.growth_report.preserved and deeper.config.num_hidden_layers == 4


@pytest.mark.parametrize(
    ("name", "size", "chosen", "exact"),
    [("bert", 32, "clone", True), ("llama", 24, "pad", True), ("bert", 24, "remap", False)],
)
def test_auto_says_what_it_chose(name: str, size: int, chosen: str, exact: bool) -> None:
    student, report = from_weak_teacher(tiny(name), hidden_size=size, init="auto", output_report=True)
    assert report is student.growth_report
    assert report.notes[0] == f"auto chose {chosen}"
    assert report.preserved is exact and (report.difference < 1e-4) is exact
    assert f"auto chose {chosen}" in str(report)


def test_the_command_line_grows_and_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny("llama").save_pretrained(tmp_path / "teacher")
    assert main(["grow", str(tmp_path / "teacher"), "--hidden-size", "32", "--dry-run"]) == 0
    assert "exact" in capsys.readouterr().out and not (tmp_path / "out").exists()
    assert main(["grow", str(tmp_path / "teacher"), "--hidden-size", "32", "--out", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "growth.json").read_text())
    assert facts["preserved"] is True and facts["notes"][0] == "auto chose clone"
    again = type(tiny("llama")).from_pretrained(tmp_path / "out")
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, tiny("llama")(ids).logits, atol=1e-5)
    assert main(["grow", str(tmp_path / "teacher"), "--hidden-size", "8", "--out", str(tmp_path / "x")]) == 1
    assert "smaller than the teacher" in capsys.readouterr().err
