"""What third parties declare: a fused weight that the search cannot explain, and what is refused."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError, GrowthNotPreservedError, SetupError
from hf_dwt.growth import declare
from hf_dwt.growth.config import declared_layouts
from hf_dwt.growth.config import names as declarations
from hf_dwt.growth.proxy.model import proxy
from hf_dwt.growth.verify.compare import compare
from hf_dwt.growth.width.layouts import declared, model_types


class GatedConfig(PreTrainedConfig):
    model_type = "third-party-gated"
    vocab_size: int = 64
    width: int = 16
    num_hidden_layers: int = 2
    inner: int = 24
    gate_rank: int = 6


class GatedLayer(nn.Module):
    def __init__(self, config: GatedConfig) -> None:
        super().__init__()
        self.widths = [config.gate_rank, config.inner, config.gate_rank]
        self.norm = nn.LayerNorm(config.width)
        self.in_proj = nn.Linear(config.width, sum(self.widths))
        self.out_proj = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        a, inner, b = self.in_proj(self.norm(x)).split(self.widths, -1)
        return x + self.out_proj(torch.relu(inner) * torch.sigmoid((a * b).sum(-1, keepdim=True)))


class GatedModel(PreTrainedModel):
    config_class = GatedConfig

    def __init__(self, config: GatedConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(GatedLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.width)
        self.lm_head = nn.Linear(config.width, config.vocab_size)
        self.post_init()

    def forward(self, input_ids: Tensor) -> CausalLMOutput:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return CausalLMOutput(logits=self.lm_head(self.norm(x)))


SIZES = {"hidden_size": "width", "intermediate_size": "inner"}
TABLES = (declared_layouts.LAYOUTS, declarations.PROPORTIONAL, declarations.SIZES_OF_TYPE, declarations.TINY_OF_TYPE)
WIDER = {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 70, "init": "clone"}


@pytest.fixture(autouse=True)
def undeclared() -> Iterator[None]:
    """What a test declares, it takes back."""
    before = [dict(table) for table in TABLES]
    yield
    for table, kept in zip(TABLES, before, strict=True):
        table.clear()
        table.update(kept)


def teacher() -> GatedModel:
    return proxy(GatedModel, GatedConfig(), seed=0)


def test_a_fused_weight_is_exact_only_as_declared() -> None:
    declare("third-party-gated", sizes=SIZES)
    with pytest.raises(GrowthNotPreservedError, match=r"in_proj|out_proj|hf_dwt.growth.declare"):
        from_weak_teacher(teacher(), **WIDER)
    declare("third-party-gated", layouts={r"in_proj\.": ("gate_rank", "ffn", "gate_rank")})
    student = from_weak_teacher(teacher(), **WIDER)
    report = student.growth_report
    assert report.preserved and report.difference < 1e-5
    assert student.layers[2].in_proj.weight.shape == (48 + 12, 32)
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        assert torch.allclose(student(ids).logits[..., :64], teacher()(ids).logits, atol=1e-4)
    declare("third-party-gated", layouts={r"in_proj\.": (3,)}, exist_ok=True)
    with pytest.raises(GrowthNotPreservedError):
        from_weak_teacher(teacher(), **WIDER)


def test_remap_copies_declared_blocks_to_their_own_starts() -> None:
    declare("third-party-gated", sizes=SIZES, layouts={r"in_proj\.": ("gate_rank", "inner", "gate_rank")})
    weak = teacher()
    student = from_weak_teacher(weak, hidden_size=32)
    ours, theirs = student.layers[0].in_proj.weight, weak.layers[0].in_proj.weight
    assert torch.equal(ours[:30, :16], theirs[:30])
    assert torch.equal(ours[54:, :16], theirs[30:])
    assert not torch.equal(ours[30:36, :16], theirs[30:])


def test_what_grows_in_proportion_and_the_proxy_are_said_too() -> None:
    declare("third-party-gated", sizes=SIZES, layouts={r"in_proj\.": ("gate_rank", "inner", "gate_rank")})
    declare("third-party-gated", proportional=["gate_rank"], tiny={"gate_rank": 2})
    assert from_weak_teacher(teacher(), hidden_size=32, init="random").config.gate_rank == 12
    # Twice the rank doubles the gate's sum; that is no longer the same function, and is said.
    with pytest.raises(GrowthNotPreservedError):
        from_weak_teacher(teacher(), hidden_size=32, init="clone")
    student = from_weak_teacher(teacher(), hidden_size=32, config_overrides={"gate_rank": 6}, init="clone")
    assert compare(teacher(), student).preserved


def test_layouts_of_other_kinds_are_declared() -> None:
    layouts = {"a": ("heads@3*head",), "b": ("query/groups",), "c": ("hidden^streams", "2*ffn/2")}
    declare("x", layouts=layouts)
    assert declared_layouts.LAYOUTS["x"] == layouts


def test_what_is_declared_of_a_part_counts_for_the_whole() -> None:
    from transformers import LlavaConfig

    whole = LlavaConfig()
    assert model_types(whole) == ("llava", "clip_vision_model", "llama")
    declare("clip_vision_model", layouts={"fused": (3,)})
    assert list(declared("fused.weight", 0, model_types(whole))) == [(3,)]
    assert not declared("fused.weight", 0, model_types(whole.text_config))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "model_type='x': Nothing is declared of it. Give one of layouts, proportional, sizes, tiny."),
    ({"model_type": 3, "tiny": {"a": 1}}, "model_type=3: It is no name."),
    ({"layouts": {"(": ("ffn",)}}, "layouts='(': It is no pattern"),
    ({"layouts": {"a": ()}}, "layouts={'a': ()}: It is no layout. Give names of sizes such as"),
    ({"layouts": {"a": (2, 3)}}, "layouts={'a': (2, 3)}: It is no layout."),
    ({"layouts": {"a": (0,)}}, "layouts={'a': (0,)}: It is no layout."),
    ({"layouts": {"a": ("query key",)}}, "layouts={'a': ('query key',)}: It is no layout."),
    ({"sizes": {"hiden_size": "width"}}, "sizes='hiden_size': is unknown. Did you mean 'hidden_size'?"),
    ({"sizes": {"hidden_size": "the width"}}, "sizes='the width': It is no name of an attribute."),
    ({"proportional": ["a b"]}, "proportional='a b': It is no name of an attribute."),
    ({"tiny": {"a-b": 3}}, "tiny='a-b': It is no name of an attribute."),
]


@pytest.mark.parametrize(("arguments", "opening"), REFUSED)
def test_what_is_no_declaration_is_refused(arguments: dict[str, Any], opening: str) -> None:
    before = [dict(table) for table in TABLES]
    with pytest.raises(GrowthError, match="^" + re.escape(opening)):
        declare(**{"model_type": "x", **arguments})
    assert before == [dict(table) for table in TABLES]


def test_a_declaration_is_not_replaced_by_accident() -> None:
    declare("x", tiny={"a": 1}, layouts={"q": (2,)})
    declare("x", tiny={"a": 1})
    with pytest.raises(SetupError, match=r"declared already of 'x'.*\n.*exist_ok=True"):
        declare("x", tiny={"a": 2}, layouts={"q": (3,)})
    declare("x", tiny={"a": 2}, exist_ok=True)
    assert (declarations.TINY_OF_TYPE["x"], declared_layouts.LAYOUTS["x"]) == ({"a": 2}, {"q": (2,)})
