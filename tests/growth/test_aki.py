"""AKI: new outputs hold the layer above, old ones the layer itself; and it says by how much it is off."""

import pytest
import torch

from hf_dwt import from_weak_teacher
from hf_dwt.growth.proxy.batches import random_batch
from tests.growth.test_exact import TWELVE, apart, teacher_of
from tests.models import tiny


def test_new_neurons_are_those_of_the_layer_above() -> None:
    """bert2BERT, section 3.2.2, by hand: W' = [W | W] / 2 along the inputs, then the rows of the layer above."""
    teacher = tiny("bert")
    student = from_weak_teacher(teacher, hidden_size=32, init="aki")
    for kind in ("intermediate.dense", "attention.self.query", "output.dense"):
        low, high = (teacher.bert.encoder.layer[i].get_submodule(kind) for i in (0, 1))
        ours = [student.bert.encoder.layer[i].get_submodule(kind) for i in (0, 1)]
        n = len(low.bias)

        def widened(weight: torch.Tensor) -> torch.Tensor:
            return torch.cat([weight, weight], 1) / 2

        assert torch.allclose(ours[0].weight[:n], widened(low.weight))
        assert torch.allclose(ours[0].weight[n:], widened(high.weight))
        assert torch.equal(ours[0].bias, torch.cat([low.bias, high.bias]))
        # Above the last layer there is none: it is copied, as in cloning.
        assert torch.allclose(ours[1].weight[n:], widened(high.weight))
        assert not torch.allclose(ours[0].weight[n:], widened(low.weight), atol=1e-3)
    for kind in ("attention.output.LayerNorm", "output.LayerNorm"):  # norms are copied
        theirs = teacher.bert.encoder.layer[0].get_submodule(kind).weight
        assert torch.equal(student.bert.encoder.layer[0].get_submodule(kind).weight, theirs.repeat(2))


def test_it_stacks_the_widened_layers() -> None:
    student = from_weak_teacher(tiny("bert"), hidden_size=32, num_hidden_layers=4, init="aki")
    layers = [layer.state_dict() for layer in student.bert.encoder.layer]
    for a, b, same in ((0, 2, True), (1, 3, True), (0, 1, False)):
        assert all(torch.equal(layers[a][key], layers[b][key]) for key in layers[0]) is same
    repeated = from_weak_teacher(tiny("bert"), num_hidden_layers=4, init="aki", depth="repeat_each")
    assert "0<-0 1<-0 2<-1 3<-1" in str(repeated.growth_report)


@pytest.mark.parametrize("name", TWELVE)
def test_any_architecture_that_has_a_plan(name: str) -> None:
    teacher = teacher_of(name)
    for size in (64, 48):
        student = from_weak_teacher(teacher, hidden_size=size, num_hidden_layers=4, init="aki")
        report = student.growth_report
        # Not exact, and the report says by how much: what was measured here on other batches is near.
        assert report.preserved is False and report.difference > 1e-2
        assert 0.3 < apart(teacher, student) / report.difference < 3
        assert "are from the layer above" in report.notes[0] and report.fresh == 0
        assert "does not compute what its teacher does" in str(report)


def test_where_no_neuron_is_new_it_is_the_teacher() -> None:
    student = from_weak_teacher(tiny("llama"), init="aki")
    assert student.growth_report.preserved and apart(tiny("llama"), student) < 1e-6


def test_copies_part_in_training() -> None:
    """What the layer above is for: cloned without asymmetry, both halves would stay equal."""
    student = from_weak_teacher(tiny("llama"), hidden_size=32, init="aki").train()
    batch = random_batch(student, 5)
    student(**batch, labels=batch["input_ids"]).loss.backward()
    first, second = student.model.layers[0].mlp.up_proj.weight.grad.chunk(2)
    assert (first - second).abs().max() > 1e-5
