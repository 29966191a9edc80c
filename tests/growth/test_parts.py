"""Heads alone, key/value heads alone, the FFN alone: exact, at integer and other ratios."""

import itertools
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError
from hf_dwt.growth.config.sizes import size
from hf_dwt.growth.proxy.model import proxy
from tests.growth.test_exact import TWELVE, apart, teacher_of

STORED_WIDTH = ("qwen3", "gemma3_text", "mixtral", "llama", "t5")
INITS = ("clone", "pad")  # of which "auto" takes one


@pytest.mark.parametrize(("name", "init"), [*itertools.product(TWELVE, INITS), ("llama", "auto")])
def test_the_ffn_alone(name: str, init: str) -> None:
    teacher = teacher_of(name)
    old = size(teacher.config, "intermediate_size") or 128  # GPT-2 stores none: four times its width
    for wanted in (2 * old, old + 12):
        student = from_weak_teacher(teacher, intermediate_size=wanted, init=init)
        assert size(student.config, "intermediate_size") == wanted
        assert student.num_parameters() > teacher.num_parameters()
        assert apart(teacher, student) < 2e-5 and student.growth_report.preserved


@pytest.mark.parametrize(("name", "init"), [*itertools.product(STORED_WIDTH, INITS), ("qwen3", "auto")])
def test_heads_alone_where_their_width_is_stored(name: str, init: str) -> None:
    teacher = teacher_of(name)
    ratios = (2, 1.5) if name in ("qwen3", "t5") else (2,)  # the others' configs want the hidden size divided
    for ratio in ratios:
        heads = int(ratio * size(teacher.config, "num_attention_heads"))
        more = {"head_dim": 8} if name == "mixtral" else {}
        student = from_weak_teacher(teacher, num_attention_heads=heads, init=init, **more)
        assert size(student.config, "num_attention_heads") == heads
        assert size(student.config, "hidden_size") == 32
        assert student.num_parameters() > teacher.num_parameters()
        assert apart(teacher, student) < 2e-5 and student.growth_report.preserved


BASE = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
GROUPED = {
    "llama": lambda: proxy(LlamaForCausalLM, LlamaConfig(**BASE), 0),
    "qwen3": lambda: proxy(Qwen3ForCausalLM, Qwen3Config(**BASE, head_dim=8), 0),
    "phi3": lambda: proxy(Phi3ForCausalLM, Phi3Config(**BASE), 0),  # fused: [query | key | key]
}
REGROUPED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"num_key_value_heads": 8}),
    ("llama", {"num_attention_heads": 16, "num_key_value_heads": 4}),
    ("llama", {"num_attention_heads": 16, "num_key_value_heads": 16}),
    ("llama", {"num_attention_heads": 32, "num_key_value_heads": 8}),
    ("llama", {"hidden_size": 128, "num_key_value_heads": 4}),
    ("llama", {"hidden_size": 128, "num_key_value_heads": 16}),
    ("qwen3", {"num_attention_heads": 12, "num_key_value_heads": 4}),
    ("qwen3", {"num_attention_heads": 16, "num_key_value_heads": 16}),
    ("phi3", {"num_key_value_heads": 8}),
    ("phi3", {"hidden_size": 128, "num_key_value_heads": 4}),
    ("phi3", {"hidden_size": 128, "num_key_value_heads": 16}),
]


@pytest.mark.parametrize(
    ("name", "sizes", "init"),
    [*((*case, "clone") for case in REGROUPED), *((*case, "pad") for case in REGROUPED[::2])],
)
def test_query_heads_stay_with_the_keys_they_read(name: str, sizes: dict[str, int], init: str) -> None:
    """Groups of query heads that share keys become larger or smaller."""
    teacher = GROUPED[name]()
    student = from_weak_teacher(teacher, **sizes, init=init)
    assert student.config.num_key_value_heads == sizes["num_key_value_heads"]
    assert apart(teacher, student) < 2e-5 and student.growth_report.preserved
    # Counter-case: keys of two groups in each other's place.
    weights = student.model.layers[0].self_attn
    matrix = weights.qkv_proj.weight if name == "phi3" else weights.k_proj.weight
    end = matrix.shape[0] - 8 * sizes["num_key_value_heads"] if name == "phi3" else matrix.shape[0]
    with torch.no_grad():
        matrix[:end] = matrix[:end].roll(end // 2, 0) if name != "phi3" else matrix[:end].roll(8, 0)
    assert apart(teacher, student) > 1e-3


def test_groups_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(GrowthError, match="num_key_value_heads=6: Key/value heads must divide the 8 heads"):
        from_weak_teacher(GROUPED["llama"](), num_key_value_heads=6, init="clone")
    with pytest.raises(GrowthError, match="LlamaConfig refuses these values"):
        from_weak_teacher(GROUPED["llama"](), num_attention_heads=12, num_key_value_heads=4, init="clone")
