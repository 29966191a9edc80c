"""What cannot be a teacher or a student is refused in words, with the fix, before a step is made."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipConfig,
    SiglipModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from benchmarks.coverage.measure import tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError, SetupError
from hf_dwt.growth import plan_growth
from hf_dwt.growth.arguments import KINDS, LOADING, NAMED
from hf_dwt.growth.strategies import INITS
from tests.models import tiny

NOWHERE = "/there/is/no/such/folder"
# annotation or name of a parameter -> values that it may not have
WRONG: dict[Any, tuple[Any, ...]] = {
    int | None: ("x", -3, 0, True, 1.5, [8]),
    int: ("x", -1, 2**32, True, 1.5, None),
    float: ("x", float("nan"), float("inf"), -0.5, True, None),
    Mapping[str, Any] | None: ([], "x", {3: 4}),
    str | type | None: (3, object, []),
    str | Path | PreTrainedTokenizerBase | None: (3, object, [], Tokenizer(WordLevel())),
    "depth": ("apend", 3, len),
    "init": ("clon", 3, None),
    "rest": ("zero", 3, None),
    "new_rows": ("median", 3, None),
    "teacher": (3, None, torch.nn.Linear(2, 2)),
}
PARAMETERS = dict(list(inspect.signature(from_weak_teacher).parameters.items())[:-1])
CASES = [
    (name, value)
    for name, parameter in PARAMETERS.items()
    for value in WRONG[name if name in WRONG else parameter.annotation]
]


@pytest.mark.parametrize(("name", "value"), CASES)
@pytest.mark.parametrize("grow", [from_weak_teacher, plan_growth])
def test_a_value_that_is_none_is_refused_before_anything_is_read(grow: Any, name: str, value: Any) -> None:
    """For every parameter and every initialisation; were a file looked for, the error would be the teacher's."""
    for init in INITS if name != "init" else ["-"]:
        with pytest.raises(GrowthError, match=rf"^{name}=") as caught:
            grow(**{"teacher": NOWHERE, "init": init, name: value})
        assert caught.value.argument == name and caught.value.fix


@pytest.mark.parametrize("value", ["x", -1, []], ids=repr)
def test_whatever_an_attribute_of_the_config_is_set_to_errors_are_typed(value: Any) -> None:
    teacher, refused = tiny("llama"), set()
    for name in teacher.config.to_dict():
        try:
            plan_growth(teacher, hidden_size=32, init="random", config_overrides={name: value})
        except (GrowthError, SetupError) as error:
            problems = getattr(error, "problems", [error])
            assert all(problem.argument == "config_overrides" and name in str(problem.value) for problem in problems)
            refused.add(name)
    assert {"model_type", "num_hidden_layers", "vocab_size", "rope_parameters"} <= refused


def test_every_parameter_has_a_rule() -> None:
    named = {name for name, parameter in PARAMETERS.items() if parameter.annotation not in KINDS}
    assert named == NAMED.keys()
    with pytest.raises(GrowthError, match="^teacher="):  # counter-case: what is legal gets as far as the teacher
        from_weak_teacher(NOWHERE, **{name: p.default for name, p in PARAMETERS.items() if name != "teacher"})


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("grow", [from_weak_teacher, plan_growth])
def test_an_argument_that_nobody_knows_is_refused_before_anything_is_read(grow: Any, init: str) -> None:
    for wrong, right in (("hiden_size", "hidden_size"), ("revison", "revision"), ("simmetry", "symmetry")):
        with pytest.raises(GrowthError, match=f"^{wrong}=32: is no argument.*Did you mean '{right}'"):
            grow(NOWHERE, init=init, **{wrong: 32})
    with pytest.raises(GrowthError, match="given as config_overrides={'hidden_dropout_prob': ...}"):
        grow(NOWHERE, init=init, hidden_dropout_prob=0.1)
    with pytest.raises(GrowthError, match="^hiden_size=32"):
        grow(tiny("bert"), init=init, hiden_size=32)
    with pytest.raises(SetupError) as caught:
        grow(NOWHERE, init=init, hidden_size=0, hiden_size=32, dtype="float99")
    assert [problem.argument for problem in caught.value.problems] == ["hidden_size", "hiden_size", "dtype"]


def test_arguments_of_loading_are_those_of_transformers() -> None:
    source = "".join(
        inspect.getsource(one)
        for one in (PreTrainedModel.from_pretrained, _BaseAutoModelClass.from_pretrained, PreTrainedModel._from_config)
    )
    assert [name for name in LOADING if f'"{name}"' not in source and f" {name}:" not in source] == []
    for name in LOADING.keys() - {"quantization_config"}:
        with pytest.raises(GrowthError, match=f"^{name}="):
            from_weak_teacher(NOWHERE, **{name: object()})


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWER = {**SMALL, "intermediate_size": 40}


def opt() -> OPTForCausalLM:
    return OPTForCausalLM(OPTConfig(vocab_size=64, word_embed_proj_dim=32, ffn_dim=40, pad_token_id=1, **SMALL))


def siglip() -> SiglipModel:
    vision = {**TOWER, "image_size": 16, "patch_size": 4}
    return SiglipModel(
        SiglipConfig(text_config={**TOWER, "vocab_size": 64, "projection_size": 32}, vision_config=vision)
    )


def wav2vec2() -> Wav2Vec2ForCTC:
    convolutions = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2}
    groups = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    return Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=32, **TOWER, **convolutions, **groups))


SMALLER = [
    {"hidden_size": 8},
    {"num_hidden_layers": 1},
    {"num_attention_heads": 2},
    {"num_key_value_heads": 1},
    {"head_dim": 2},
    {"intermediate_size": 16},
    {"vocab_size": 32},
    {"max_position_embeddings": 16},
]


@pytest.mark.parametrize("init", ["remap", "clone", "random"])
@pytest.mark.parametrize("sizes", SMALLER, ids=lambda sizes: next(iter(sizes)))
def test_no_size_may_shrink(sizes: dict[str, int], init: str) -> None:
    name, value = next(iter(sizes.items()))
    with pytest.raises(GrowthError, match=rf"^{name}={value}: It is smaller than the teacher's \d+\. .*or more\."):
        from_weak_teacher(tiny("qwen3"), **sizes, init=init)


MOVE_TOGETHER: list[tuple[Any, dict[str, Any], str]] = [
    (opt, {"config_overrides": {"word_embed_proj_dim": 64}}, r"project_out.*attributes that move together"),
    (opt, {"hidden_size": 64, "config_overrides": {"word_embed_proj_dim": 32}}, r"project_out.*no such matrix"),
    (siglip, {"config_overrides": {"text_config": {"num_attention_heads": 5}}}, "embed_dim must be divisible"),
    (siglip, {"config_overrides": {"text_config": {"hidden_size": 16}}}, "student's would be smaller"),
    (wav2vec2, {"hidden_size": 64, "config_overrides": {"num_conv_pos_embedding_groups": 3}}, "divisible by groups"),
    ("rwkv", {"config_overrides": {"attention_hidden_size": 16}}, "student's would be smaller"),
    ("mamba2", {"hidden_size": 64, "config_overrides": {"num_heads": 8}}, "must equal num_heads"),
    ("mamba2", {"config_overrides": {"num_heads": 7}}, "smaller than the teacher's 8"),
    ("mamba", {"hidden_size": 64, "config_overrides": {"time_step_rank": 2}}, "student's would be smaller"),
]


@pytest.mark.parametrize(("teacher", "arguments", "words"), MOVE_TOGETHER)
def test_attributes_that_move_together(teacher: Any, arguments: dict[str, Any], words: str) -> None:
    model = tiny_teacher("causal-lm", teacher) if isinstance(teacher, str) else teacher()
    with pytest.raises(GrowthError, match=words) as caught:
        from_weak_teacher(model, **arguments)
    assert caught.value.argument in arguments and str(caught.value.value) in str(arguments)


def test_what_moves_with_the_width_moves_by_itself() -> None:
    assert from_weak_teacher(opt(), hidden_size=64).config.word_embed_proj_dim == 64
    both = {part: {"hidden_size": 64, "num_attention_heads": 8} for part in ("text_config", "vision_config")}
    assert from_weak_teacher(siglip(), config_overrides=both).config.text_config.projection_size == 64
    for name, attribute in (("rwkv", "attention_hidden_size"), ("mamba2", "num_heads"), ("mamba", "time_step_rank")):
        teacher = tiny_teacher("causal-lm", name)
        student = from_weak_teacher(teacher, hidden_size=2 * teacher.config.hidden_size)
        assert getattr(student.config, attribute) >= getattr(teacher.config, attribute)


def test_auto_of_a_model_that_cannot_be_compared_says_so() -> None:
    report = from_weak_teacher(wav2vec2(), hidden_size=48, init="auto").growth_report
    assert (report.preserved is None) is any("could not be compared" in note for note in report.notes)


def test_rows_that_cannot_be_compared_are_refused() -> None:
    model = wav2vec2()
    model.forward = lambda **batch: model(3)  # whatever its inputs are, none of them works
    with pytest.raises(GrowthError, match=r"vocab_size=40: Whether old rows keep their meaning could not be measured"):
        from_weak_teacher(model, vocab_size=40)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny("bert").save_pretrained(tmp_path)
    return tmp_path


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"vocab_size": 70}, {"intermediate_size": 48}])
@pytest.mark.parametrize("init", ["remap", "clone"])
def test_weights_that_do_not_match_the_config(saved: Path, change: dict[str, int], init: str) -> None:
    edit(saved, **change)
    with pytest.raises(GrowthError, match=r"^teacher=.*not of the shapes that its config says. Restore the config"):
        from_weak_teacher(saved, hidden_size=64, init=init)


def test_layers_that_the_checkpoint_lacks_are_named(saved: Path) -> None:
    edit(saved, num_hidden_layers=3)
    report = from_weak_teacher(saved, hidden_size=32).growth_report
    assert len(report.untrained) == 16 and all("layer.2." in name for name in report.untrained)


def test_weights_that_cannot_be_read(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(GrowthError, match=r"^teacher=.*No checkpoint can be loaded from there \(SafetensorError"):
        from_weak_teacher(saved, hidden_size=32)


REMOTE = {"model_type": "surely-unknown", "auto_map": {"AutoConfig": "code.C", "AutoModelForMaskedLM": "code.M"}}


def test_an_unknown_model_type_and_code_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "surely-unknown", "architectures": ["M"]}))
    with pytest.raises(GrowthError, match=r"^teacher=.*model type `surely-unknown`"):
        from_weak_teacher(tmp_path, hidden_size=32)
    edit(tmp_path, **REMOTE)
    with pytest.raises(GrowthError, match=r"^teacher=.*needs code of its own.*then pass trust_remote_code=True"):
        from_weak_teacher(tmp_path, hidden_size=32)
    with pytest.raises(GrowthError, match=r"^teacher=.*does not appear to have a file named code.py"):
        from_weak_teacher(tmp_path, hidden_size=32, trust_remote_code=True)
    (tmp_path / "code.py").write_text("raise RuntimeError('broken on import')\n")
    with pytest.raises(GrowthError, match=r"^teacher=.*RuntimeError: broken on import"):
        from_weak_teacher(tmp_path, hidden_size=32, trust_remote_code=True)


def test_a_teacher_of_one_layer_is_no_special_case() -> None:
    teacher = tiny("bert", num_hidden_layers=1, architectures=["BertForMaskedLM"])
    student = from_weak_teacher(teacher, hidden_size=32, num_hidden_layers=3, init="clone")
    assert student.growth_report.preserved and len(student.config.architectures) == 1
