"""What is found on a tiny proxy holds at the teacher's own numbers, whatever these are."""

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    FunnelConfig,
    FunnelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MobileBertConfig,
    MobileBertForMaskedLM,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from benchmarks.coverage.measure import tiny_config, tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError, GrowthNotPreservedError
from hf_dwt.growth import plan_growth
from hf_dwt.growth.proxy.batches import random_batch
from hf_dwt.growth.proxy.model import proxy
from hf_dwt.growth.proxy.shrink import shrink
from hf_dwt.growth.width import search
from hf_dwt.growth.width.layouts import read_layout
from hf_dwt.growth.width.residual_stream import find_roles
from tests.growth.test_exact import apart

HEADS = range(1, 9)


def llama(heads: int, keys: int, model_class: Any = LlamaForCausalLM) -> PreTrainedModel:
    """Heads of eight channels; the FFN has the width of nothing else."""
    config = LlamaConfig(
        hidden_size=8 * heads,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        intermediate_size=8 * heads + 3,
        num_hidden_layers=2,
        vocab_size=70,
    )
    return proxy(model_class, config, seed=0)


@pytest.mark.parametrize(("heads", "keys"), [(n, m) for n in HEADS for m in HEADS if n % m == 0])
def test_heads_of_any_number_grow_in_width_and_depth(heads: int, keys: int) -> None:
    teacher = llama(heads, keys)
    student = from_weak_teacher(teacher, hidden_size=16 * heads, num_hidden_layers=3, init="clone")
    assert student.config.num_attention_heads == 2 * heads and len(student.model.layers) == 3
    assert apart(teacher, student) < 1e-5
    student.model.layers[0].self_attn.v_proj.weight.data[0] += 1
    assert apart(teacher, student) > 1e-4


@pytest.mark.parametrize("heads", HEADS)
def test_heads_of_an_image_model_grow_whatever_their_width(heads: int) -> None:
    """Widths such as ViT-tiny's, whose heads do not divide the proxy's own width."""
    config = ViTConfig(
        hidden_size=12 * heads,
        num_attention_heads=heads,
        intermediate_size=41,
        num_hidden_layers=2,
        image_size=16,
        patch_size=4,
    )
    teacher = proxy(ViTForImageClassification, config, seed=0)
    student = from_weak_teacher(teacher, hidden_size=24 * heads, num_hidden_layers=3, init="clone")
    assert apart(teacher, student) < 1e-5


def test_a_proxy_keeps_what_heads_are_to_each_other() -> None:
    def kept(heads: int, keys: int) -> tuple[int, int]:
        small = shrink(llama(heads, keys).config)
        return small.num_attention_heads, small.num_key_value_heads

    assert kept(3, 3)[0] == kept(3, 3)[1] > 1
    assert kept(1, 1) == (1, 1) and kept(6, 1)[1] == 1
    assert kept(6, 2)[0] > kept(6, 2)[1] > 1


@pytest.mark.parametrize("blocks", [[1, 1], [2, 1], [1, 1, 1]])
def test_a_config_that_refuses_to_be_set_grows(blocks: list[int]) -> None:
    """A funnel's number of layers is computed, and setting it raises NotImplementedError."""
    config = FunnelConfig(d_model=32, n_head=4, d_head=8, d_inner=44, block_sizes=blocks, vocab_size=60)
    teacher = proxy(FunnelForSequenceClassification, config, seed=0)
    longer = [2 * n for n in blocks]
    student = from_weak_teacher(teacher, hidden_size=64, init="clone", config_overrides={"block_sizes": longer})
    assert student.config.block_sizes == longer and student.config.d_model == 64
    assert apart(teacher, student) < 1e-5
    with pytest.raises(GrowthError, match="block_sizes"):
        from_weak_teacher(teacher, num_hidden_layers=4, init="clone")


@pytest.mark.parametrize(("embedding", "hidden", "inside"), [(16, 32, 16), (8, 32, 24), (12, 40, 20), (20, 40, 20)])
def test_a_head_of_two_tables_grows_at_any_share(embedding: int, hidden: int, inside: int) -> None:
    """The default config's embeddings are a quarter of the stream; other checkpoints' are not."""
    config = MobileBertConfig(
        vocab_size=60,
        embedding_size=embedding,
        hidden_size=hidden,
        true_hidden_size=inside,
        intra_bottleneck_size=inside,
        num_attention_heads=4,
        intermediate_size=50,
        num_hidden_layers=2,
    )
    teacher = proxy(MobileBertForMaskedLM, config, seed=0)
    assert apart(teacher, from_weak_teacher(teacher, hidden_size=2 * hidden, init="clone")) < 1e-5


def resized(task: str, name: str, **sizes: Any) -> PreTrainedModel:
    """The tiny model of a type at other sizes."""
    model_class, config, _ = tiny_config(task, name)
    return proxy(model_class, type(config).from_dict({**config.to_dict(), **sizes}), seed=0)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("qwen3_next", {"num_attention_heads": 3, "num_key_value_heads": 1}),  # heads twice as wide, in no two halves
        ("nemotron_h", {"mamba_num_heads": 10, "mamba_head_dim": 6}),  # heads fill less than twice the width
        ("bamba", {"mamba_n_heads": 16, "mamba_d_head": 4}),
        ("bloom", {"hidden_size": 40, "n_head": 5}),
        ("mpt", {"d_model": 48, "n_heads": 6}),
    ],
)
def test_causal_models_grow_at_numbers_unlike_their_proxys(name: str, sizes: dict[str, int]) -> None:
    teacher = resized("causal-lm", name, **sizes)
    width = teacher.config.hidden_size
    assert apart(teacher, from_weak_teacher(teacher, hidden_size=2 * width, init="clone")) < 1e-4


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("regnet", {"embedding_size": 18, "hidden_sizes": [56, 84, 224, 476]}),
        ("segformer", {"hidden_sizes": [10, 20, 50, 80], "num_attention_heads": [1, 2, 5, 10]}),
    ],
)
def test_stages_grow_at_widths_that_no_power_of_2_divides(name: str, sizes: dict[str, Any]) -> None:
    teacher = resized("image-classification", name, **sizes)
    wider = {key: [2 * n for n in value] for key, value in sizes.items() if isinstance(value, list)}
    wider |= {key: 2 * value for key, value in sizes.items() if isinstance(value, int)}
    assert apart(teacher, from_weak_teacher(teacher, config_overrides=wider, init="clone")) < 1e-4


def test_padding_tells_an_ffn_from_a_stream_of_its_width() -> None:
    """Of experts one matrix reads the stream and one writes it; here both have the same two lengths."""
    teacher = resized("causal-lm", "aria_text", hidden_size=24, intermediate_size=24, head_dim=6)
    assert apart(teacher, from_weak_teacher(teacher, hidden_size=36, init="pad")) < 1e-4
    roles = find_roles(resized("causal-lm", "aria_text"), random_batch(teacher, 0), 32)
    assert ("model.layers.*.mlp.experts.down_proj", 1) in roles.apart
    assert ("model.layers.*.mlp.experts.down_proj", 2) not in roles.apart


def test_a_layout_can_be_what_one_size_is_longer_than_another() -> None:
    sizes = {"hidden": (10, 20), "embedding": (4, 8)}
    axis = read_layout(("embedding", "hidden-embedding"), 10, 20, sizes)
    assert axis is not None and [(s.old, s.new) for s in axis.segments] == [(4, 8), (6, 12)]
    assert read_layout(("hidden-hidden",), 10, 20, sizes) is None


class Choosy(LlamaForCausalLM):
    """Runs at no width but its own."""

    width, error = 24, RuntimeError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.config.hidden_size != self.width:
            raise self.error("not my width")
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, AssertionError, KeyError])
@pytest.mark.parametrize("sizes", [{"hidden_size": 48}, {"num_hidden_layers": 3}])
@pytest.mark.parametrize("init", ["clone", "pad"])
def test_what_a_models_code_raises_on_a_proxy_is_typed(
    error: type[Exception], sizes: dict[str, int], init: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = llama(3, 3, Choosy)
    monkeypatch.setattr(Choosy, "error", error)
    with pytest.raises(GrowthNotPreservedError, match="No tiny proxy of it can be built and run.*not my width"):
        from_weak_teacher(teacher, init=init, **sizes)


def test_what_a_teachers_code_raises_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = llama(3, 3, Choosy)
    monkeypatch.setattr(Choosy, "width", 32)  # as wide as its proxy
    with pytest.raises(GrowthError, match="cannot be run with these sizes: not my width"):
        from_weak_teacher(teacher, num_hidden_layers=3, init="clone")


@pytest.mark.parametrize(
    ("init", "width", "models"),
    [
        ("clone", 64, 2),  # of teacher and student
        ("pad", 48, 3),  # and the student's that is padded
        ("auto", 48, 4),  # and the student's at the ratio that cannot be cloned
        ("auto", 64, 2),
        ("remap", 48, 0),
    ],
)
def test_a_growth_builds_each_proxy_once(init: str, width: int, models: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For width, depth, the roles of modules and all strategies that are tried; and the next growth builds its own."""
    teacher, built = llama(4, 4), []
    plain = LlamaForCausalLM.__init__

    def counted(self: LlamaForCausalLM, *args: Any, **options: Any) -> None:
        plain(self, *args, **options)
        built.extend([self] if self.device.type == "cpu" else [])

    monkeypatch.setattr(LlamaForCausalLM, "__init__", counted)
    for growth in (1, 2):
        plan = plan_growth(teacher, hidden_size=width, num_hidden_layers=3, init=init)
        assert len(built) == growth * models
    plan.apply()
    student_again = init == "auto" and width == 48  # padding keeps a part of the student's own initialisation
    assert len(built) == 2 * models + 1 + student_again


def test_trials_alone_bound_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not time, which depends on the machine."""
    teacher = tiny_teacher("causal-lm", "prophetnet")
    tried: list[int] = []
    plain = search.Search._try

    def counted(self: search.Search, *args: Any) -> Any:
        tried.append(self.trials)
        return plain(self, *args)

    monkeypatch.setattr(search.Search, "_try", counted)
    with pytest.raises(GrowthNotPreservedError, match=f"no layout was found in {search.TRIALS} trials"):
        from_weak_teacher(teacher, hidden_size=64, init="clone")
    assert len(tried) == search.TRIALS + 1
    here = Path(search.__file__).parents[1]
    sources = [path.read_text(encoding="utf-8") for path in here.rglob("*.py")]
    assert not [text for text in sources if "import time" in text or "import signal" in text]
