"""The paper's remapping: what is copied, from which layer, and what stands in the remainder."""

import pytest
import torch
from torch import nn

from hf_dwt import from_weak_teacher
from hf_dwt.growth.origins import source_name
from tests.growth.oracle import expected, mismatches
from tests.models import BUILDERS, batch, tiny

ARCHITECTURES = sorted(BUILDERS)
GROWTHS = {
    "uneven": {"hidden_size": 24, "num_hidden_layers": 4},
    "depth": {"num_hidden_layers": 5},
    "width": {"hidden_size": 32},
    "ffn": {"intermediate_size": 72},
}


@pytest.mark.parametrize(
    ("name", "growth"),
    [
        *((name, "uneven") for name in ARCHITECTURES),
        *((name, growth) for name in ("bert", "gpt2", "llama", "t5") for growth in GROWTHS if growth != "uneven"),
    ],
)
def test_overlap_is_the_teachers_and_the_student_runs(name: str, growth: str) -> None:
    teacher = tiny(name)
    student = from_weak_teacher(teacher, **GROWTHS[growth])
    assert student.num_parameters() > teacher.num_parameters()
    assert mismatches(name, student, teacher) == []
    # Counter-case: the values come from this teacher, not from any other of its shape.
    assert mismatches(name, student, tiny(name, seed=1)) == [n for n, _ in student.named_parameters()]
    output = student(**batch(student))
    assert torch.isfinite(output.loss)
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_remainder_is_the_own_initialisation_or_zero(name: str) -> None:
    teacher, sizes = tiny(name), {"hidden_size": 24, "num_hidden_layers": 3}
    kept = from_weak_teacher(teacher, **sizes, rest="init", seed=3)
    zeroed = dict(from_weak_teacher(teacher, **sizes, rest="zeros", seed=3).named_parameters())
    own = dict(from_weak_teacher(teacher, **sizes, init="random", seed=3).named_parameters())
    weights = 0
    for key, parameter in kept.named_parameters():
        outside = ~expected(name, key, parameter.detach(), teacher)[1]
        assert torch.equal(parameter[outside], own[key][outside])
        assert not zeroed[key][outside].any()
        if parameter.ndim == 2 and outside.any():
            assert parameter[outside].any()
            weights += 1
    assert weights > 4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_same_size_is_the_teacher(name: str) -> None:
    teacher = tiny(name)
    student = from_weak_teacher(teacher)
    inputs = batch(teacher)
    with torch.no_grad():
        assert torch.equal(student(**inputs).logits, teacher(**inputs).logits)
        assert not torch.equal(from_weak_teacher(teacher, init="random")(**inputs).logits, teacher(**inputs).logits)
    # Saving says these two of every model.
    known = {"architectures": student.config.architectures, "dtype": "float32"}
    assert student.config.to_dict() == {**teacher.config.to_dict(), **known}


@pytest.mark.parametrize("name", ["llama", "qwen3", "t5"])
def test_heads_alone_grow_where_their_width_is_stored(name: str) -> None:
    teacher = tiny(name, head_dim=8) if name == "llama" else tiny(name)
    heads = teacher.config.num_attention_heads
    student = from_weak_teacher(teacher, num_attention_heads=2 * heads)
    assert student.config.hidden_size == teacher.config.hidden_size
    assert student.config.num_attention_heads == 2 * heads
    assert mismatches(name, student, teacher) == []
    assert student.num_parameters() > teacher.num_parameters()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tied_weights_stay_tied(name: str) -> None:
    teacher = tiny(name)
    student = from_weak_teacher(teacher, hidden_size=32)

    def ties(model: nn.Module) -> set[frozenset[str]]:
        names: dict[int, set[str]] = {}
        for key, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(parameter.data_ptr(), set()).add(key)
        return {frozenset(group) for group in names.values() if len(group) > 1}

    assert ties(student) == ties(teacher)
    # Three of these architectures tie nothing (a classifier has no output vocabulary; the tiny Llama is untied).
    assert bool(ties(student)) is (name not in ("bert-token-classification", "vit", "llama"))


def test_an_untied_teacher_stays_untied() -> None:
    student = from_weak_teacher(tiny("gpt2", tie_word_embeddings=False), hidden_size=32)
    assert student.lm_head.weight is not student.transformer.wte.weight
    assert not torch.equal(student.lm_head.weight, student.transformer.wte.weight)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_learns(name: str) -> None:
    student = from_weak_teacher(tiny(name), hidden_size=32, num_hidden_layers=4).train()
    student(**batch(student)).loss.backward()
    assert [key for key, p in student.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_zeros_leave_most_of_the_remainder_without_gradient() -> None:
    """Why `rest` is "init" by default; and the counter-case to the test above."""
    share = {}
    for rest in ("init", "zeros"):
        student = from_weak_teacher(tiny("llama"), hidden_size=32, rest=rest)
        student(**batch(student)).loss.backward()
        layers = [p for key, p in student.named_parameters() if ".layers." in key and p.ndim == 2]
        share[rest] = sum((p.grad == 0).sum().item() for p in layers) / sum(p.numel() for p in layers)
    assert share["init"] < 0.01
    assert share["zeros"] > 0.5


def test_persistent_buffers_are_copied() -> None:
    teacher = tiny("bert")
    teacher.bert.register_buffer("seen", torch.tensor([5.0]))
    student_class = type(teacher)

    class WithBuffer(student_class):  # type: ignore[valid-type, misc]
        def __init__(self, config: object) -> None:
            super().__init__(config)
            self.bert.register_buffer("seen", torch.zeros(1))
            self.bert.register_buffer("passing", torch.zeros(1), persistent=False)

    teacher.__class__ = WithBuffer
    teacher.bert.register_buffer("passing", torch.tensor([5.0]), persistent=False)
    student = from_weak_teacher(teacher, hidden_size=32)
    assert student.bert.seen.item() == 5.0
    assert student.bert.passing.item() == 0.0


def test_source_name_changes_the_index_of_layer_lists_only() -> None:
    teacher = tiny("t5")
    assert source_name("encoder.block.7.layer.1.layer_norm.weight", teacher, {}) == (
        "encoder.block.1.layer.1.layer_norm.weight"
    )
    sequence = nn.Sequential(nn.Linear(1, 1))
    assert source_name("3.weight", sequence, {}) == "3.weight"
