"""Heads that differ by their place alone: under ALiBi the teacher's go where the student's slopes are theirs."""

import functools

import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.coverage.measure import tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError
from hf_dwt.growth.proxy.batches import random_batch
from tests.growth.test_exact import apart


@functools.cache
def teacher_of(name: str) -> PreTrainedModel:
    return tiny_teacher("causal-lm", name)


@pytest.mark.parametrize("hidden_size", [64, 96, 128])
@pytest.mark.parametrize("name", ["bloom", "mpt"])
def test_the_student_computes_what_the_teacher_does(name: str, hidden_size: int) -> None:
    student = from_weak_teacher(teacher_of(name), hidden_size=hidden_size, init="clone")
    assert apart(teacher_of(name), student) < 2e-5
    # Counter-case: the head that holds the teacher's first one is read, and no other copy of it is.
    name, out = next((n, m) for n, m in student.named_modules() if n.endswith(("self_attention.dense", "out_proj")))
    wide = out.weight.view(hidden_size, -1, 8)
    times = 2 if hidden_size < 128 else 4
    assert not wide[:, : times - 1].any() and wide[:, times - 1].all()
    with torch.no_grad():
        wide[:, times - 1] *= 2
    assert apart(teacher_of("bloom" if "self_attention" in name else "mpt"), student) > 1e-3


@pytest.mark.parametrize("hidden_size", [48, 64])
def test_other_ratios_are_padded_where_the_embeddings_have_no_norm(hidden_size: int) -> None:
    student = from_weak_teacher(teacher_of("mpt"), hidden_size=hidden_size, init="pad")
    assert apart(teacher_of("mpt"), student) < 2e-5
    with pytest.raises(GrowthError, match="outputs differ"):
        from_weak_teacher(teacher_of("bloom"), hidden_size=hidden_size, init="pad")


def test_heads_that_are_not_read_learn_all_the_same() -> None:
    student = from_weak_teacher(teacher_of("bloom"), hidden_size=64, init="clone").train()
    optimiser = torch.optim.SGD(student.parameters(), lr=0.01)
    seen = torch.zeros(8, dtype=torch.bool)
    for seed in range(2):
        batch = random_batch(student, seed)
        optimiser.zero_grad()
        student(**batch, labels=batch["input_ids"]).loss.backward()
        gradient = student.transformer.h[0].self_attention.query_key_value.weight.grad.view(8, -1)
        seen |= gradient.any(1)
        optimiser.step()
        assert seen.all().item() is (seed == 1)


def test_cached_generation_and_a_second_growth_are_the_teachers() -> None:
    teacher, student = teacher_of("bloom"), from_weak_teacher(teacher_of("bloom"), hidden_size=64, init="clone")
    ids = torch.randint(4, 60, (2, 5), generator=torch.Generator().manual_seed(3))
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(teacher.generate(ids, **options), student.generate(ids, **options))
    assert apart(teacher, from_weak_teacher(student, hidden_size=128, num_hidden_layers=3, init="clone")) < 2e-5
