"""A refusal says where the student first differs and why, by measurement; other causes get other sentences."""

import inspect

import pytest
import torch

from benchmarks.coverage.measure import arguments, tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError, GrowthNotPreservedError
from hf_dwt.growth.building import build
from hf_dwt.growth.checkpoint import open_teacher
from hf_dwt.growth.config.larger import larger_config
from hf_dwt.growth.proxy.batches import random_batch
from hf_dwt.growth.proxy.model import Proxies
from hf_dwt.growth.strategies.pad import plan_padding
from hf_dwt.growth.verify.diagnosis import why_not_padded
from hf_dwt.growth.width.padding import kept
from hf_dwt.growth.width.residual_stream import find_roles
from tests.growth.test_exact import apart

REFUSED = [
    ("masked-lm", "bert", "pad", "bert.encoder.layer.0.attention.output.LayerNorm", "post-norm"),
    ("causal-lm", "openai-gpt", "pad", "transformer.h.0.ln_2", "post-norm"),
    ("causal-lm", "bamba", "pad", "model.layers.0.mamba.norm", "128 channels instead of 64"),
    ("causal-lm", "exaone4", "pad", "model.layers.0.self_attn.q_norm", "the eps of the norms of the residual stream"),
    ("image-classification", "dinov2", "pad", "dinov2.encoder.layer.0.norm2", "layer_scale1 scales each channel"),
    ("image-classification", "clip", "pad", "vision_model.encoder.layers.0.layer_norm1", "post-norm"),
    ("causal-lm", "minimax", "depth", "model.layers.0", "normalises the residual stream"),
    ("causal-lm", "beam", "depth", "model.layers.1", "multiplies it by 0."),
    ("masked-lm", "fnet", "depth", "fnet.encoder.layer.0", "still changes what it reads"),
    ("masked-lm", "albert", "depth", "albert.encoder", "calls this one 4 times instead of 2"),
    ("causal-lm", "minicpm3", "depth", "model.layers.0.post_attention_layernorm", "the number of layers decides"),
    ("masked-lm", "xmod", "depth", "roberta.encoder.layer.1.output.adapter", "whose weight moves behind new layers"),
    ("causal-lm", "gpt_neox_japanese", "depth", "gpt_neox_japanese.layers.1", "it has attention.dense_bias"),
    ("masked-lm", "squeezebert", "depth", "transformer.encoder.layers", "No layer of it is called"),
]
EXACT = [
    ("causal-lm", "rwkv", "depth"),  # a norm that the first layer alone has is in no new layer
    ("masked-lm", "deberta", "depth"),  # a norm that is no nn.LayerNorm
    ("image-classification", "hiera", "depth"),  # first layers of stages pool, which no new one does
    ("image-classification", "resnet", "depth"),  # layers in a Sequential
    ("image-classification", "resnet", "pad"),  # a model without a table
    ("image-classification", "swin", "width"),  # a norm over joined patches
    ("image-classification", "siglip", "width"),  # a learned query, which a matrix reads
    ("image-classification", "mobilenet_v2", "width"),  # many batch norms
    ("causal-lm", "nanochat", "pad"),  # norms without weights
    ("causal-lm", "dbrx", "pad"),  # an eps that is in no config
    ("causal-lm", "qwen3_next", "pad"),  # an eps that norms within layers share
    ("causal-lm", "gpt_neox_japanese", "pad"),  # a bias of the stream in a module without a matrix
]


@pytest.mark.parametrize(("task", "name", "growth", "where", "why"), REFUSED, ids=[f"{c[1]}-{c[2]}" for c in REFUSED])
def test_a_refusal_names_the_place_and_the_fact(task: str, name: str, growth: str, where: str, why: str) -> None:
    teacher = tiny_teacher(task, name)
    with pytest.raises(GrowthError) as found:
        from_weak_teacher(teacher, **arguments(task, growth, teacher.config))
    assert found.value.problem.startswith(where) and why in found.value.problem
    assert found.value.argument in inspect.signature(from_weak_teacher).parameters
    others = {other for *_, other in REFUSED} - {why}
    assert not [other for other in others if other in found.value.problem]
    assert "init=" in found.value.fix or "depth=" in found.value.fix or "sizes" in found.value.fix


@pytest.mark.parametrize(("task", "name", "growth"), EXACT)
def test_what_no_fact_forbids_is_exact(task: str, name: str, growth: str) -> None:
    teacher = tiny_teacher(task, name)
    student = from_weak_teacher(teacher, **arguments(task, growth, teacher.config))
    assert student.num_parameters() > teacher.num_parameters() and apart(teacher, student) < 1e-4
    with torch.no_grad():  # counter-case
        matrix = next(p for p in student.parameters() if p.ndim > 1)
        matrix.add_(torch.randn(matrix.shape, generator=torch.Generator().manual_seed(0)), alpha=0.2)
    assert apart(teacher, student) > 1e-4


def test_a_cause_that_is_not_there_is_not_said() -> None:
    """One matrix of an exact student is off: what reads behind it is named, and no norm is blamed."""
    teacher = tiny_teacher("causal-lm", "gpt2")
    student = from_weak_teacher(teacher, **arguments("causal-lm", "pad", teacher.config))
    source = open_teacher(teacher, None, {})
    larger = build(type(teacher), larger_config(teacher.config, {"hidden_size": 48}), "meta")
    plan, width = plan_padding(larger, source, proxies=Proxies(source.skeleton, larger.config)), (32, 48)
    norms = find_roles(teacher, random_batch(teacher, 0), 32).norms
    assert why_not_padded(teacher, student, plan, kept, width, norms, 0) is None
    with torch.no_grad():
        student.transformer.h[1].mlp.c_fc.weight[:32] *= 1.5
    found = why_not_padded(teacher, student, plan, kept, width, norms, 0)
    assert found is not None and found[0] == "transformer.h.1.mlp.c_proj"
    assert (
        found[1]
        == "It is the first module that reads something else than the teacher's behind transformer.h.1.mlp.c_fc."
    )


def test_the_teacher_stays_in_its_mode() -> None:
    teacher = tiny_teacher("masked-lm", "bert").train()
    with pytest.raises(GrowthNotPreservedError, match="post-norm"):
        from_weak_teacher(teacher, hidden_size=48, init="pad")
    assert teacher.training


def test_a_matrix_behind_a_norm_without_weight_is_scaled_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_teacher("causal-lm", "deepseek_v4")
    found = find_roles(teacher, random_batch(teacher, 0), 32).within
    assert {"model.layers.*.attn_hc", "model.layers.*.ffn_hc"} <= found
    llama = tiny_teacher("causal-lm", "llama")
    assert not find_roles(llama, random_batch(llama, 0), 32).within
    monkeypatch.setattr("hf_dwt.growth.width.residual_stream._normed_within", lambda *_: frozenset())
    with pytest.raises(GrowthNotPreservedError):
        from_weak_teacher(teacher, **arguments("causal-lm", "pad", teacher.config))
