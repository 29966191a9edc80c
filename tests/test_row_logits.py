"""Logits at the rows: the same as those of all positions, and no more of them."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from hf_dwt.forward.row_logits import RowLogits
from hf_dwt.forward.rows import select_rows
from hf_dwt.objective import Weights, chunked, distillation_terms
from hf_dwt.objective.logits import LinearLogits
from hf_dwt.tasks import find_task

from .models import batch, randomise, tiny
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
    assert gathering.gathers and gathering.defers and not plain.gathers
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
    assert fast.gathers and fast.defers


DECODER = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 4}
DECODER |= {"num_key_value_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 0}


def decoder(kind: str, **values: Any) -> Any:
    return randomise(AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **DECODER, **values))).eval()


@pytest.mark.parametrize(
    ("kind", "values", "scale", "cap"),
    [
        ("gemma2", {"final_logit_softcapping": 0.5, "query_pre_attn_scalar": 4}, 1.0, 0.5),
        ("cohere", {"logit_scale": 0.0625}, 0.0625, None),
        ("granite", {"logits_scaling": 3.0}, 1 / 3, None),
        ("llama", {}, 1.0, None),
    ],
)
def test_scale_and_soft_cap_are_measured(kind: str, values: dict[str, Any], scale: float, cap: float | None) -> None:
    model = decoder(kind, **values)
    rows, inputs = rows_and_inputs(model)
    logits, plain = RowLogits(model, find_task(model)), RowLogits(model, find_task(model), defer=False)
    found: Any = logits(model, inputs, rows)
    assert logits.defers and not plain.defers
    assert found.scale == pytest.approx(scale, rel=1e-6) and found.cap == (cap and pytest.approx(cap, rel=1e-6))
    torch.testing.assert_close(found[:], plain(model, inputs, rows), rtol=1e-5, atol=1e-6)
    if kind != "llama":
        bare = LinearLogits(found.hidden, found.weight, found.bias)
        assert not torch.allclose(bare[:], found[:], atol=1e-2)


class Finished(nn.Module):
    """A head with something behind its last linear layer that the value of the logits does not show yet."""

    def __init__(self, head: Any, kind: str) -> None:
        super().__init__()
        self.head, self.kind, self.extra = head, kind, nn.Parameter(torch.zeros(64))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.head(hidden)
        if self.kind == "parameter":
            return logits + self.extra
        if self.kind == "constant":
            return logits + torch.linspace(0, 1, 64)
        return {"none": lambda x: x, "relu": lambda x: x.clamp(min=-500), "softmax": lambda x: x.log_softmax(-1)}[
            self.kind
        ](logits)


@pytest.mark.parametrize(
    ("kind", "linear"),
    [("none", True), ("parameter", False), ("constant", False), ("relu", False), ("softmax", False)],
)
def test_only_a_proven_head_is_deferred(kind: str, linear: bool) -> None:
    model = tiny("bert")
    model.cls = Finished(model.cls, kind)
    model.get_output_embeddings = lambda: model.cls.head.predictions.decoder  # type: ignore[method-assign]
    rows, inputs = rows_and_inputs(model)
    logits = RowLogits(model, find_task(model))
    torch.testing.assert_close(logits(model, inputs, rows)[:], rows.take(model(**inputs).logits), rtol=1e-5, atol=1e-5)
    assert logits.gathers and logits.defers is linear


def test_an_adapted_head_is_not_deferred() -> None:
    """LoRA adds nothing at first, but what it adds must learn."""
    model = get_peft_model(tiny("llama"), LoraConfig(target_modules=["lm_head"]))
    rows, inputs = rows_and_inputs(model)
    logits = RowLogits(model, find_task(model))
    torch.testing.assert_close(logits(model, inputs, rows), rows.take(model(**inputs).logits), rtol=1e-5, atol=1e-5)
    assert logits.gathers and not logits.defers


def test_hooks_of_the_head_run_around_its_chunks() -> None:
    """An engine's gather the weight there; a user's may change what goes in, and scale what comes out."""
    model = tiny("llama")
    model.lm_head.register_forward_pre_hook(lambda _module, args: (args[0] + 0.5,))
    model.lm_head.register_forward_hook(lambda _module, _args, out: out * 3.0)
    rows, inputs = rows_and_inputs(model)
    logits = RowLogits(model, find_task(model))
    torch.testing.assert_close(logits(model, inputs, rows)[:], rows.take(model(**inputs).logits), rtol=1e-5, atol=1e-5)
    assert logits.defers
    model.lm_head.register_forward_hook(lambda _module, _args, out: out.relu())
    logits = RowLogits(model, find_task(model))
    torch.testing.assert_close(logits(model, inputs, rows)[:], rows.take(model(**inputs).logits), rtol=1e-5, atol=1e-5)
    assert not logits.defers


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_outputs_without_logits_depend_on_all_that_is_learnt(name: str) -> None:
    """From them an engine finds the parameters that were used, and when to gather them."""
    model = tiny(name).train()
    rows, inputs = rows_and_inputs(model)
    logits = RowLogits(model, find_task(model))

    def reduce(found: Any, _outputs: Any) -> dict[str, torch.Tensor]:
        return distillation_terms(found, rows.labels, None, Weights(1.0, 0.0))

    outputs, _ = logits.reduced(model, inputs, rows, reduce)
    assert logits.defers and outputs.logits.shape == (1, 0, model.config.vocab_size)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    order: list[str] = []
    outputs.logits.register_hook(lambda _gradient: order.append("outputs"))
    for parameter in learning:
        parameter.register_hook(lambda _gradient: order.append("parameter"))
    reached = torch.autograd.grad(outputs.logits.sum(), learning, allow_unused=True, retain_graph=True)
    assert not any(gradient is None for gradient in reached)
    assert order[0] == "outputs"


def test_a_vocabulary_resized_in_between_is_followed() -> None:
    model = tiny("llama")
    rows, inputs = rows_and_inputs(model)
    logits = RowLogits(model, find_task(model))
    assert logits(model, inputs, rows).shape == (rows.positions.numel(), 64) and logits.defers
    model.resize_token_embeddings(70, mean_resizing=False)
    torch.testing.assert_close(logits(model, inputs, rows)[:], rows.take(model(**inputs).logits), rtol=1e-5, atol=1e-5)


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


def test_memory_that_runs_out_in_a_trial_decides_nothing() -> None:
    """The Trainer goes on with smaller batches (`auto_find_batch_size`), and the head is then tried again."""
    model = tiny("bert")
    row_logits, data = RowLogits(model, find_task(model)), batch(model)
    rows, inputs = select_rows(data.pop("labels"), shifts=False), data

    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError()

    handle = model.base_model.register_forward_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError):
        row_logits(model, inputs, rows)
    handle.remove()
    row_logits(model, inputs, rows)
    assert row_logits.gathers and row_logits.defers


def test_the_trial_leaves_no_trace() -> None:
    model = tiny("bert").train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    rows, inputs = rows_and_inputs(model)
    RowLogits(model, find_task(model))(model, inputs, rows)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_error_on_the_way_leaves_no_hooks() -> None:
    model = tiny("bert")
    rows, inputs = rows_and_inputs(model)
    logits = RowLogits(model, find_task(model))
    logits(model, inputs, rows)
    with pytest.raises(IndexError):
        logits(model, {**inputs, "input_ids": inputs["input_ids"] + 1000}, rows)
    assert logits.defers and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


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
    run._student.gathers = run.teacher.row_logits.gathers = gather  # type: ignore[union-attr]
    rows, positions = int((inputs["labels"] != -100).sum()), inputs["labels"].numel()
    assert rows < 20 < positions
    with LargestTensor(vocabulary) as seen:
        run.compute_loss(student, dict(inputs)).backward()
    hidden = student.config.hidden_size  # the embedding's own rows also have the vocabulary's axis
    assert seen.most == max(rows, hidden) if gather else seen.most == positions


def run_of(name: str, out: Any, kernel: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    student, teacher = (tiny(name, seed=seed).to(dtype) for seed in (0, 1))
    return trainer(student.train(), teacher, out, soft_weight_schedule="constant", loss_kernel=kernel, **settings)


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        *((name, torch.float64, 1e-10) for name in LANGUAGE_MODELS),
        *((name, torch.float32, 1e-5) for name in ("bert", "llama")),
    ],
)
def test_a_step_in_chunks_is_the_plain_step(
    name: str, dtype: torch.dtype, tolerance: float, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss and the gradient of every parameter, tied embeddings included."""
    monkeypatch.setattr(chunked, "BYTES_ON_CPU", 3 * 64 * dtype.itemsize)
    monkeypatch.setattr(chunked, "LEAST_ROWS", 1)
    found = []
    for kernel in ("plain", "auto"):
        run = run_of(name, tmp_path, kernel, dtype, temperature=2.0, label_smoothing_factor=0.1)
        loss = run.compute_loss(run.model, dict(pad(ragged_examples(8))))
        loss.backward()
        assert run._student.defers is (kernel == "auto")
        found.append({n: p.grad for n, p in run.model.named_parameters()} | {"loss": loss.detach()})
    plain, parts = found
    scale = max(value.abs().max().item() for value in plain.values())
    for parameter, value in plain.items():
        torch.testing.assert_close(parts[parameter], value, rtol=0, atol=tolerance * max(1.0, scale))
    assert plain["loss"].dtype == dtype and scale > 1e-2


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_no_logits_of_all_positions_exist_in_a_causal_step_or_evaluation(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "BYTES_ON_CPU", 3 * 61 * 4)
    monkeypatch.setattr(chunked, "LEAST_ROWS", 1)
    most = {}
    for kernel in ("auto", "plain"):
        student, teacher = (tiny(name, seed=seed, vocab_size=61) for seed in (0, 1))
        examples = [
            {**e, "input_ids": [t % 61 for t in e["input_ids"]]} for e in ragged_examples(8, share=1, classes=61)
        ]
        run = trainer(student, teacher, tmp_path, soft_weight_schedule="constant", loss_kernel=kernel)
        run.compute_loss(student.train(), dict(pad(examples))).backward()
        with LargestTensor(61) as seen:
            run.compute_loss(student, dict(pad(examples))).backward()
            student.zero_grad()
            run.evaluate(examples)
        most[kernel] = seen.most
    assert most["auto"] == student.config.hidden_size < 30 < most["plain"]  # the embeddings themselves
