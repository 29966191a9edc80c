"""DualSparse: a low-rank and a sparse change, pruned by what was learned, merged to a stock model."""

import copy
import re
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedModel

from hf_dwt.growth.building import blank
from hf_dwt.tuning import SCORES, DualSparse

from .models import batch, tiny


def moved(model: PeftModel, seed: int = 0, scale: float = 0.3) -> PeftModel:
    """`model` with every parameter that learns moved off its value, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def logits(model: Any, like: PreTrainedModel) -> Tensor:
    inputs = {name: value for name, value in batch(like).items() if name != "labels"}
    if like.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        return model(**inputs).logits  # type: ignore[no-any-return]


class Family(NamedTuple):
    """Where the neurons of a tiny model are.

    into, out: pattern of the matrices that neurons read by and write by, as (neurons, ...) and (..., neurons).
    fused: by how many the neurons are contained in `into`.
    transposed: whether matrices are (inputs, outputs).
    """

    targets: list[str]
    into: str
    out: str
    fused: int = 1
    transposed: bool = False


FAMILIES = {
    "bert": Family(["query", "value", "intermediate.dense"], r"intermediate\.dense", r"\d\.output\.dense"),
    "modernbert": Family(["Wqkv", "Wi", "mlp.Wo"], r"mlp\.Wi", r"mlp\.Wo", fused=2),
    "gpt2": Family(["c_attn", "c_fc"], r"mlp\.c_fc", r"mlp\.c_proj", transposed=True),
    "qwen3": Family(["q_proj", "up_proj", "down_proj"], r"mlp\.(gate|up)_proj", r"mlp\.down_proj"),
    "bart": Family(["q_proj", "fc1"], r"fc1", r"fc2"),
}


def tuned(family: Family, name: str) -> tuple[PreTrainedModel, DualSparse, PeftModel]:
    """(a tiny model, the tuning, an adapted copy whose changes are smaller than its weights)."""
    tuning = DualSparse(rank=3, residual=4, targets=family.targets, support="magnitude")
    return (model := tiny(name).double()), tuning, moved(tuning.attach(copy.deepcopy(model)), scale=0.01)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_adapter_changes_nothing_until_it_learns_and_is_baked_as_it_is(name: str) -> None:
    """The change is computed by hand from the factors that a saved adapter would have."""
    plain = tiny(name).double()
    tuning = DualSparse(rank=3, residual=4, targets=FAMILIES[name].targets, support="magnitude")
    before = logits(plain, plain)
    adapted = tuning.attach(copy.deepcopy(plain))
    torch.testing.assert_close(logits(adapted, plain), before, rtol=0, atol=0)
    after = logits(moved(adapted), plain)
    assert (after - before).abs().max() > 0.05
    baked = tuning.bake(adapted)
    assert type(baked) is type(plain) and not any(".lora_" in key for key in baked.state_dict())
    assert all(parameter.requires_grad for parameter in baked.parameters())
    torch.testing.assert_close(logits(baked, plain), after, rtol=0, atol=1e-9)
    torch.testing.assert_close(logits(adapted, plain), after, rtol=0, atol=0)  # it was left as it is
    state, own = adapted.state_dict(), dict(plain.named_parameters())
    by_hand = copy.deepcopy(plain)
    for key in [key for key in state if key.endswith("lora_A.default.weight")]:
        weight = key.removeprefix("base_model.model.").replace("lora_A.default.", "")
        a, b = state[key], state[key.replace("lora_A", "lora_B")]
        low, sparse = b[:, :3] @ a[:3], b[:, 3:] @ a[3:]
        assert sparse.count_nonzero() == 4
        change = 32 / 3 * (low + sparse)
        by_hand.get_parameter(weight).data += change.T if FAMILIES[name].transposed else change
        assert weight in own
    torch.testing.assert_close(logits(by_hand, plain), after, rtol=0, atol=1e-9)


def test_parameters_that_learn_are_those_of_the_paper() -> None:
    """12 layers x query and value x (2 x 768 x 16 + 16)."""
    adapted = DualSparse(support="random").attach(blank(BertModel, BertConfig(), "cpu"))
    learns, all_ = adapted.get_nb_trainable_parameters()
    assert (learns, all_ - learns) == (590_208, 109_482_240)


@pytest.mark.parametrize(
    ("name", "by"), [*((name, "change") for name in FAMILIES), *(("bert", by) for by in SCORES if by != "change")]
)
def test_pruned_is_as_the_neurons_of_the_lowest_scores_being_silent(name: str, by: str) -> None:
    family = FAMILIES[name]
    plain, tuning, adapted = tuned(family, name)
    before = {key: value.clone() for key, value in adapted.state_dict().items()}
    small = tuning.prune(adapted, ffn=0.25, by=by)
    assert all(torch.equal(before[key], value) for key, value in adapted.state_dict().items())
    baked, whole, old = tuning.bake(small), tuning.bake(adapted), plain.state_dict()
    assert type(baked) is type(plain) and baked.config.to_dict() != plain.config.to_dict()
    assert baked.num_parameters() < plain.num_parameters()
    turn = (lambda weight: weight.T) if family.transposed else (lambda weight: weight)
    gone = []
    for out in [key for key in old if re.search(rf"{family.out}\.weight$", key)]:
        layer = re.split(family.out, out)[0] if name != "bert" else out.split("output.dense")[0]
        into = [key for key in old if key.startswith(layer) and re.search(rf"{family.into}\.weight$", key)]
        weight = whole.get_parameter(out)
        width = turn(weight).shape[1]
        if by == "random":  # what is left shows which they were
            left = turn(baked.get_parameter(out).detach())
            kept = [int((turn(weight) - column[:, None]).abs().sum(0).argmin()) for column in left.T]
            silent = sorted(set(range(width)) - set(kept))
        else:
            silent = sorted(
                scores(family, by, whole, old, into, out, turn).topk(width // 4, largest=False).indices.tolist()
            )
        assert len(silent) == width // 4
        turn(weight.data)[:, silent] = 0
        gone.append(silent)
    assert gone[0] != gone[1]
    torch.testing.assert_close(logits(baked, plain), logits(whole, plain), rtol=0, atol=1e-9)
    assert (logits(small, plain) - logits(adapted, plain)).abs().max() > 1e-3


def scores(
    family: Family, by: str, whole: Any, old: dict[str, Tensor], into: list[str], out: str, turn: Any
) -> Tensor:
    """By hand: L1 norms over rows and columns, of weights or of changes that are not 0."""
    found = []
    for key in (*into, out):
        weight = whole.get_parameter(key).detach()
        value = turn(weight - old[key] if by == "change" else weight).abs()
        value = value.T if key == out else value
        if by == "change" and not value.any():
            continue
        found += [part.sum(1) for part in (value.chunk(family.fused) if key != out else [value])]
    return torch.stack(found).sum(0)
