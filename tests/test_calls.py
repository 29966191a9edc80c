"""A model is called with what its forward reads of a batch, and a decoder with inputs that somebody made."""

from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForSequenceClassification

from hf_dwt.assess.measure import figures_of
from hf_dwt.errors import DataError
from hf_dwt.forward.calls import forward_arguments, model_inputs, with_decoder_inputs
from hf_dwt.forward.rows import select_rows
from hf_dwt.tasks import find_task
from hf_dwt.teachers.frozen import FrozenTeacher

from .models import BUILDERS, LABELS, batch, tiny


def inputs_of(model: Any, data: dict[str, Any]) -> dict[str, Any]:
    return model_inputs(model, find_task(model), data, forward_arguments(model))


def test_only_what_is_read_is_handed_on() -> None:
    model, types = tiny("distilbert"), torch.zeros(2, 7)
    assert inputs_of(model, {**batch(model), "token_type_ids": types}).keys() == {"input_ids", "attention_mask"}
    bert = tiny("bert")
    assert inputs_of(bert, {**batch(bert), "token_type_ids": types})["token_type_ids"] is types


def test_nothing_is_kept_for_generation() -> None:
    model = tiny("llama")
    inputs = inputs_of(model, batch(model))
    assert inputs["use_cache"] is False and model(**inputs).past_key_values is None
    assert "use_cache" not in inputs_of(tiny("bert"), batch(model))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_decoder_inputs_are_those_that_the_model_makes(name: str) -> None:
    model = tiny(name)
    data, task = batch(model), find_task(model)
    made = inputs_of(model, data)["decoder_input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs_of(model, data)).logits, model(**data).logits)
    assert "decoder_input_ids" not in data and not torch.equal(made, data["labels"])
    for given in ("decoder_input_ids", "decoder_inputs_embeds"):
        assert with_decoder_inputs(model, task, {**data, given: made}) == {**data, given: made}
    # a teacher that is asked alone makes the same
    rows = select_rows(data["labels"], shifts=False)
    teacher = FrozenTeacher(model, task, 64)
    alone, given = (teacher.targets(one, rows).logits[:] for one in (data, {**data, "decoder_input_ids": made}))
    assert torch.equal(alone, given)


def test_a_classifier_with_a_decoder_needs_none() -> None:
    values: Any = {**BUILDERS["bart"][2], "num_labels": LABELS}
    model = BartForSequenceClassification(BartConfig(**values)).eval()
    data: dict[str, Any] = {**batch(model), "labels": torch.tensor([0, 2])}
    data["input_ids"][:, -1] = model.config.eos_token_id
    assert "decoder_input_ids" in forward_arguments(model) - inputs_of(model, data).keys()
    assert figures_of(model, find_task(model), [data]).loss == pytest.approx(model(**data).loss.item(), rel=1e-5)


def test_a_decoder_whose_inputs_nobody_can_make_is_said() -> None:
    class Mute:
        pass

    with pytest.raises(DataError, match="are missing, and Mute does not say how to make them"):
        with_decoder_inputs(Mute(), find_task(tiny("t5")), {"labels": torch.zeros(1, 2)})  # type: ignore[arg-type]
