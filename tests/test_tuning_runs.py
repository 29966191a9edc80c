"""DualSparse in training runs, in files and over other processes; what it refuses."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from hf_dwt.errors import ArgumentError, DistillationError, SetupError
from hf_dwt.growth.axes import Axis, Segment, grow
from hf_dwt.growth.restrict import restrict
from hf_dwt.publish.model_files import files_to_push
from hf_dwt.tuning import SUPPORTS, DualSparse, layer_flops

from .models import tiny
from .test_tuning import logits, moved
from .training import history, trainer

TARGETS = ["query", "value", "intermediate.dense"]
SMALL = DualSparse(rank=3, residual=4, targets=TARGETS, support="magnitude")


# ---- heads, axes, supports ----


def test_pruned_heads_are_those_whose_queries_and_values_changed_least() -> None:
    """4 query heads of 8 channels read 2 key/value heads: one of these goes, with its two query heads."""
    plain = tiny("qwen3").double()
    tuning = DualSparse(rank=3, residual=4, targets=["q_proj", "v_proj", "o_proj"], support="random")
    adapted = moved(tuning.attach(copy.deepcopy(plain)))
    small = tuning.prune(adapted, heads=0.5, ffn=0.25)
    whole, baked = tuning.bake(adapted), tuning.bake(small)
    sizes = baked.config.num_attention_heads, baked.config.num_key_value_heads, baked.config.head_dim
    assert sizes == (2, 1, 8) and baked.config.intermediate_size == 24
    for layer, old in zip(whole.model.layers, plain.model.layers, strict=True):
        attention, before = layer.self_attn, old.self_attn
        change = {n: (getattr(attention, n).weight - getattr(before, n).weight).abs() for n in ("q_proj", "v_proj")}
        score = sum(value.view(2, -1).sum(1) for value in change.values())
        score += (attention.o_proj.weight - before.o_proj.weight).abs().view(16, 2, 16).sum((0, 2))
        gone = int(score.argmin())
        attention.o_proj.weight.data[:, 16 * gone : 16 * gone + 16] = 0
        mlp = layer.mlp
        weights = (
            mlp.gate_proj.weight.abs().sum(1) + mlp.up_proj.weight.abs().sum(1) + mlp.down_proj.weight.abs().sum(0)
        )
        mlp.down_proj.weight.data[:, weights.topk(8, largest=False).indices] = 0
    torch.testing.assert_close(logits(baked, plain), logits(whole, plain), rtol=0, atol=1e-9)


def test_entries_that_are_gone_are_replaced_and_the_others_stay() -> None:
    adapted = moved(SMALL.attach(tiny("bert")))
    small = SMALL.prune(adapted, ffn=0.5)
    changed = 0
    for (name, old), (_, new) in zip(sparse(adapted), sparse(small), strict=True):
        values = {round(float(value), 5) for value in old[old != 0]}
        left = [round(float(value), 5) for value in new[new != 0]]
        assert len(values) == 4 and set(left) <= values
        assert len(left) == 4 if "intermediate" not in name else len(left) > 0
        changed += 4 - len(left)
    assert changed > 0
    learns = small.get_nb_trainable_parameters()[0]
    assert learns == 2 * (2 * (16 + 16) * 3 + (16 + 16) * 3 + 3 * 4)
    moved(small)  # those that are new learn
    assert all(int((one != 0).sum()) == 4 for _, one in sparse(small))


def sparse(model: PeftModel) -> list[tuple[str, torch.Tensor]]:
    """(name, S) of each adapted matrix, from what peft would save."""
    state = model.state_dict()
    names = [name for name in state if name.endswith("lora_A.default.weight")]
    return [(name, state[name.replace("lora_A", "lora_B")][:, 3:] @ state[name][3:]) for name in names]


@pytest.mark.parametrize(
    "axes",
    [
        (Axis.whole(5, 8), Axis.whole(3, 3)),
        (Axis((Segment(4, 6), Segment(4, 6), Segment(2, 2))), Axis.whole(2, 5)),
    ],
    ids=["plain", "fused"],
)
def test_restricting_a_grown_weight_gives_it_back(axes: tuple[Axis, ...]) -> None:
    weight = torch.randn([axis.old for axis in axes])
    kept = {
        (dim, number): segment.first
        for dim, axis in enumerate(axes)
        for number, segment in enumerate(axis.segments)
        if segment.old != segment.new
    }
    assert torch.equal(restrict(grow(weight, axes), axes, kept), weight)
    other = {place: channels.flip(0) for place, channels in kept.items()}
    assert not torch.equal(restrict(grow(weight, axes), axes, other), weight)


def test_the_sparse_part_is_found_beside_a_low_rank_part_that_is_larger() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(40, 3, generator=generator) @ torch.randn(3, 30, generator=generator)
    places = torch.randperm(1200, generator=generator)[:6]
    weight = low + torch.zeros(1200).index_fill(0, places, 2.5).view(40, 30)
    own: dict[str, dict[str, Any]] = {"decomposed": {"rounds": 1, "step": 3}}
    found = {
        name: set(part(weight, 6, torch.Generator(), **own.get(name, {})).tolist()) for name, part in SUPPORTS.items()
    }
    assert found["decomposed"] == set(places.tolist())
    assert found["magnitude"] == set(weight.flatten().abs().topk(6).indices.tolist()) != found["decomposed"]
    assert len(found["random"]) == 6


# ---- operations ----


def counted(model: nn.Module, tokens: int) -> int:
    ids = torch.ones(1, tokens, dtype=torch.long, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids)
    return counter.get_total_flops()


def test_operations_are_those_that_torch_counts() -> None:
    """BERT-base at 128 tokens, of which 1184 of 3072 neurons are a quarter, on the meta device; and smaller ones."""

    def base(**sizes: int) -> BertModel:
        return BertModel._from_config(BertConfig(**sizes), add_pooling_layer=False)

    with torch.device("meta"):
        large, small = base(), base(intermediate_size=3072 - 1184)
    assert [layer_flops(model, 128) for model in (large, small)] == [counted(large, 128), counted(small, 128)]
    assert abs(1 - counted(small, 128) / counted(large, 128) - 0.25) < 0.005
    for name, shares in {"bert": {"ffn": 0.25}, "gpt2": {"ffn": 0.5}, "qwen3": {"heads": 0.5, "ffn": 0.25}}.items():
        plain = tiny(name, attn_implementation="eager")  # of the other on CPUs torch counts no products
        targets = {"bert": ["query"], "gpt2": ["c_fc"], "qwen3": ["q_proj"]}[name]
        tuning = DualSparse(rank=2, residual=1, targets=targets, support="random")
        pruned = tuning.bake(tuning.prune(tuning.attach(copy.deepcopy(plain)), **shares))
        saved = counted(plain, 9) - counted(pruned, 9)
        assert saved == layer_flops(plain, 9) - layer_flops(pruned, 9) > 0


# ---- runs ----


def test_a_run_under_a_teacher_resumes_as_it_was_and_goes_on_pruned(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    student = tiny("bert")
    student.save_pretrained(tmp_path / "base")
    student.name_or_path = str(tmp_path / "base")
    whole = trainer(SMALL.attach(student), tiny("bert", seed=1), tmp_path / "a", **saving)
    whole.train()
    again = trainer(SMALL.attach(tiny("bert")), tiny("bert", seed=1), tmp_path / "b", **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert (
        history(again, "loss", "soft_loss", "grad_norm")[-2:] == history(whole, "loss", "soft_loss", "grad_norm")[-2:]
    )
    state = whole.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.model.state_dict().items())
    assert all(int((one != 0).sum()) == 4 for _, one in sparse(whole.model))
    by_peft = PeftModel.from_pretrained(tiny("bert"), tmp_path / "b" / "checkpoint-4")
    torch.testing.assert_close(logits(by_peft, tiny("bert")), logits(whole.model, tiny("bert")), rtol=0, atol=1e-6)
    assert {"adapter_model.safetensors", "adapter_config.json"} <= set(files_to_push(tmp_path / "b" / "checkpoint-4"))
    other = DualSparse(rank=3, residual=4, targets=TARGETS, support="random").attach(tiny("bert"))
    with pytest.raises(RuntimeError, match="entries of its sparse residual at other places"):
        other.load_adapter(tmp_path / "a" / "checkpoint-2", "default")

    small = SMALL.prune(whole.model, ffn=0.25)
    before = logits(small, tiny("bert"))
    more = trainer(small, tiny("bert", seed=1), tmp_path / "c", max_steps=2)
    more.train()
    more.save_model()
    bases = [
        json.loads((tmp_path / where / "adapter_config.json").read_text())["base_model_name_or_path"]
        for where in ("a/checkpoint-4", "c")
    ]
    assert (
        bases[0] == str(tmp_path / "base") and not bases[1]
    )  # the pruned model is another, to which no adapter of it fits
    assert (logits(more.model, tiny("bert")) - before).abs().max() > 1e-4
    baked = SMALL.bake(more.model)
    assert baked.config.intermediate_size == 24
    torch.testing.assert_close(logits(baked, tiny("bert")), logits(more.model.eval(), tiny("bert")), rtol=0, atol=1e-6)


SOMEBODY = """
import json, sys
sys.modules["hf_dwt"] = None  # importing it fails, as where it is not installed
import torch
from transformers import AutoModelForMaskedLM

baked = AutoModelForMaskedLM.from_pretrained(sys.argv[1])
base = AutoModelForMaskedLM.from_pretrained(sys.argv[2])
base.load_adapter(sys.argv[3])
ids = torch.arange(5, 12)[None]
both = {"baked": baked, "base": base}
found = {name: model.eval()(input_ids=ids).logits.flatten().tolist() for name, model in both.items()}
print(json.dumps({**found, "class": type(baked).__name__, "width": baked.config.intermediate_size}))
"""


def test_what_is_saved_is_read_where_there_is_no_hf_dwt(tmp_path: Path) -> None:
    base, adapted = tiny("bert"), moved(SMALL.attach(tiny("bert")))
    small = SMALL.bake(SMALL.prune(adapted, ffn=0.25))
    small.save_pretrained(tmp_path / "small")
    base.save_pretrained(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    names = [str(tmp_path / name) for name in ("small", "base", "adapter")]
    done = subprocess.run([sys.executable, "-c", SOMEBODY, *names], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert (found["class"], found["width"]) == ("BertForMaskedLM", 24)
    ids = torch.arange(5, 12)[None]
    for name, model in (("baked", small), ("base", adapted)):
        ours = model.eval()(input_ids=ids).logits.flatten().tolist()
        assert found[name] == pytest.approx(ours, abs=1e-5) and max(map(abs, ours)) > 0.1


# ---- refused ----


def test_a_parametrised_weight_is_not_merged_into() -> None:
    """Where it is merged all the same, what LoRA learned is lost without a word."""
    adapted = moved(SMALL.attach(tiny("bert")))
    layer = adapted.get_submodule("base_model.model.bert.encoder.layer.0.attention.self.query.base_layer")

    class Same(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + 0

    parametrize.register_parametrization(layer, "weight", Same())
    merged = copy.deepcopy(adapted).merge_and_unload()
    assert (logits(merged, tiny("bert")) - logits(adapted, tiny("bert"))).abs().max() > 1e-3
    with pytest.raises(ArgumentError, match="computed from others .*query.*lost.*remove_parametrizations"):
        SMALL.bake(adapted)
    parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(
        logits(SMALL.bake(adapted), tiny("bert")), logits(adapted, tiny("bert")), rtol=1e-5, atol=1e-5
    )


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rank": 0}, "^rank=0: is no count"),
    ({"residual": -1}, "^residual=-1: is no count"),
    ({"rank": 2.5, "alpha": 0, "seed": -1}, "(?s)rank=2.5.*alpha=0.*seed=-1"),
    ({"targets": "query"}, "^targets='query': .*a list"),
    ({"targets": 5}, "^targets=5: .*a list"),
    ({"support": ["random"]}, "^support=.*is unknown"),
    ({"support_kwargs": "rounds=3"}, "^support_kwargs='rounds=3': .*a dict"),
    ({"support": "magnitud"}, "^support='magnitud': is unknown. Did you mean 'magnitude'"),
    ({"support_kwargs": {"round": 3}}, "^support_kwargs=.*'round'.*takes: rounds, step, threshold"),
    ({"support_kwargs": {"rounds": 0}}, r"^support_kwargs\['rounds'\]=0: is out of range"),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_a_tuning_that_cannot_be_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        DualSparse(**given)


def test_what_cannot_be_attached_is_refused_and_changes_nothing() -> None:
    model = tiny("bert")
    before = [name for name, _ in model.named_parameters()]
    with pytest.raises(
        SetupError, match=r"(?s)targets='qeury': is unknown. Did you mean 'query'.*targets='LayerNorm'"
    ):
        DualSparse(rank=2, residual=1, targets=["qeury", "LayerNorm", "value"]).attach(model)
    with pytest.raises(ArgumentError, match="^targets='decoder': cls.predictions.decoder is tied"):
        DualSparse(rank=2, residual=1, targets=["decoder"]).attach(model)
    with pytest.raises(ArgumentError, match="^rank=16: and residual=16 are together more.*16.*ShiraConfig"):
        DualSparse().attach(model)
    assert [name for name, _ in model.named_parameters()] == before
    with pytest.raises(ArgumentError, match="^model='PeftModel'.*has an adapter already.*bake"):
        SMALL.attach(SMALL.attach(model))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="^model='BertForMaskedLM'.*has an adapter already"):
        SMALL.attach(model)
    with pytest.raises(ArgumentError, match="^model='BertForMaskedLM'.*has no adapter"):
        SMALL.bake(tiny("bert"))


def test_what_cannot_be_pruned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = SMALL.attach(tiny("bert"))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "^ffn=None: and heads=None"),
        ({"ffn": 1.0}, "^ffn=1.0: It removes 32 of the 32 neurons.*none is left.*at most 0.969"),
        ({"ffn": 0.001}, "^ffn=0.001: It removes 0 of the 32 neurons"),
        ({"ffn": 2}, "^ffn=2: is no share"),
        ({"heads": 0.5}, "^heads=0.5: BertConfig has no head_dim"),
        ({"ffn": 0.5, "by": "chnage"}, "^by='chnage': is unknown. Did you mean 'change'"),
        ({"ffn": 0.5, "by": ["change"]}, "^by=.*is unknown"),
        ({"ffn": 0, "heads": 0.5}, "(?s)heads=0.5: BertConfig.*ffn=0: is no share"),
    ]
    for given, words in wrong:
        with pytest.raises(DistillationError, match=words):
            SMALL.prune(adapted, **given)
    untrained, weighed = (SMALL.bake(SMALL.prune(adapted, ffn=0.5, by=by)).state_dict() for by in ("change", "weight"))
    assert all(torch.equal(untrained[name], weighed[name]) for name in weighed)
    for other in (tiny("bert"), get_peft_model(tiny("bert"), LoraConfig(r=7, target_modules=["query"]))):
        with pytest.raises(ArgumentError, match="has no adapter of rank 3 and residual 4"):
            SMALL.prune(other, ffn=0.5)
    single = DualSparse(rank=2, residual=1, targets=["q_proj"], support="random")
    decoder = single.attach(tiny("qwen3", num_key_value_heads=1))
    with pytest.raises(ArgumentError, match="^heads=0.5: It removes 0 of the 1 key/value heads"):
        single.prune(decoder, heads=0.5)
