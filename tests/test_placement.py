"""Where a teacher's weights lie: which modules are its layers, what each placement keeps, and which is chosen."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_dwt.errors import ArgumentError, DistillationError, TeacherError
from hf_dwt.teachers.cache.keys import teacher_fingerprint
from hf_dwt.teachers.placement import PLACEMENTS, Setting, choice, choose
from hf_dwt.teachers.placement.layers import layers_of, nbytes, size_of, twin, whole_tensors
from hf_dwt.teachers.placement.offload import offload

from .invariants.layouts import Knowing
from .models import BUILDERS, batch, tiny
from .training import history, ragged_examples, trainer

CPU = torch.device("cpu")
HF = [name for name in BUILDERS if name != "resnet"]


# ---- layers ----


@pytest.mark.parametrize("name", HF)
def test_the_layers_of_a_model_are_most_of_it_and_neither_its_head_nor_its_embeddings(name: str) -> None:
    model = tiny(name)
    layers = layers_of(model)
    assert layers and sum(p.numel() for layer in layers for p in layer.parameters()) > 0
    owned = [id(parameter) for layer in layers for parameter in layer.parameters()]
    rest = [id(parameter) for parameter in whole_tensors(model, layers)]
    assert len(set(owned)) == len(owned) and not set(owned) & set(rest)
    assert set(owned) | set(rest) == {id(parameter) for parameter in model.parameters()}
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    assert {id(p) for end in ends if end is not None for p in end.parameters()} <= set(rest)


class Made(nn.Module):
    """Two stacks, one within lists of lists; a layer of experts; two layers that share a matrix; one in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleList([nn.Linear(2, 2)])])
        self.experts = nn.ModuleList([nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))])
        self.shared = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.shared[1].weight = self.shared[0].weight
        self.again = nn.ModuleList([nn.Linear(2, 2)])
        self.head = nn.Linear(2, 2)
        self.head.weight = self.again[0].weight
        self.empty = nn.ModuleList([nn.Identity()])


def test_what_is_called_by_parts_or_shares_a_parameter_is_no_layer() -> None:
    model: Any = Made()
    assert layers_of(model) == [model.blocks[0][0], model.blocks[1][0], model.experts[0]]
    size = size_of(model)
    matrix, bias = 4 * 4, 2 * 4
    assert size == (2 * matrix + 4 * bias, 4 * (matrix + bias), 2 * (matrix + bias))
    assert size.total == nbytes(model.parameters())


def test_a_twin_shares_memory_and_nothing_else() -> None:
    model = tiny("bert").train()
    other = twin(model)
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(p is not theirs[n] and p.data_ptr() == theirs[n].data_ptr() for n, p in ours.items())
    assert not any(p.requires_grad for p in theirs.values()) and all(p.requires_grad for p in ours.values())
    assert other.get_output_embeddings().weight is other.get_input_embeddings().weight
    other.eval()
    assert all(module.training for module in model.modules())


# ---- offloading ----


@pytest.mark.parametrize("name", HF)
def test_offloaded_layers_hold_nothing_between_calls_and_give_the_same(name: str) -> None:
    model = tiny(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    inputs = batch(model)
    with torch.no_grad():
        expected = model(**inputs).logits
        placed = offload(model, CPU)
        for _ in range(2):
            assert all(p.is_meta for layer in layers_of(placed) for p in layer.parameters())
            assert not any(p.is_meta for p in whole_tensors(placed, layers_of(placed)))
            assert torch.equal(placed(**inputs).logits, expected)
    assert teacher_fingerprint(placed) == teacher_fingerprint(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())


def test_a_run_with_an_offloaded_teacher_takes_the_same_steps(tmp_path: Path) -> None:
    teacher = tiny("llama", seed=1).train()
    settings: dict[str, Any] = {"soft_weight_schedule": "constant", "eval_strategy": "steps", "eval_steps": 2}
    found = {}
    for placement in ("replicate", "offload"):
        more = {"eval_dataset": ragged_examples(7, seed=4)}
        run: Any = trainer(tiny("llama"), teacher, tmp_path, teacher_placement=placement, more=more, **settings)
        split = placement == "offload"
        assert run.teacher.row_logits.last_modules == (() if split else None)  # its trial keeps all layers at once
        run.train()
        found[placement] = [history(run, "loss", "grad_norm", "soft_loss"), run.evaluate()["eval_soft_loss"]]
        assert run.teacher.row_logits.defers and (run.teacher.model is not teacher) is split
        assert bool(run.teacher.row_logits.last_modules) is not split
    assert found["offload"][1] == pytest.approx(found["replicate"][1], rel=1e-6)
    torch.testing.assert_close(
        torch.tensor(found["offload"][0]), torch.tensor(found["replicate"][0]), rtol=1e-6, atol=0
    )
    assert all(module.training for module in teacher.modules()) and all(p.requires_grad for p in teacher.parameters())


# ---- choosing ----


def chosen(
    monkeypatch: pytest.MonkeyPatch, free: int | None, name: str = "auto", kind: str = "cuda", **setting: Any
) -> str:
    """The name of the placement for a teacher of 10 layers, which lies on the CPU, beside `free` bytes."""
    monkeypatch.setattr(choice, "free_bytes", lambda device: free)
    teacher = tiny("llama", num_hidden_layers=10)
    return choose(name, PLACEMENTS, teacher, Setting(torch.device(kind), **setting)).name


SIZE = size_of(tiny("llama", num_hidden_layers=10))
SHARDED = SIZE.whole + SIZE.layers // 4 + 2 * SIZE.largest
"""Bytes of each of four processes."""


@pytest.mark.parametrize(
    ("free", "processes", "expected", "name"),
    [
        (SIZE.total / 0.8 + 1, 4, 0, "replicate"),
        (SIZE.total / 0.8 - 1, 4, 0, "shard"),
        (SIZE.total / 0.8 - 1, 1, 0, "offload"),
        (SHARDED / 0.8 + 1, 4, 0, "shard"),
        (SHARDED / 0.8 - 1, 4, 0, "offload"),
        (SIZE.total / 0.8 + 1e6, 4, 999_999, "replicate"),
        (SIZE.total / 0.8 + 1e6, 4, 1_000_001, "shard"),
        (SIZE.whole + SIZE.largest, 4, 10**9, "offload"),  # the least, where none fits beside the student
        (None, 4, 10**12, "replicate"),
    ],
)
def test_auto_takes_the_first_that_fits_in_what_training_leaves(
    free: float | None, processes: int, expected: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = chosen(monkeypatch, None if free is None else int(free), processes=processes, expected=expected)
    assert found == name


def test_on_the_cpu_its_own_memory_counts_and_offloading_frees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, SIZE.total // 4 + 1, kind="cpu") == "replicate"
    assert chosen(monkeypatch, 0, kind="cpu", expected=10**9) == "replicate"
    assert chosen(monkeypatch, 0, kind="cpu", processes=4) == "shard"


def test_all_processes_choose_by_the_fullest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, 10**9, processes=4, lowest=lambda own: SHARDED * 2) == "shard"


def test_one_line_says_what_auto_chose_unless_it_is_to_replicate(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hf_dwt")
    chosen(monkeypatch, 10**9)
    chosen(monkeypatch, SHARDED * 2, processes=4, is_first=False)
    chosen(monkeypatch, SHARDED * 2, "shard", processes=4)
    assert not caplog.records
    chosen(monkeypatch, SHARDED * 2, processes=4, expected=1000)
    (line,) = caplog.messages
    for part in ("'auto' chooses 'shard'", "0.102 MB", "MB are free", "0.001 MB"):
        assert part in line, line


def test_a_teacher_that_is_placed_already_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "free_bytes", lambda device: 1)
    for name, value in (("is_quantized", True), ("hf_device_map", {"": 0})):
        teacher = tiny("bert")
        setattr(teacher, name, value)
        setting = Setting(CPU, processes=2)
        assert choose("auto", PLACEMENTS, teacher, setting).name == "replicate"
        for placement in ("shard", "offload"):
            with pytest.raises(TeacherError, match=f"teacher_placement='{placement}'.*BertForMaskedLM.*quantised"):
                choose(placement, PLACEMENTS, teacher, setting)


@pytest.mark.parametrize(
    ("name", "free", "words"),
    [
        ("replicate", SIZE.total - 1, ["0.102 MB of a teacher of 0.102 MB", "'offload' ("]),
        ("offload", 9, ["9e-06 MB are free", "'dtype': 'bfloat16'"]),
        ("auto", 9, ["teacher_placement='auto'", "9e-06 MB are free", "take a smaller teacher"]),
    ],
)
def test_a_teacher_that_is_too_large_is_refused_with_the_numbers(
    name: str, free: int, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TeacherError) as caught:
        chosen(monkeypatch, free, name)
    assert all(word in str(caught.value) for word in words), str(caught.value)


# ---- through the trainer, before the first step ----


@pytest.mark.parametrize(
    ("teacher", "placement", "words"),
    [
        ("bert", "shard", ["teacher_placement='shard'", "2 or more processes, and there is 1", "'offload'"]),
        (Knowing(), "offload", ["teacher_placement='offload'", "Knowing", "only the weights of a model"]),
        ("compiled", "offload", ["teacher_placement='offload'", "compiled as a whole"]),
        ("bert", "disk", ["teacher_placement='disk'", "auto, replicate, shard, offload"]),
    ],
)
def test_a_placement_that_cannot_be_is_an_error_before_the_first_step(
    teacher: Any, placement: str, words: list[str], tmp_path: Path
) -> None:
    given = tiny("bert", seed=1) if isinstance(teacher, str) else teacher
    if teacher == "compiled":
        given.compile(backend="eager")
    with pytest.raises(DistillationError) as caught:
        trainer(tiny("bert"), given, tmp_path, teacher_placement=placement)
    assert isinstance(caught.value, ArgumentError if placement == "disk" else TeacherError)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_memory_is_measured_where_it_is_known() -> None:
    assert isinstance(free := choice.free_bytes(CPU), int) and free > 0
    assert choice.free_bytes(torch.device("mps")) is None
