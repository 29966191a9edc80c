"""The end of a model at the rows alone: the same loss and gradients, from fewer positions."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertForMaskedLM, MixtralConfig, MixtralForCausalLM

from hf_dwt.forward.calls import logits_of_outputs
from hf_dwt.forward.last_layer import at_rows, find_last_modules, restriction_is_exact
from hf_dwt.forward.row_logits import RowLogits, gathering, trial_batch
from hf_dwt.forward.rows import Rows, select_rows
from hf_dwt.tasks import find_task

from .models import ENCODER, batch, randomise, tiny
from .test_row_logits import LANGUAGE_MODELS
from .training import CHECKPOINTING, trainer


def few_rows(model: Any) -> tuple[Rows, dict[str, torch.Tensor]]:
    """Three examples of nine tokens with a label on a quarter of them, and none at all on the second."""
    inputs = batch(model, size=3, length=9)
    labels = inputs.pop("labels").masked_fill(torch.rand(3, 9, generator=torch.Generator().manual_seed(5)) < 0.7, -100)
    labels[1] = -100
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"].flip(1)
    return select_rows(labels, find_task(model).shifts), inputs


def trial(model: Any) -> tuple[Any, Rows]:
    inputs, rows = trial_batch(model)

    def logits() -> torch.Tensor:
        with gathering(model, rows):
            return logits_of_outputs(model(**inputs))[0]

    return logits, rows


def names_of(model: nn.Module, modules: Any) -> list[str]:
    names = {module: name for name, module in model.named_modules()}
    return [names[module] for module in modules]


def loss_and_gradients(model: Any, logits: RowLogits) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    rows, inputs = few_rows(model)
    model.zero_grad()
    loss = nn.functional.cross_entropy(logits(model, inputs, rows)[:], rows.labels, reduction="sum")
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_loss_and_gradients_are_those_of_all_positions(name: str) -> None:
    model = tiny(name).train()
    restricted, plain = RowLogits(model, find_task(model)), RowLogits(model, find_task(model), gather=False)
    loss, gradients = loss_and_gradients(model, restricted)
    expected, whole = loss_and_gradients(model, plain)
    assert restricted.last_modules and not plain.last_modules
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == whole.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole[parameter], rtol=1e-5, atol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 1e-2


OF_THE_ROWS = {
    "bert": ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"),
    "distilbert": ("attention.q_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"),
    "modernbert": ("attn.Wo", "mlp.Wi", "mlp.Wo"),  # its queries are made with keys and values
    "gpt2": ("attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "llama": ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}


@pytest.mark.parametrize("name", OF_THE_ROWS)
def test_these_products_see_the_rows_alone(name: str) -> None:
    model = tiny(name)
    rows, inputs = few_rows(model)
    logits = RowLogits(model, find_task(model))
    logits(model, inputs, rows)
    seen: dict[str, int] = {}
    for path, module in model.base_model.named_modules():
        if not list(module.children()) and any(parameter.dim() == 2 for parameter in module.parameters()):
            module.register_forward_hook(
                lambda _module, _args, output, path=path: seen.update({path: output.shape[:-1].numel()})
            )
    logits(model, inputs, rows)
    few = [path for path, count in seen.items() if count == rows.positions.numel()]
    assert {path.split(".1.", 1)[1] for path in few} == set(OF_THE_ROWS[name])  # of the second layer of two
    assert all(count in (9, 27) for path, count in seen.items() if path not in few) and len(seen) > 2 * len(few)


def test_keys_and_values_at_the_rows_alone_fail_the_trial() -> None:
    model = tiny("bert")
    logits, rows = trial(model)
    chosen = find_last_modules(model, logits, rows)
    assert restriction_is_exact(model, chosen, logits, rows)
    attention: Any = model.get_submodule("bert.encoder.layer.1.attention.self")
    for wrong in (attention.key, attention.value, model.get_submodule("bert.encoder.layer.0.output")):
        assert wrong not in chosen
        assert not restriction_is_exact(model, (*chosen, wrong), logits, rows)


def test_a_layer_that_does_nothing_yet_is_seen_as_what_it_will_be() -> None:
    """Else a layer grown as an identity would pass for one without attention, and training would prove that wrong."""
    model = tiny("llama")
    logits, rows = trial(model)
    expected = names_of(model, find_last_modules(model, logits, rows))
    layer: Any = model.get_submodule("model.layers.1")
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert names_of(model, find_last_modules(model, logits, rows)) == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_layer_that_is_used_twice_is_left_alone() -> None:
    model = randomise(AlbertForMaskedLM(AlbertConfig(**ENCODER, embedding_size=16))).eval()
    logits, rows = trial(model)
    assert not [name for name in names_of(model, find_last_modules(model, logits, rows)) if "layer_groups" in name]
    shared: Any = model.get_submodule("albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output")
    assert not restriction_is_exact(model, (shared,), logits, rows)


def test_what_no_gradient_reaches_is_never_taken_for_the_same() -> None:
    """Nothing would be compared, as of parameters that are whole at another time."""
    model = tiny("llama")
    logits, rows = trial(model)
    model.unused = nn.Linear(2, 2)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="no gradient reaches Linear"):
        restriction_is_exact(model, (model.unused,), logits, rows)


def test_off_where_it_would_be_wrong_or_of_no_use() -> None:
    model = tiny("bert").train()
    rows, inputs = few_rows(model)
    logits = RowLogits(model, find_task(model))
    assert logits._modules_at_rows(inputs, rows)
    most = select_rows(torch.ones(3, 9, dtype=torch.long), shifts=False)
    assert logits._modules_at_rows(inputs, most) == ()
    getattr(model, f"{CHECKPOINTING}_checkpointing_enable")()
    assert logits._modules_at_rows(inputs, rows) == ()
    model.eval()
    assert logits._modules_at_rows(inputs, rows)


def test_routers_are_balanced_over_all_positions() -> None:
    config = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"vocab_size": 64, "num_key_value_heads": 2, "num_local_experts": 2, "max_position_embeddings": 16}
    for balanced in (False, True):
        model = MixtralForCausalLM(MixtralConfig(**config, **sizes, output_router_logits=balanced)).eval()
        tail = RowLogits(model, find_task(model))._find_last_modules()
        assert bool(tail) is not balanced


def test_no_rows_at_all_give_zeros_with_a_gradient() -> None:
    model = tiny("bert").train()
    logits, rows = trial(model)
    tail = find_last_modules(model.eval(), logits, rows)
    _, inputs = few_rows(model)
    none = select_rows(torch.full((3, 9), -100), shifts=False)
    with gathering(model, none), at_rows(tail, none):
        model(**inputs).logits.sum().backward()
    query: Any = model.get_submodule("bert.encoder.layer.1.attention.self.query")
    assert query.weight.grad.abs().max() == 0.0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_trainer_uses_it_and_a_resumed_run_goes_on_the_same(dropout: float, tmp_path: Any) -> None:
    student = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}

    def run(out: str, resume: str | None = None) -> Any:
        settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "soft_weight_schedule": "constant"}
        made = trainer(tiny("bert", **student), tiny("bert", seed=1), tmp_path / out, **settings)
        made.train(resume)
        assert made._student is not None and len(made._student.last_modules or ()) == 4
        assert len(made.teacher.row_logits.last_modules) == 4  # type: ignore[union-attr]
        return made

    straight = run("one").model.state_dict()
    resumed = run("two", str(tmp_path / "one" / "checkpoint-2")).model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
