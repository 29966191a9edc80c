"""Logits at the rows: the same as those of all positions, and no more of them."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_dwt.heads import RowLogits
from hf_dwt.rows import select_rows
from hf_dwt.tasks import find_task

from .models import batch, tiny
from .training import pad, ragged_examples, trainer

LANGUAGE_MODELS = (
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "modernbert",
    "gpt2",
    "llama",
    "qwen3",
    "t5",
    "bart",
)


def rows_and_inputs(model: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    task = find_task(model)
    inputs = batch(model, size=3, length=9)
    labels = inputs.pop("labels").masked_fill(torch.rand(3, 9, generator=torch.Generator().manual_seed(5)) < 0.5, -100)
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"].flip(1)
    return select_rows(labels, task.shifts), inputs


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_gathered_before_the_head_equals_taken_after_it(name: str) -> None:
    model = tiny(name)
    rows, inputs = rows_and_inputs(model)
    gathering, plain = RowLogits(model, find_task(model)), RowLogits(model, find_task(model), gather=False)
    fast, slow = gathering(model, inputs, rows), plain(model, inputs, rows)
    assert gathering.gathers and not plain.gathers
    assert fast.shape == (rows.positions.numel(), model.config.vocab_size)
    torch.testing.assert_close(fast[:], slow, rtol=1e-5, atol=1e-5)
    other = select_rows(torch.where(torch.arange(9) % 2 == 0, 1, -100).repeat(3, 1), shifts=False)
    assert not torch.allclose(plain(model, inputs, other)[: len(slow)], slow[: len(other.positions)], atol=1e-3)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_gradients_are_the_same_either_way(name: str) -> None:
    model = tiny(name).train()
    rows, inputs = rows_and_inputs(model)
    gradients = []
    for gather in (True, False):
        model.zero_grad()
        weight = torch.linspace(-1, 1, model.config.vocab_size)
        (RowLogits(model, find_task(model), gather)(model, inputs, rows)[:] @ weight).pow(2).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][parameter], rtol=1e-4, atol=1e-4)
    assert any(gradient.abs().max() > 1e-2 for gradient in gradients[0].values())


def test_a_peft_student_gathers_too() -> None:
    model = get_peft_model(tiny("bert"), LoraConfig(target_modules=["query", "value"], init_lora_weights=False))
    rows, inputs = rows_and_inputs(model)
    task = find_task(model)
    fast, slow = RowLogits(model, task), RowLogits(model, task, gather=False)
    torch.testing.assert_close(fast(model, inputs, rows)[:], slow(model, inputs, rows), rtol=1e-5, atol=1e-5)
    assert fast.gathers


class MixingHead(nn.Module):
    """A head that looks at neighbouring positions, as no stock head does."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden + hidden.roll(1, dims=1))


def test_a_head_that_mixes_positions_gets_all_of_them() -> None:
    model = tiny("bert")
    model.cls = MixingHead(model.cls)
    rows, inputs = rows_and_inputs(model)
    logits = RowLogits(model, find_task(model))
    torch.testing.assert_close(logits(model, inputs, rows), rows.take(model(**inputs).logits))
    assert logits.gathers is False


def test_a_model_that_fails_the_trial_still_gives_its_logits() -> None:
    model = tiny("bert")
    rows, inputs = rows_and_inputs(model)
    expected = rows.take(model(**inputs).logits)
    forward = model.forward

    def picky(**given: Any) -> Any:
        if given["input_ids"].shape[1] == 7:  # the trial's length
            raise RuntimeError("only this model's own batches, please")
        return forward(**given)

    model.forward = picky  # type: ignore[method-assign]
    logits = RowLogits(model, find_task(model))
    torch.testing.assert_close(logits(model, inputs, rows), expected)
    assert logits.gathers is False


def test_the_trial_leaves_no_trace() -> None:
    model = tiny("bert").train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    rows, inputs = rows_and_inputs(model)
    RowLogits(model, find_task(model))(model, inputs, rows)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any tensor made within it had, among those with a vocabulary's axis."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.most = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and self.vocabulary in tensor.shape:
                self.most = max(self.most, tensor.numel() // self.vocabulary)
        return out


@pytest.mark.parametrize("gather", [True, False])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_no_logits_of_all_positions_exist_in_a_masked_lm_step(name: str, gather: bool, tmp_path: Any) -> None:
    vocabulary = 61
    student, teacher = (tiny(name, seed=seed, vocab_size=vocabulary) for seed in (0, 1))
    examples = ragged_examples(8, share=0.15, classes=vocabulary)
    for example in examples:
        example["input_ids"] = [token % vocabulary for token in example["input_ids"]]
    run = trainer(student, teacher, tmp_path, train_dataset=examples, soft_weight_schedule="constant")
    inputs = pad(examples)
    run.compute_loss(student.train(), dict(inputs)).backward()  # the trial is behind us
    assert run._student is not None and run._student.gathers
    run._student.gathers = run.teacher._logits.gathers = gather  # type: ignore[union-attr]
    rows, positions = int((inputs["labels"] != -100).sum()), inputs["labels"].numel()
    assert rows < 20 < positions
    with LargestTensor(vocabulary) as seen:
        run.compute_loss(student, dict(inputs)).backward()
    hidden = student.config.hidden_size  # the embedding's own rows also have the vocabulary's axis
    assert seen.most == max(rows, hidden) if gather else seen.most == positions
