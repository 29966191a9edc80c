"""Mixed precision takes no fast path away: the trials that prove them compute in full precision."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_dwt.heads import RowLogits
from hf_dwt.precision import full_precision
from hf_dwt.tasks import find_task

from .models import batch, tiny
from .test_heads import MixingHead
from .training import trainer


@pytest.fixture
def rounding_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bf16 product's last bit depends on the number of its rows, as where each size has a kernel of its own."""
    original = F.linear

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        product = original(x, weight, bias)
        if product.dtype != torch.bfloat16:
            return product
        return product * (1 + 2**-7 * ((x.numel() // x.shape[-1]) % 3))

    monkeypatch.setattr(F, "linear", linear)


@pytest.mark.usefixtures("rounding_of_a_gpu")
@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2", "t5"])
def test_every_fast_path_is_taken_in_bf16(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> set[tuple[Any, ...]]:
        run = trainer(tiny(name), tiny(name, seed=1), tmp_path, bf16=True, max_steps=1)
        run.train()
        assert run.state.log_history[0]["loss"] > 0 and not torch.is_autocast_enabled("cpu")
        both: Any = (run._student, run.teacher.row_logits)
        return {(rows.gathers, rows.defers, bool(rows.tail)) for rows in both}

    assert found() == {(True, True, True)}
    monkeypatch.setattr("hf_dwt.heads.full_precision", nullcontext)
    assert (True, True, True) not in found()  # the rounding is seen where nothing is switched off


def test_what_mixes_positions_is_refused_in_bf16_too() -> None:
    model = tiny("gpt2")
    model.lm_head = MixingHead(model.lm_head)
    with torch.autocast("cpu", torch.bfloat16):
        logits = RowLogits(model, find_task(model))
        logits._try(model)
        assert logits.gathers is False and torch.is_autocast_enabled("cpu")


def test_precision_is_as_before_behind_a_trial() -> None:
    model, seen = tiny("t5"), []
    inputs = {**batch(model), "decoder_input_ids": batch(model)["input_ids"]}
    inputs.pop("labels")
    for part in model.modules():
        if type(part) is nn.Linear:
            part.register_forward_hook(lambda _m, _a, out: seen.append(out.dtype))
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        with torch.autocast("cpu", torch.bfloat16):
            model(**inputs)
            half, seen[:] = set(seen), []
            with full_precision(model):
                assert matmul.fp32_precision == "ieee" if hasattr(torch.backends, "fp32_precision") else True
                model(**inputs)
            full, seen[:] = set(seen), []
            model(**inputs)
        assert matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before
    assert half == set(seen) == {torch.bfloat16} and full == {torch.float32}
    assert not any(part._forward_pre_hooks for part in model.modules())
