"""The plan is printed before a weight moves; `auto` says what it chose; the command line does both."""

import argparse
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from benchmarks.coverage.measure import arguments, tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.cli import _grow, main
from hf_dwt.errors import GrowthError, GrowthNotPreservedError
from hf_dwt.growth import plan_growth
from hf_dwt.growth.depth.rules import DEPTHS, order
from hf_dwt.growth.strategies import INITS
from hf_dwt.growth.width.layouts import named_sizes, read_layout
from hf_dwt.growth.width.mapping import Recipe
from hf_dwt.growth.width.search import find_recipe
from tests.models import tiny


def test_the_plan_shows_axes_maps_and_gains() -> None:
    plan = plan_growth(tiny("gpt2"), hidden_size=32, num_hidden_layers=3, init="clone")
    text = str(plan)
    assert "transformer.h.*.attn.c_attn.weight" in text and "16->32|" in text
    assert "tiled" in text and "filled with 0" in text
    assert plan.steps["transformer.ln_f.weight"].gain is not None  # the tied head's factor
    assert abs(plan.steps["transformer.ln_f.weight"].gain.factor - 0.5) < 1e-4
    assert plan.parameters[1] == from_weak_teacher(tiny("gpt2"), hidden_size=32, num_hidden_layers=3).num_parameters()


def test_the_plan_says_what_is_new_and_explains_its_words() -> None:
    more = {"num_hidden_layers": 5, "vocab_size": 70, "new_rows": "mean", "init": "clone", "symmetry": 0.25}
    plan = plan_growth(tiny("llama"), hidden_size=32, **more)
    lines = [" ".join(line.split()) for line in str(plan).splitlines()]
    for line in (
        "with depth=append, symmetry=0.25, seed=0, new_rows=mean",
        "num_hidden_layers: 2 -> 5",
        "model.layers: 0<-0 1<-1 2<-1 3<-1 4<-1",
        "model.embed_tokens.weight 64->70 with new rows x 16->32 tiled",
        "model.layers.0-1.self_attn.o_proj.weight 16->32 x 16->32 in tiled",
        "model.layers.2-4.self_attn.o_proj.weight 16->32 x 16->32 in filled with 0",
        "(filled: so that new layers are identity layers, which return what they read)",
    ):
        assert line in lines, line
    assert max(map(len, str(plan).splitlines())) < 120
    wider = str(plan_growth(tiny("llama"), hidden_size=32, init="clone"))  # counter-case: no word without a use
    assert "filled" not in wider and "new rows" not in wider and "model.layers.*.self_attn.o_proj.weight" in wider


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A checkpoint whose weight file cannot be opened by anybody: it is a folder."""
    teacher = tiny("llama")
    teacher.config.architectures = ["LlamaForCausalLM"]
    teacher.config.save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "model.safetensors").mkdir()
    return tmp_path / "teacher"


@pytest.mark.parametrize(
    ("init", "size", "chosen"),
    [*((init, 32, "clone") for init in INITS), *((init, 24, "pad") for init in ("auto", "clone", "pad"))],
)
def test_a_plan_reads_no_weights(
    init: str, size: int, chosen: str, sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["grow", str(sealed), "--hidden-size", str(size), "--num-hidden-layers", "3", "--init", init]
    if (init, size) == ("clone", 24):
        assert main([*arguments, "--dry-run"]) == 1
        assert "multiples of the teacher's 16. Use 32, or init='pad'" in capsys.readouterr().err
        return
    assert main([*arguments, "--dry-run"]) == 0
    shown, used = capsys.readouterr().out, chosen if init == "auto" else init
    plan = plan_growth(sealed, hidden_size=size, num_hidden_layers=3, init=init)
    assert f'"hidden_size": {size}' in shown and f"{plan.parameters[1]:,} parameters" in shown
    assert f"init={used}: {'exact' if used in ('clone', 'pad') else 'not exact'}" in shown
    assert plan.exact is (used in ("clone", "pad")) and bool(plan.steps) is (used != "random")
    small, large = (count * 4 for count in plan.parameters)
    assert plan.memory == large + (0 if init == "random" else small)
    # Counter-case: growing itself needs the file, unless nothing is copied.
    assert main([*arguments, "--out", str(sealed.parent / "out")]) == (0 if init == "random" else 1)
    assert init == "random" or "No checkpoint can be loaded" in capsys.readouterr().err


WIDER, DEEPER = {"hidden_size": 32}, {"num_hidden_layers": 5}


@pytest.mark.parametrize(
    ("name", "larger"),
    [("llama", WIDER), ("t5", DEEPER), ("llama", {**WIDER, **DEEPER}), ("t5", {**WIDER, **DEEPER})],
    ids=["llama-width", "t5-depth", "llama-both", "t5-both"],
)
@pytest.mark.parametrize("init", INITS)
def test_the_growth_is_what_its_plan_says(init: str, name: str, larger: dict[str, int]) -> None:
    """Of every parameter: the teacher's that it is made from; of every layer: the line that both print."""
    plan = plan_growth(tiny(name), **larger, init=init)
    report = from_weak_teacher(tiny(name), **larger, init=init).growth_report
    assert plan.sources == {key: source.name for key, source in report.parameters.items()}
    assert all(plan.steps[key].source == name for key, name in plan.sources.items() if name is not None)
    layers, planned = ([line for line in str(shown).splitlines() if "0<-" in line] for shown in (report, plan))
    assert layers == planned
    assert len(layers) == (0 if init == "random" else 1 + (name == "t5"))
    assert [note.replace("would choose", "chose") for note in plan.notes] == list(report.notes)[: len(plan.notes)]


@pytest.mark.parametrize(
    ("init", "depth"),
    [("remap", depth) for depth in DEPTHS] + [("aki", depth) for depth in ("stack", "repeat_each", "repeat_last")],
)
def test_layers_are_made_from_those_that_the_plan_says(init: str, depth: str) -> None:
    """Counter-case of a plan that is only copied into the report: the numbers in the student, and another rule."""
    teacher = tiny("llama", num_hidden_layers=3)
    plan = plan_growth(teacher, num_hidden_layers=5, init=init, depth=depth)
    student = plan.apply()
    for key, parameter in student.named_parameters():
        assert torch.equal(parameter, teacher.get_parameter(plan.sources[key])), key
        others = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)]
        if key.endswith("up_proj.weight"):
            assert sum(torch.equal(parameter, teacher.get_parameter(other)) for other in others) == 1
    assert [order(depth, 3, 5)] == [
        [int(plan.sources[f"model.layers.{i}.mlp.up_proj.weight"].split(".")[2]) for i in range(5)]
    ]


def test_the_growth_is_its_plan_applied() -> None:
    arguments: dict[str, Any] = {
        "hidden_size": 32,
        "vocab_size": 70,
        "new_rows": "mean",
        "pad_vocab_to_multiple_of": 8,
    }
    arguments |= {"init": "clone", "symmetry": 0.2, "seed": 3, "rest": "zeros"}
    plan = plan_growth(tiny("llama"), **arguments)
    student = from_weak_teacher(tiny("llama"), **arguments)
    report = student.growth_report
    first, second = plan.apply(), plan.apply()
    assert plan.config.vocab_size == 72 and report.to_dict() == first.growth_report.to_dict()
    for other in (first, second):
        assert all(torch.equal(student.state_dict()[key], value) for key, value in other.state_dict().items())
    assert first.lm_head is not second.lm_head
    different = plan_growth(tiny("llama"), **{**arguments, "symmetry": 0.3}).apply()
    assert not torch.equal(different.lm_head.weight, student.lm_head.weight)


def test_both_take_the_same_arguments() -> None:
    assert inspect.signature(plan_growth).parameters == inspect.signature(from_weak_teacher).parameters
    parser = argparse.ArgumentParser()
    _grow(parser)
    defaults = inspect.signature(from_weak_teacher).parameters
    asked = {action.dest: action.default for action in parser._actions if action.dest in defaults}
    assert asked.keys() == {name for name, p in defaults.items() if p.kind is not p.VAR_KEYWORD}
    assert asked == {key: defaults[key].default for key in asked} | {"teacher": None}


def test_a_function_of_your_own_says_that_it_has_no_plan() -> None:
    def twice(student: Any, teacher: Any, rest: Any) -> Any:
        return INITS["remap"](student, teacher, rest)

    plan = plan_growth(tiny("bert"), hidden_size=32, init=twice)
    assert "init=twice: unknown: a function of your own" in str(plan) and not plan.sources
    assert plan.apply().growth_report.init == "twice"
    assert plan_growth(tiny("bert"), hidden_size=32, init=INITS["clone"]).exact


def test_a_function_whose_parameters_growth_does_not_know_is_refused_before_anything_is_read() -> None:
    def mine(student: Any, teacher: Any, leftover: Any) -> Any:
        return INITS["random"](student, teacher)

    with pytest.raises(GrowthError, match=r"^init='mine': It has the parameter 'leftover'.*student, teacher, rest,"):
        plan_growth("/there/is/nothing", init=mine)
    with pytest.raises(GrowthError, match="^teacher="):  # counter-case: a default will do
        plan_growth("/there/is/nothing", init=lambda student, teacher, leftover=1: {})


def test_every_strategy_has_a_plan() -> None:
    assert all(strategy.plan is not None for strategy in INITS.values())


@pytest.mark.parametrize(("name", "size"), [("bert", 24), ("llama", 24), ("gpt2", 32), ("t5", 32)])
def test_what_the_plan_says_of_auto_is_what_auto_does(name: str, size: int) -> None:
    plan = plan_growth(tiny(name), hidden_size=size, init="auto")
    report = from_weak_teacher(tiny(name), hidden_size=size, init="auto").growth_report
    assert report.notes[0] == f"auto chose {plan.init}" and report.preserved is plan.exact
    assert plan.notes == (f"auto would choose {plan.init}", *report.notes[1:])


def test_auto_leaves_nothing_of_what_it_tried() -> None:
    """Padding scales the eps of norms before it is found not to be exact."""
    auto, remap = (from_weak_teacher(tiny("bert"), hidden_size=24, init=init, seed=3) for init in ("auto", "remap"))
    assert auto.growth_report.notes[0] == "auto chose remap"
    assert auto.config.to_dict() == remap.config.to_dict()
    assert all(torch.equal(auto.state_dict()[key], value) for key, value in remap.state_dict().items())
    assert {m.eps for m in auto.modules() if isinstance(m, torch.nn.LayerNorm)} == {auto.config.layer_norm_eps}


def test_a_plan_that_would_not_be_exact_is_refused() -> None:
    with pytest.raises(GrowthError, match="init='remp'.*Did you mean 'remap'.*Available"):
        plan_growth(tiny("bert"), hidden_size=32, init="remp")
    with pytest.raises(GrowthNotPreservedError, match="Copies of whole channels"):
        plan_growth(tiny("bert"), hidden_size=24, init="clone")
    with pytest.raises(GrowthNotPreservedError, match="outputs differ.*pre-norm"):
        plan_growth(tiny("bert"), hidden_size=24, init="pad")
    with pytest.raises(GrowthError, match="smaller"):
        plan_growth(tiny("llama"), hidden_size=8, init="remap")


def test_a_wrong_map_does_not_pass_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the proxies said: the fused projection of GPT-2 read as one block."""

    def wrong(*args: Any, **options: Any) -> Recipe:
        recipe = find_recipe(*args, **options)
        (fused,) = (
            key for key in recipe.layouts if key[0].endswith("c_attn.weight") and recipe.layouts[key][0] != (1,)
        )
        return recipe.with_layout([fused, (fused[0].replace("weight", "bias"), 0)], (1,))

    assert from_weak_teacher(tiny("gpt2"), hidden_size=32, init="clone").growth_report.preserved
    monkeypatch.setattr("hf_dwt.growth.widening.find_recipe", wrong)
    with pytest.raises(GrowthNotPreservedError, match=r"init='clone': The student's outputs differ by 0"):
        from_weak_teacher(tiny("gpt2"), hidden_size=32, init="clone")


@pytest.mark.parametrize("hidden", [False, True])
def test_a_bar_shows_when_it_takes_long(
    hidden: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from_weak_teacher(tiny("bert"), hidden_size=32, init="clone")
    assert "Growing" not in capsys.readouterr().err
    monkeypatch.setattr("hf_dwt.growth.paging.DELAY", 0.0)
    if hidden:
        disable_progress_bars()
    try:
        from_weak_teacher(tiny("bert"), hidden_size=32, init="clone")
    finally:
        enable_progress_bars()
    shown = capsys.readouterr().err
    assert ("Growing: 100%" in shown and "parameters/s" in shown) is not hidden


@pytest.mark.parametrize("init", ["clone", "pad"])
def test_a_rule_that_copies_layers_is_not_exact_and_said_so(init: str) -> None:
    with pytest.raises(GrowthNotPreservedError, match=rf"^init='{init}': .*depth='stack' copies layers: use 'append'"):
        from_weak_teacher(tiny("llama"), num_hidden_layers=4, init=init, depth="stack")


def test_padding_that_scales_up_what_writes_the_stream_says_so() -> None:
    """Norms without an eps in the config cannot get a smaller one."""
    teacher = tiny_teacher("causal-lm", "dbrx")
    report = from_weak_teacher(teacher, **arguments("causal-lm", "pad", teacher.config)).growth_report
    assert report.preserved and report.notes == ("pad: what writes the residual stream is scaled up, and eps stays",)
    assert not from_weak_teacher(tiny("llama"), hidden_size=24, init="pad").growth_report.notes


def test_depth_is_a_rule_that_is_known() -> None:
    with pytest.raises(GrowthError, match=r"depth='apend': is unknown. Did you mean 'append'\? Available: append,"):
        from_weak_teacher(tiny("llama"), num_hidden_layers=4, init="clone", depth="apend")
    deeper = from_weak_teacher(tiny("llama"), num_hidden_layers=4, init="auto", depth="interleave")
    assert deeper.growth_report.preserved and deeper.config.num_hidden_layers == 4


@pytest.mark.parametrize(
    ("name", "size", "chosen", "exact"),
    [("bert", 32, "clone", True), ("llama", 24, "pad", True), ("bert", 24, "remap", False)],
)
def test_auto_says_what_it_chose(name: str, size: int, chosen: str, exact: bool) -> None:
    report = from_weak_teacher(tiny(name), hidden_size=size, init="auto").growth_report
    assert report.notes[0] == f"auto chose {chosen}"
    assert report.preserved is exact and (report.difference < 1e-4) is exact
    assert f"auto chose {chosen}" in str(report)


def test_the_command_line_grows_and_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny("llama").save_pretrained(tmp_path / "teacher")
    grow = ["grow", str(tmp_path / "teacher"), "--hidden-size", "32"]
    assert main([*grow, "--dry-run"]) == 0
    assert "init=remap: not exact" in capsys.readouterr().out and not (tmp_path / "out").exists()
    assert main([*grow, "--init", "auto", "--out", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "growth.json").read_text())
    assert facts["preserved"] is True and facts["notes"][0] == "auto chose clone"
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(again) is type(tiny("llama")) and not info["missing_keys"] and not info["unexpected_keys"]
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, tiny("llama")(ids).logits, atol=1e-5)
    assert main(["grow", str(tmp_path / "teacher"), "--hidden-size", "8", "--out", str(tmp_path / "x")]) == 1
    assert "smaller than the teacher" in capsys.readouterr().err


def test_the_command_line_copies_the_tokenizer_and_casts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    tiny("llama").save_pretrained(teacher)
    grow = ["grow", str(teacher), "--hidden-size", "32", "--init", "clone", "--dtype", "float16", "--out"]
    assert main([*grow, str(out)]) == 0
    assert "no tokenizer or processor could be copied" in capsys.readouterr().err
    assert not list(out.glob("tokenizer*"))
    words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="a").save_pretrained(teacher)
    assert main([*grow, str(out)]) == 1
    assert "It holds a model already" in capsys.readouterr().err
    out = tmp_path / "other"
    assert main([*grow, str(out)]) == 0
    assert "no tokenizer" not in capsys.readouterr().err
    assert AutoTokenizer.from_pretrained(out).get_vocab() == {"a": 0, "b": 1}
    assert AutoModelForCausalLM.from_pretrained(out).dtype is torch.float16
    assert tiny("llama").dtype is torch.float32


def test_the_command_line_says_what_is_wrong_before_it_grows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "teacher")
    tiny("llama").save_pretrained(folder)
    weights = (tmp_path / "teacher" / "model.safetensors").read_bytes()
    (tmp_path / "file").touch()
    for more, words in (
        ([], "--out DIR, or --dry-run"),
        (["--out", folder], "would overwrite its teacher"),
        (["--out", str(tmp_path / "file")], "It is a file"),
        (["--out", str(tmp_path / "out"), "--init", "clon"], "Did you mean 'clone'"),
        (
            ["--out", str(tmp_path / "out"), "--init", "remap", "--depth", "apend", "--dry-run"],
            "Did you mean 'append'",
        ),
    ):
        assert main(["grow", folder, "--hidden-size", "32", *more]) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "teacher" / "model.safetensors").read_bytes() == weights
    with pytest.raises(SystemExit):
        main(["grow", "--help"])
    assert "no weight is read" in capsys.readouterr().out


def test_stages_of_one_kind_keep_a_layout_each() -> None:
    """The newest that adds up counts: a later find for one stage does not undo that for another."""
    key = ("stages.*.join.weight", 1)
    sizes = {"in": (4, 8), "mid": (6, 12), "out": (10, 20)}
    recipe = Recipe().with_layout([key], ("in", "mid")).with_layout([key], ("mid", "out"))
    assert recipe.layouts[key] == (("mid", "out"), ("in", "mid"))
    axes = [next(a for one in recipe.layouts[key] if (a := read_layout(one, n, 2 * n, sizes))) for n in (10, 16)]
    assert [[part.old for part in axis.segments] for axis in axes] == [[4, 6], [6, 10]]
    assert recipe.with_layout([key], ("in", "mid")).layouts[key] == (("in", "mid"), ("mid", "out"))


def test_each_stage_of_a_doubling_model_is_named() -> None:
    configs = [AutoConfig.for_model("hiera", embed_dim=width, depths=[1, 1, 1, 1]) for width in (12, 24)]
    sizes = named_sizes(*configs)
    assert [sizes[f"embed_dim.{stage}"] for stage in range(4)] == [(12, 24), (24, 48), (48, 96), (96, 192)]
