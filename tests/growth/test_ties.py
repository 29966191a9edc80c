"""Heads that share the table of tokens: untied they start as its copy; a head of its own is not dropped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.coverage.measure import tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError
from hf_dwt.growth.strategies import INITS
from hf_dwt.growth.verify.compare import compare
from tests.models import BUILDERS, VOCAB, batch, tiny

UNTIE = {"config_overrides": {"tie_word_embeddings": False}}
TIED = [name for name in BUILDERS if name not in ("t5", "vit") and tiny(name).config.tie_word_embeddings]
TIED.remove("bert-token-classification")  # it has no head to tie


def logits(model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize(
    ("init", "name"),
    [
        *(("clone", name) for name in TIED),
        *(("remap", name) for name in TIED[::2]),
        ("auto", "bert"),
        ("auto", "gpt2"),
    ],
)
def test_an_untied_head_starts_as_what_it_was_tied_to(init: str, name: str, tmp_path: Path) -> None:
    teacher, sizes = tiny(name), {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": VOCAB + 6}
    student = from_weak_teacher(teacher, **sizes, new_rows="normal", init=init, **UNTIE)
    head, table = student.get_output_embeddings().weight, student.get_input_embeddings().weight
    width = teacher.get_input_embeddings().weight.shape[1]
    assert head is not table and not student.config.tie_word_embeddings
    source = student.growth_report.parameters[next(key for key, p in student.named_parameters() if p is head)]
    if init == "remap":  # as a whole, where the teacher has no numbers too
        assert torch.equal(head, table) and source.copied == VOCAB * width
        assert torch.equal(head[:VOCAB, :width], teacher.get_input_embeddings().weight)
    else:
        inputs = batch(teacher)
        assert torch.allclose(logits(student, inputs)[..., :VOCAB], logits(teacher, inputs), atol=1e-4)
        assert student.growth_report.preserved and source.copied == VOCAB * table.shape[1]
    with torch.no_grad():
        table.add_(1.0)  # counter-case: they are two
    assert not torch.allclose(head, table)
    student.save_pretrained(tmp_path)
    again, info = type(student).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and torch.equal(again.get_output_embeddings().weight, head)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_padding_unties_at_any_ratio(name: str) -> None:
    teacher = tiny(name)
    untied = from_weak_teacher(teacher, hidden_size=24, init="pad", **UNTIE)
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight
    inputs = batch(teacher)
    assert torch.allclose(logits(untied, inputs), logits(teacher, inputs), atol=1e-4)


@pytest.mark.parametrize("init", ["clone", "remap"])
@pytest.mark.parametrize(
    ("task", "name", "flags"),
    [
        ("causal-lm", "gemma3", {"tie_word_embeddings": False}),
        ("seq2seq-lm", "encoder-decoder", {"decoder": {"tie_word_embeddings": False}}),
    ],
)
def test_models_of_several_parts_are_untied(task: str, name: str, flags: dict[str, Any], init: str) -> None:
    teacher = tiny_teacher(task, name)
    assert len(dict(teacher.named_parameters(remove_duplicate=False))) > len(dict(teacher.named_parameters()))
    student = from_weak_teacher(teacher, config_overrides=flags, init=init)
    assert student.num_parameters() > teacher.num_parameters() and student.growth_report.fresh == 0
    assert compare(teacher, student).preserved
    with torch.no_grad():  # counter-case
        getattr(student, "decoder", student).get_output_embeddings().weight.mul_(1.5)
    assert not compare(teacher, student).preserved


def test_a_flag_that_unties_nothing_is_refused() -> None:
    with pytest.raises(GrowthError, match=r"^config_overrides=.*text_config.*ties its parameters all the same"):
        from_weak_teacher(
            tiny_teacher("causal-lm", "gemma3"), config_overrides={"text_config": {"tie_word_embeddings": False}}
        )
    bare = tiny("bert").bert  # counter-case: without a head there is nothing to tie
    assert not from_weak_teacher(bare, hidden_size=32, **UNTIE).config.tie_word_embeddings


@pytest.mark.parametrize("init", INITS)
def test_a_head_of_its_own_is_not_dropped_for_the_table(init: str) -> None:
    with pytest.raises(
        GrowthError, match=r"^config_overrides={'tie_word_embeddings': True}: The teacher's lm_head.weight"
    ):
        from_weak_teacher(tiny("llama"), hidden_size=32, init=init, config_overrides={"tie_word_embeddings": True})


@pytest.mark.parametrize("init", INITS)
def test_an_attribute_that_the_class_sets_itself_is_not_taken_in_silence(init: str) -> None:
    """T5's class ties in any case."""
    with pytest.raises(GrowthError, match=r"^config_overrides={'tie_word_embeddings': False}: T5.* made it True"):
        from_weak_teacher(tiny("t5"), hidden_size=32, init=init, **UNTIE)
