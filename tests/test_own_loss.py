"""The loss without a teacher is the model's own, for every type of transformers' maps, or a warning says otherwise."""

import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_dwt.forward.own_loss import own_loss
from hf_dwt.forward.rows import select_rows
from hf_dwt.tasks import find_task

from .every_type import batch_of, every_type, routes, tiny_of
from .models import tiny
from .training import trainer

# All of them with HF_DWT_EVERY_TYPE=1 (`make test-types`, about two minutes); else half of those that differ in how
# labels are shifted and in what is added to the loss, and some of the others.
TYPES = [
    case
    for number, case in enumerate(every_type())
    if os.environ.get("HF_DWT_EVERY_TYPE")
    or (number % 2 == 0 and (case[0] == "seq2seq" or (case[0] == "causal" and routes(case[1]))))
    or number % 12 == 0
]


def seed() -> None:
    """Some attention draws random numbers (Reformer, BigBird)."""
    torch.manual_seed(5), random.seed(5), np.random.seed(5)


def gradients(loss: torch.Tensor, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of two sets of gradients, of the largest of the first."""
    scale = max(gradient.abs().max() for gradient in one.values())
    zero = torch.zeros(())
    return max(float((one.get(n, zero) - other.get(n, zero)).abs().max() / scale) for n in one.keys() | other.keys())


@pytest.mark.filterwarnings("ignore")  # of the models' own
@pytest.mark.parametrize(("task", "model_type"), TYPES)
def test_loss_and_gradients_are_those_of_the_model_or_it_is_said(
    task: str, model_type: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        model = tiny_of(task, model_type).train()
        batch = batch_of(model, task)
        seed()
        stock = model(**batch)
        own, of_own = stock.loss.item(), gradients(stock.loss, model)
    except Exception as error:
        pytest.skip(f"{model_type} does not train on these sizes: {error!r}")
    run = trainer(model, None, tmp_path)
    caplog.clear()
    seed()
    with caplog.at_level(logging.WARNING, "hf_dwt.forward.own_loss"):
        loss = run.compute_loss(model.train(), dict(batch))
    same = abs(loss.item() - own) <= 1e-5 * max(1.0, abs(own)) and difference(of_own, gradients(loss, model)) < 1e-3
    assert same == (not [record for record in caplog.records if record.name == "hf_dwt.forward.own_loss"])
    if not same:
        rows = select_rows(batch["labels"], find_task(model).shifts)
        expected = F.cross_entropy(rows.take(stock.logits), rows.labels)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_balance_is_known_by_its_name_or_asked_of_the_model() -> None:
    """Names differ; where none is known, the rest of the model's own loss is the balance."""
    found = {}
    for task, model_type in (("causal", "mixtral"), ("causal", "jetmoe"), ("causal", "dbrx"), ("seq2seq", "nllb-moe")):
        model = tiny_of(task, model_type)
        found[model_type] = own_loss(model, model, find_task(model)), model.config
    assert found["mixtral"][0] == (found["mixtral"][1].router_aux_loss_coef, False)
    assert found["jetmoe"][0] == (found["jetmoe"][1].aux_loss_coef, False)
    assert found["dbrx"][0] == (found["dbrx"][1].ffn_config.moe_loss_weight, False)
    assert found["nllb-moe"][0].ask and min(factor for (factor, _), _ in list(found.values())[:3]) > 0


def test_a_model_without_a_balance_adds_nothing() -> None:
    mixtral, bert = tiny_of("causal", "mixtral"), tiny("bert")
    mixtral.config.output_router_logits = False
    assert [own_loss(model, model, find_task(model)) for model in (mixtral, bert)] == [(0.0, False), (0.0, False)]


def test_a_causal_lm_that_sees_what_it_is_to_predict_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A class of an encoder that was not told to be a decoder, or one that wants a mask in the batch."""
    seen: dict[str, bool] = {}
    causal, encoder, xlnet = tiny_of("causal", "bert"), tiny_of("causal", "bert"), tiny_of("causal", "xlnet")
    encoder.config.is_decoder = False
    models = {"causal": causal, "encoder": type(causal)(encoder.config), "xlnet": xlnet}
    for name, model in models.items():
        caplog.clear()
        own_loss(model, model, find_task(model))
        seen[name] = "sees the one that it is to predict" in caplog.text
    assert seen == {"causal": False, "encoder": True, "xlnet": True}


def numbers(model: PreTrainedModel) -> dict[tuple[str, str], Any]:
    """What modules keep beside tensors, by module and name."""
    return {(n, k): v for n, m in model.named_modules() for k, v in vars(m).items() if isinstance(v, int | float)}


def test_the_trial_leaves_no_trace() -> None:
    """NLLB-MoE keeps the capacity of its experts from an evaluation on: training would not be what it is without."""
    model = tiny_of("seq2seq", "nllb-moe").train()
    model.model.encoder.layers[0].eval()  # type: ignore[union-attr, index]
    kept, tensors = numbers(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    own_loss(model, model, find_task(model))
    assert torch.equal(torch.rand(1), expected)
    assert kept == {key: value for key, value in numbers(model).items() if key in kept}
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    training = model.training
    model.eval()(**batch_of(model, "seq2seq"))
    model.train(training)
    assert any(value != kept[key] for key, value in numbers(model).items() if key[1] == "expert_capacity")


def test_a_loss_of_the_user_has_no_balance_added(tmp_path: Path) -> None:
    model = tiny_of("causal", "mixtral").train()
    batch = batch_of(model, "causal")
    loss_of: Any = lambda outputs, labels, num_items_in_batch: outputs.logits.square().mean()  # noqa: E731
    run = trainer(model, None, tmp_path, more={"compute_loss_func": loss_of})
    expected = loss_of(model(**batch), None, None)
    assert run.compute_loss(model, dict(batch)).item() == pytest.approx(expected.item(), rel=1e-5)
