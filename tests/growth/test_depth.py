"""Which layer each of the student's is made from: under every rule, in hybrids, and in the lists of a config."""

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from benchmarks.coverage.measure import tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError
from hf_dwt.growth.config.larger import larger_config
from hf_dwt.growth.depth.rules import DEPTHS, copied_layers, order
from hf_dwt.growth.strategies import INITS
from tests.growth.test_exact import apart
from tests.models import tiny

RULES = {
    "append": [0, 1, 2, 2, 2],
    "interleave": [0, 1, 1, 2, 2],
    "stack": [0, 1, 2, 0, 1],
    "repeat_each": [0, 0, 1, 1, 2],
    "repeat_last": [0, 1, 2, 2, 2],
}


def test_every_rule_has_a_case() -> None:
    assert RULES.keys() == DEPTHS.keys()
    assert {rule: order(rule, 3, 5) for rule in DEPTHS} == RULES


@pytest.mark.parametrize("rule", DEPTHS)
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_remap_copies_by_every_rule(name: str, rule: str) -> None:
    teacher = tiny(name, **{"gpt2": {"n_layer": 3}}.get(name, {"num_hidden_layers": 3}))
    student = from_weak_teacher(teacher, num_hidden_layers=5, depth=rule)
    ours, theirs = (layers_of(model) for model in (student, teacher))
    for layer, source in zip(ours, RULES[rule], strict=True):
        for other, weak in enumerate(theirs):
            same = all(torch.equal(value, weak.state_dict()[key]) for key, value in layer.state_dict().items())
            assert same is (other == source)
    text = " ".join(f"{i}<-{source}" for i, source in enumerate(RULES[rule]))
    assert text in str(student.growth_report)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList))


TYPES = ["sliding_attention", "full_attention", "full_attention"]
LISTED: dict[str, list[str]] = {rule: [TYPES[i] for i in sources] for rule, sources in RULES.items()}


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("rule", ["interleave", "stack", "repeat_each"])
def test_lists_of_a_config_go_with_their_layers(rule: str, init: str) -> None:
    """Also those that the class derives, which would put the old entries elsewhere."""
    teacher = tiny("qwen3", num_hidden_layers=3, layer_types=TYPES, sliding_window=4, use_sliding_window=True)
    if init in ("clone", "pad") and rule != "interleave":
        with pytest.raises(GrowthError, match="outputs differ"):
            from_weak_teacher(teacher, num_hidden_layers=5, init=init, depth=rule)
        return
    student = from_weak_teacher(teacher, num_hidden_layers=5, init=init, depth=rule)
    assert student.config.layer_types == LISTED[rule]
    if init in ("clone", "pad", "auto") and rule == "interleave":
        assert apart(teacher, student) < 2e-5


def test_a_derived_pattern_moves_with_its_layers() -> None:
    """ModernBERT derives [full, sliding, full, sliding] from the number of layers; interleaved they are in pairs."""
    teacher = tiny("modernbert")
    assert teacher.config.layer_types == ["full_attention", "sliding_attention"]
    wanted = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]
    student = from_weak_teacher(teacher, num_hidden_layers=4, init="clone", depth="interleave")
    assert student.config.layer_types == wanted and apart(teacher, student) < 2e-5
    appended = from_weak_teacher(teacher, num_hidden_layers=4, init="clone")
    assert appended.config.layer_types == ["full_attention", "sliding_attention"] * 2


def test_lists_in_a_part_of_a_composite_config() -> None:
    part = tiny("qwen3", num_hidden_layers=3, layer_types=TYPES, sliding_window=4, use_sliding_window=True).config
    from transformers import Qwen2AudioConfig

    whole = Qwen2AudioConfig(text_config=part)
    grown = larger_config(
        whole, {}, {"text_config": {"num_hidden_layers": 5}}, lambda old, new: order("interleave", old, new)
    )
    assert grown.text_config.layer_types == LISTED["interleave"]
    plain = larger_config(whole, {}, {"text_config": {"num_hidden_layers": 5}})
    assert plain.text_config.layer_types == LISTED["append"]


@pytest.mark.parametrize("init", ["remap", "auto"])
def test_a_layer_of_another_kind_is_never_copied(init: str) -> None:
    """Two kinds of layers: the student's last is of the first kind, so the last of the teacher's will not do."""
    teacher = tiny_teacher("causal-lm", "granitemoehybrid")
    kinds = teacher.config.layer_types
    assert len(set(kinds)) == 2
    listed = {"layer_types": [*kinds, kinds[0]]}
    student = from_weak_teacher(teacher, num_hidden_layers=3, config_overrides=listed, init=init)
    path = next(p for p, m in teacher.named_modules() if isinstance(m, nn.ModuleList))
    assert copied_layers(teacher, student, "repeat_last")[path] == [0, 1, 0]
    new = {key: p for key, p in student.named_parameters() if key.startswith(f"{path}.2.")}
    for key, parameter in new.items():
        source = student.growth_report.parameters[key]
        assert source.name == key.replace(f"{path}.2.", f"{path}.0.")
        if init == "remap":
            assert torch.equal(parameter, teacher.get_parameter(source.name))


def test_a_kind_that_the_teacher_lacks_keeps_its_own_initialisation() -> None:
    teacher = tiny_teacher("causal-lm", "lfm2_moe")
    kinds = teacher.config.layer_types
    config = larger_config(teacher.config, {}, {"layer_types": [kinds[0]] * len(kinds)})
    alone = type(teacher)(config)
    listed = {"layer_types": [kinds[0]] * len(kinds) + [kinds[1]]}
    student = from_weak_teacher(alone, num_hidden_layers=len(kinds) + 1, config_overrides=listed)
    own = [s for key, s in student.growth_report.parameters.items() if f".layers.{len(kinds)}.self_attn" in key]
    assert own and all(source.name is None and source.copied == 0 for source in own)
