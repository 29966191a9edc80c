"""Teachers whose parameters are not those of their class: weights on disk, parts of models, odd layers."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks.coverage.measure import tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError
from tests.models import batch, tiny


@pytest.mark.parametrize("init", ["clone", "remap", "auto"])
def test_weights_that_are_not_in_memory_are_refused(init: str, tmp_path: Path) -> None:
    base, away = tmp_path / "base", {"device_map": {"": "disk"}, "offload_folder": str(tmp_path)}
    tiny("llama").save_pretrained(base)
    nowhere = LlamaForCausalLM(tiny("llama").config).to("meta")
    for teacher, loading in ((base, away), (LlamaForCausalLM.from_pretrained(base, **away), {}), (nowhere, {})):
        with pytest.raises(GrowthError, match=r"^teacher=.*are not in memory.*without device_map"):
            from_weak_teacher(teacher, hidden_size=32, init=init, **loading)
    assert from_weak_teacher(base, hidden_size=32, init=init, device_map="cpu").growth_report.copied


@pytest.mark.parametrize("init", ["remap", "clone"])
def test_a_part_of_a_model_may_lack_what_its_class_builds(init: str) -> None:
    """A task's encoder has no pooler: the student's is no teacher's, as of a checkpoint without one."""
    encoder = tiny("bert").bert
    student = from_weak_teacher(encoder, vocab_size=70, hidden_size=32, init=init)
    report = student.growth_report
    assert report.untrained == ("pooler.dense.bias", "pooler.dense.weight") and encoder.pooler is None
    inputs = {key: value for key, value in batch(tiny("bert")).items() if key != "labels"}
    with torch.no_grad():
        hidden, wanted = (model(**inputs).last_hidden_state for model in (student, encoder))
    assert torch.allclose(hidden[..., :16], wanted, atol=1e-4) is (init == "clone")


@pytest.mark.parametrize("depth", [None, "interleave"])
@pytest.mark.parametrize("init", ["clone", "pad", "auto"])
def test_the_first_layer_of_t5_is_enough(init: str, depth: str | None) -> None:
    """It alone has the table of relative positions, which new layers do without."""
    teacher = tiny("t5", num_layers=1, num_decoder_layers=1)
    student = from_weak_teacher(teacher, num_hidden_layers=3, hidden_size=32, init=init, depth=depth)
    with torch.no_grad():
        assert torch.allclose(student(**batch(teacher)).logits, teacher(**batch(teacher)).logits, atol=1e-4)
    assert len(student.encoder.block) == len(student.decoder.block) == 3 and student.growth_report.preserved
    copied = from_weak_teacher(teacher, num_hidden_layers=3, init="remap").growth_report
    assert copied.fresh == 0 and "encoder.block: 0<-0 1<-0 2<-0" in str(copied)


def test_a_layer_of_another_kind_is_named_with_a_way_out() -> None:
    teacher = tiny_teacher("causal-lm", "gpt_neox_japanese")
    deeper = teacher.config.num_hidden_layers + 1
    named = rf"^num_hidden_layers={deeper}: gpt_neox_japanese.layers.1: It would be made.*'remap', which is not exact"
    with pytest.raises(GrowthError, match=named):
        from_weak_teacher(teacher, num_hidden_layers=deeper, init="clone")
    with pytest.raises(GrowthError, match=r"^depth='interleave': gpt_neox_japanese.layers.\d: .* with depth='append'"):
        from_weak_teacher(teacher, num_hidden_layers=deeper + 1, init="clone", depth="interleave")
