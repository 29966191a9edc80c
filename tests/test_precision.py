"""Mixed precision takes no fast path away: the trials that prove them compute in full precision."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hf_dwt.forward.row_logits import RowLogits
from hf_dwt.precision import full_precision, without_tf32
from hf_dwt.tasks import find_task

from .models import batch, tiny
from .test_row_logits import MixingHead
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
        return {(rows.gathers, rows.defers, bool(rows.last_modules)) for rows in both}

    assert found() == {(True, True, True)}
    monkeypatch.setattr("hf_dwt.precision.full_precision", lambda *_: nullcontext())
    assert (True, True, True) not in found()  # the rounding is seen where nothing is switched off


@pytest.mark.usefixtures("rounding_of_a_gpu")
@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_a_model_that_runs_in_half_precision_alone_is_tried_as_it_runs(name: str, tmp_path: Any) -> None:
    """FlashAttention takes no fp32, which a model loaded in fp32 gives it where autocast is off."""

    def attention(module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
        if query.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
            raise RuntimeError("fp16 and bf16 only")
        query, key, value = (each.bfloat16() for each in (query, key, value))
        mask = mask.to(query.dtype) if mask is not None and mask.is_floating_point() else mask
        return sdpa_attention_forward(module, query, key, value, mask, **more)

    AttentionInterface.register("half_only", attention)
    AttentionMaskInterface.register("half_only", sdpa_mask)
    student, teacher = tiny(name), tiny(name, seed=1)
    for model in (student, teacher):
        model.set_attn_implementation("half_only")
    run = trainer(student, teacher, tmp_path, bf16=True, max_steps=1)
    run.train()
    both: Any = (run._student, run.teacher.row_logits)
    assert all(rows.gathers and rows.defers for rows in both)


@pytest.mark.usefixtures("rounding_of_a_gpu")
@pytest.mark.parametrize(("name", "targets"), [("bert", ["query", "value"]), ("llama", ["q_proj", "v_proj"])])
def test_an_adapted_model_has_its_doors_deeper(name: str, targets: list[str], tmp_path: Any) -> None:
    """A PeftModel without a task calls none of its own children."""
    student = get_peft_model(tiny(name), LoraConfig(target_modules=targets, init_lora_weights=False))
    run = trainer(student, tiny(name, seed=1), tmp_path, bf16=True, max_steps=1)
    run.train()
    rows: Any = run._student
    assert rows.gathers and rows.defers and rows.last_modules


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 has the old switches")
def test_the_switch_of_tf32_goes_on_following_the_one_above_it() -> None:
    backends: Any = torch.backends
    before = backends.fp32_precision
    try:
        for above in ("tf32", "ieee", "tf32"):  # as TrainingArguments(tf32=...) of one run after the other
            backends.fp32_precision = above
            with without_tf32():
                assert backends.cuda.matmul.fp32_precision == backends.cudnn.conv.fp32_precision == "ieee"
            assert backends.cuda.matmul.fp32_precision == above
    finally:
        backends.fp32_precision = before


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
