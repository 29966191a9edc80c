"""The student's config: what is derived from the sizes that were said, and what is refused."""

from typing import Any

import pytest
from transformers import (
    AlbertConfig,
    AutoModelForImageClassification,
    CLIPConfig,
    ConvNextConfig,
    ElectraConfig,
    Gemma4TextConfig,
    GPTBigCodeConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    SwinConfig,
    Zamba2Config,
)

from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError, SetupError
from hf_dwt.growth.config.larger import larger_config
from hf_dwt.growth.config.sizes import size
from tests.models import BUILDERS, tiny

HIDDEN = {"hidden_size": 32}

# (architecture, config values of the teacher, sizes said) -> values that the student's config must have.
DERIVED: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("bert", {}, HIDDEN, {"num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2}),
    ("bert", {}, {"hidden_size": 24, "num_attention_heads": 2}, {"num_attention_heads": 2, "intermediate_size": 48}),
    ("bert", {}, {"hidden_size": 32, "head_dim": 16}, {"num_attention_heads": 2}),
    ("bert", {}, {"hidden_size": 32, "intermediate_size": 40}, {"num_attention_heads": 4, "intermediate_size": 40}),
    ("distilbert", {}, {**HIDDEN, "num_hidden_layers": 3}, {"dim": 32, "n_heads": 4, "hidden_dim": 64, "n_layers": 3}),
    ("electra", {}, HIDDEN, {"embedding_size": 12}),
    ("gpt2", {}, HIDDEN, {"n_embd": 32, "n_head": 4, "n_inner": None}),
    ("gpt2", {"n_inner": 48}, HIDDEN, {"n_inner": 96}),
    ("llama", {}, HIDDEN, {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}),
    ("llama", {}, {"num_attention_heads": 8}, {"hidden_size": 16, "num_key_value_heads": 4, "head_dim": 4}),
    ("llama", {}, {"hidden_size": 20, "num_attention_heads": 5, "num_key_value_heads": 5}, {"num_attention_heads": 5}),
    ("llama", {"num_key_value_heads": 4}, HIDDEN, {"num_attention_heads": 8, "num_key_value_heads": 8}),
    ("qwen3", {}, HIDDEN, {"head_dim": 8, "num_attention_heads": 8, "num_key_value_heads": 4}),
    ("qwen3", {}, {"head_dim": 12}, {"head_dim": 12, "hidden_size": 16, "num_attention_heads": 4}),
    ("t5", {}, {**HIDDEN, "num_hidden_layers": 4}, {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64}),
    ("t5", {"num_decoder_layers": 1}, {"num_hidden_layers": 4}, {"num_layers": 4, "num_decoder_layers": 2}),
    ("t5", {"tie_word_embeddings": False}, HIDDEN, {"scale_decoder_outputs": False}),
    ("bart", {}, HIDDEN, {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_attention_heads": 4}),
    ("bart", {}, {"num_hidden_layers": 3}, {"encoder_layers": 3, "decoder_layers": 3}),
    ("vit", {}, HIDDEN, {"pooler_output_size": 32}),
    ("vit", {"pooler_output_size": 20}, HIDDEN, {"pooler_output_size": 20}),
    ("modernbert", {}, {"num_hidden_layers": 4}, {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    (
        "modernbert",
        {"layer_types": ["sliding_attention", "full_attention"]},
        {"num_hidden_layers": 4},
        {"layer_types": ["sliding_attention"] + ["full_attention"] * 3},
    ),
    ("qwen3", {}, {"num_hidden_layers": 3}, {"layer_types": ["full_attention"] * 3}),
]


@pytest.mark.parametrize(("name", "values", "sizes", "wanted"), DERIVED)
def test_sizes_are_derived(name: str, values: dict[str, Any], sizes: dict[str, Any], wanted: dict[str, Any]) -> None:
    teacher = tiny(name, **values)
    config = from_weak_teacher(teacher, **sizes, init="random").config
    assert {key: getattr(config, key) for key in wanted} == wanted
    assert config.to_dict() != teacher.config.to_dict()


def test_an_embedding_as_wide_as_the_model_stays_so() -> None:
    """A fixed width would put a new, random projection between embedding and model."""
    for teacher, name, wanted in [
        (ElectraConfig(embedding_size=256, hidden_size=256, num_attention_heads=4), "embedding_size", 512),
        (ElectraConfig(embedding_size=128, hidden_size=256, num_attention_heads=4), "embedding_size", 128),
        (AlbertConfig(embedding_size=64, hidden_size=256, num_attention_heads=4), "embedding_size", 64),
        (OPTConfig(hidden_size=256, word_embed_proj_dim=256, num_attention_heads=4), "word_embed_proj_dim", 512),
        (OPTConfig(hidden_size=256, word_embed_proj_dim=128, num_attention_heads=4), "word_embed_proj_dim", 128),
    ]:
        assert getattr(larger_config(teacher, {"hidden_size": 512}), name) == wanted
    said = larger_config(
        ElectraConfig(embedding_size=256, num_attention_heads=4), {"hidden_size": 512}, {"embedding_size": 300}
    )
    assert said.embedding_size == 300


def test_overrides_win_and_take_either_name() -> None:
    teacher = tiny("gpt2")
    assert from_weak_teacher(teacher, config_overrides={"n_embd": 32}).config.n_head == 4
    assert from_weak_teacher(teacher, config_overrides={"hidden_size": 32}).config.n_head == 4
    changed = from_weak_teacher(teacher, config_overrides={"n_positions": 50, "resid_pdrop": 0.5}).config
    assert (changed.n_positions, changed.resid_pdrop) == (50, 0.5)
    wider = from_weak_teacher(tiny("bart"), hidden_size=32, config_overrides={"decoder_attention_heads": 2}).config
    assert (wider.encoder_attention_heads, wider.decoder_attention_heads) == (4, 2)
    listed = {"layer_types": ["full_attention"] * 3}
    assert (
        from_weak_teacher(tiny("modernbert"), num_hidden_layers=3, config_overrides=listed).config.layer_types
        == (listed["layer_types"])
    )


def test_parts_of_a_composite_config_grow_by_overrides() -> None:
    teacher = CLIPConfig()
    grown = larger_config(teacher, {}, {"text_config": {"num_hidden_layers": 14}})
    assert grown.text_config.num_hidden_layers == 14
    assert grown.text_config.hidden_size == teacher.text_config.hidden_size
    assert teacher.text_config.num_hidden_layers == 12
    with pytest.raises(GrowthError, match=r"'text_config.num_hiden_layers'.*Did you mean 'num_hidden_layers'"):
        larger_config(teacher, {}, {"text_config": {"num_hiden_layers": 14}})


# (architecture, arguments, argument and value that the message opens with, what it says, the fix)
REFUSED: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("bert", {"hidden_size": 20}, "hidden_size=20: ", "num_attention_heads would become 2.5", "Use 16 or 24, or say"),
    ("llama", {"hidden_size": 20}, "hidden_size=20: ", "would become", "Use 16 or 24, or say"),
    ("llama", {"num_attention_heads": 5}, "num_attention_heads=5: ", "num_key_value_heads would", "Use 4 or 6, or"),
    ("bert", {"hidden_size": 8}, "hidden_size=8: ", "smaller than the teacher's 16", "Use 16 or more."),
    ("gpt2", {"num_hidden_layers": 1}, "num_hidden_layers=1: ", "smaller than the teacher's 2", "Use 2 or more."),
    ("bert", {"intermediate_size": 8}, "intermediate_size=8: ", "smaller than the teacher's 32", "Use 32 or more."),
    (
        "gpt2",
        {"intermediate_size": 8},
        "intermediate_size=8: transformer.h.0.mlp.c_fc",
        "(16, 64)",
        "at least as large",
    ),
    (
        "bert",
        {"num_attention_heads": 4},
        "num_attention_heads=4: ",
        "shrink from 8 to 4",
        "hidden_size=32, or at most 2",
    ),
    ("bert", {"hidden_size": 32, "num_attention_heads": 3}, "hidden_size=32: ", "3 heads do not", "Use 30 or 33"),
    ("bert", {"hidden_size": 32, "head_dim": 12}, "head_dim=12: ", "does not divide", "Use 24 or 36"),
    ("bert", {"hidden_size": 32, "head_dim": 16, "num_attention_heads": 4}, "head_dim=16: ", "8 wide", "Use 8"),
    (
        "llama",
        {"num_attention_heads": 8, "num_key_value_heads": 3},
        "num_key_value_heads=3: ",
        "divide",
        "Use 2 or 4.",
    ),
    ("t5", {"head_dim": 4}, "head_dim=4: ", "smaller than the teacher's 8", "Use 8 or more."),
    ("bert", {"num_key_value_heads": 2}, "num_key_value_heads=2: ", "stores no such size", "config_overrides"),
    ("bert", {"hidden_size": 32.0}, "hidden_size=32.0: ", "positive integer", "whole number"),
    ("bert", {"hidden_size": True}, "hidden_size=True: ", "positive integer", "whole number"),
    ("bert", {"hidden_size": 0}, "hidden_size=0: ", "positive integer", "whole number"),
    (
        "bert",
        {"config_overrides": {"hiden_size": 32}},
        "config_overrides={'hiden_size': 32}",
        "BertConfig",
        "'hidden_size'",
    ),
    (
        "bert",
        {"hidden_size": 32, "config_overrides": {"hidden_size": 48}},
        "config_overrides={'hidden_size': 48}: The argument hidden_size=32",
        "something else",
        "once",
    ),
    (
        "bert",
        {"config_overrides": {"vocab_size": 60}},
        "config_overrides={'vocab_size': 60}: ",
        "smaller than the teacher's 64",
        "leave it out, or use 64",
    ),
    (
        "bart",
        {"config_overrides": {"decoder_layers": 1}},
        "config_overrides={'decoder_layers': 1}: ",
        "smaller than the teacher's 2",
        "Use 2",
    ),
    (
        "bert",
        {"config_overrides": {"hidden_act": 3}},
        "config_overrides={'hidden_act': 3}",
        "BertConfig refuses",
        "config_overrides",
    ),
    (
        "electra",
        {"config_overrides": {"embedding_size": 16}},
        "config_overrides={'embedding_size'",
        "no place for",
        "widths",
    ),
    (
        "bert",
        {"init": "remapp"},
        "init='remapp': is unknown.",
        "Did you mean 'remap'?",
        "Available: remap, clone, pad, ",
    ),
    (
        "bert",
        {"rest": "zero"},
        "rest='zero': is unknown.",
        "Did you mean 'zeros'?",
        "Available: init, zeros; or a function.",
    ),
]


@pytest.mark.parametrize(("name", "arguments", "opening", "problem", "fix"), REFUSED)
def test_refused_in_words(name: str, arguments: dict[str, Any], opening: str, problem: str, fix: str) -> None:
    with pytest.raises(GrowthError) as caught:
        from_weak_teacher(tiny(name), **arguments)
    message = str(caught.value)
    assert message.startswith(opening), message
    assert problem in message and fix in message, message


def test_a_decoder_that_cannot_keep_its_ratio_is_refused() -> None:
    with pytest.raises(GrowthError, match=r"num_hidden_layers=3: .*Say config_overrides=\{'num_decoder_layers'"):
        from_weak_teacher(tiny("t5", num_decoder_layers=1), num_hidden_layers=3)
    said = {"num_decoder_layers": 2}
    grown = from_weak_teacher(tiny("t5", num_decoder_layers=1), num_hidden_layers=3, config_overrides=said)
    assert (grown.config.num_layers, grown.config.num_decoder_layers) == (3, 2)


def test_a_composite_config_is_refused_with_the_override_to_use() -> None:
    with pytest.raises(GrowthError, match=r"hidden_size=1024: .*config_overrides=\{'text_config': \{'hidden_size'"):
        larger_config(CLIPConfig(), {"hidden_size": 1024})


def test_a_size_without_effect_is_refused() -> None:
    """Swin derives its hidden size from embed_dim: a student that did not grow would pass for one that did."""
    config = SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    teacher = AutoModelForImageClassification.from_config(config)
    with pytest.raises(GrowthError, match=r"hidden_size=32: No parameter of SwinForImageClassification depends"):
        from_weak_teacher(teacher, hidden_size=32)
    grown = from_weak_teacher(teacher, config_overrides={"embed_dim": 16})
    assert grown.config.hidden_size == 32
    assert grown.num_parameters() > teacher.num_parameters()


def test_an_architecture_without_a_hidden_size_is_left_alone() -> None:
    config = larger_config(ConvNextConfig(), {}, {"depths": [3, 3, 12, 3]})
    assert config.depths == [3, 3, 12, 3]
    assert not hasattr(config, "embedding_size")


def test_layers_of_different_sizes_are_refused() -> None:
    config = Gemma4TextConfig(per_layer_config={5: {"num_key_value_heads": 2}})
    with pytest.raises(GrowthError, match=r"hidden_size=4608: Gemma4TextConfig gives its layers different sizes"):
        larger_config(config, {"hidden_size": 4608})
    # Widths of heads are kept, so that layers may differ in them.
    grown = larger_config(Gemma4TextConfig(), {"hidden_size": 4608}).to_dict()
    assert (
        grown["num_attention_heads"] == 16
        and grown["per_layer_config"] == Gemma4TextConfig().to_dict()["per_layer_config"]
    )


def test_several_problems_are_reported_together() -> None:
    with pytest.raises(SetupError, match="2 problems") as caught:
        from_weak_teacher(tiny("bert"), num_key_value_heads=2, config_overrides={"hiden_size": 3})
    assert {problem.argument for problem in caught.value.problems} == {"num_key_value_heads", "config_overrides"}


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_nearest_legal_sizes_are_legal(name: str) -> None:
    """The fix in the message is itself accepted."""
    with pytest.raises(GrowthError, match="Use 16 or 24"):
        from_weak_teacher(tiny(name), hidden_size=17)
    for legal in (16, 24):
        assert size(from_weak_teacher(tiny(name), hidden_size=legal, init="random").config, "hidden_size") == legal


def test_a_single_key_value_head_serves_any_number_of_heads() -> None:
    wider = larger_config(GPTBigCodeConfig(n_embd=32, n_head=4), {"hidden_size": 48})
    assert (wider.n_head, wider.num_key_value_heads) == (6, 1)
    with pytest.raises(GrowthError, match="num_key_value_heads would become 4.5"):
        larger_config(LlamaConfig(hidden_size=36, num_attention_heads=12, num_key_value_heads=3), {"hidden_size": 54})


def test_a_constant_list_of_layers_is_extended() -> None:
    real = larger_config(Zamba2Config(), {"num_hidden_layers": 60})
    assert real.layers_block_type == Zamba2Config().layers_block_type + ["linear_attention"] * 6


def test_a_size_that_the_class_overrules_is_refused() -> None:
    class Fixed(PreTrainedConfig):
        model_type = "fixed"
        hidden_size: int = 16

        def __post_init__(self, **kwargs: Any) -> None:
            self.hidden_size = 16
            super().__post_init__(**kwargs)

    with pytest.raises(GrowthError, match="hidden_size=32: Fixed derives it"):
        larger_config(Fixed(), {"hidden_size": 32})


def test_values_that_follow_from_each_other_are_kept() -> None:
    """Either can be left out, since the other brings it back; leaving out both would lose both."""

    class Mutual(PreTrainedConfig):
        model_type = "mutual"
        hidden_size: int = 16
        window: int | None = None
        half_window: int | None = None

        def __post_init__(self, **kwargs: Any) -> None:
            self.window = self.window or 2 * (self.half_window or 4)
            self.half_window = self.half_window or self.window // 2
            super().__post_init__(**kwargs)

    grown = larger_config(Mutual(window=20), {"hidden_size": 32})
    assert (grown.hidden_size, grown.window, grown.half_window) == (32, 20, 10)
