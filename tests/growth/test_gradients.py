"""Gradients of a grown model are those that are mapped from its teacher's, for each step that the teacher took."""

from typing import Any

import pytest
import torch

from hf_dwt.errors import GrowthError
from hf_dwt.growth import plan_growth
from hf_dwt.growth.gradients import gradient_map

from ..models import batch, tiny


def gradients(model: Any, inputs: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["bert", "llama", "qwen3", "gpt2", "modernbert", "bert-token-classification", "t5"])
def test_a_grown_models_gradients_are_the_mapped_ones(name: str) -> None:
    """At even shares, in width and depth; computed by autograd on the grown model itself."""
    teacher = tiny(name)
    own = {"t5": {}}.get(name, {"num_hidden_layers": 4})
    plan = plan_growth(teacher, hidden_size=32, init="clone", symmetry=0.0, **own)
    student, mapping = plan.apply(), gradient_map(plan)
    theirs, ours = (gradients(model.double(), batch(teacher, seed=3)) for model in (teacher, student))
    assert len(mapping.sources) > 10
    largest = max(float(g.abs().max()) for g in ours.values())
    for parameter, source in mapping.sources.items():
        expected = mapping(parameter, theirs[source])
        torch.testing.assert_close(ours[parameter], expected, atol=1e-6 * largest, rtol=1e-4, msg=parameter)
        squares = mapping(parameter, theirs[source] ** 2, power=2)
        torch.testing.assert_close(squares, expected**2)
    assert {*mapping.sources.values()} == theirs.keys()  # nothing of the teacher's is lost
    anew = ours.keys() - mapping.sources.keys()
    assert bool(anew) == bool(own)
    written = {n for n in anew if float(ours[n].abs().max()) > 1e-6 * largest}
    assert written < anew or not anew  # the rest of a new layer has no gradient at all
    assert all(plan.steps[n].constant is not None for n in written)


def test_where_shares_differ_it_is_the_expectation() -> None:
    """Of what is drawn: its product with the gradients is the square of its own length, as that of a mean is."""
    teacher = tiny("llama")
    plan = plan_growth(teacher, hidden_size=32, init="clone", symmetry=0.5)
    student, mapping = plan.apply(), gradient_map(plan)
    theirs, ours = (gradients(model.double(), batch(teacher, seed=3)) for model in (teacher, student))
    expected = torch.cat([mapping(name, theirs[source]).flatten() for name, source in mapping.sources.items()])
    found = torch.cat([ours[name].flatten() for name in mapping.sources])
    assert float(expected @ found / (expected @ expected)) == pytest.approx(1.0, abs=1e-3)
    assert 0.9 < float(torch.cosine_similarity(expected, found, dim=0)) < 0.99


@pytest.mark.parametrize("growth", [{"init": "remap"}, {"init": "pad"}, {"init": "clone", "vocab_size": 70}])
def test_other_growths_do_not_say(growth: dict[str, Any]) -> None:
    with pytest.raises(GrowthError, match="optimizer='fresh'"):
        gradient_map(plan_growth(tiny("llama"), hidden_size=32, **growth))
