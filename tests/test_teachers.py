"""The teacher: frozen, apart from the student, and in no checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from hf_dwt.forward.rows import Rows, select_rows
from hf_dwt.objective import Targets
from hf_dwt.tasks import find_task
from hf_dwt.teachers import (
    ColumnTeacher,
    CorrectedTeacher,
    OnlineTeacher,
    OtherTokenizer,
    SeveralTeachers,
    Teacher,
)
from hf_dwt.teachers.frozen import FrozenTeacher

from .models import VOCAB, batch, tiny
from .training import trainer


def weigh(figures: Any, temperature: float) -> torch.Tensor:
    return torch.softmax(figures.log_probs, 1)


@pytest.mark.parametrize(
    ("teacher", "shown"),
    [
        (SeveralTeachers(["a", "b"]), "SeveralTeachers({'0': 'a', '1': 'b'})"),
        (
            SeveralTeachers({"x": tiny("bert"), "y": CorrectedTeacher("b", "revise", eta=0.8)}, weigh, "row", 0.5),
            "SeveralTeachers({'x': BertForMaskedLM, 'y': CorrectedTeacher('b', 'revise', eta=0.8)}, "
            "weighting=weigh, over='row', temperature=0.5)",
        ),
        (OnlineTeacher("a", LoraConfig(), follow=1.0), "OnlineTeacher('a', LoraConfig, follow=1.0)"),
        (OtherTokenizer(Path("a")), "OtherTokenizer('a')"),
        (OtherTokenizer("a", "b"), "OtherTokenizer('a', tokenizer='b')"),
        (ColumnTeacher(aligned="position"), "ColumnTeacher(aligned='position')"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_teacher_is_shown_as_the_call_that_made_it(teacher: Any, shown: str) -> None:
    assert repr(teacher) == shown


def test_a_frozen_teacher_speaks_for_the_rows() -> None:
    model = tiny("bert", seed=1)
    inputs = batch(model)
    rows = select_rows(inputs["labels"], shifts=False)
    teacher = FrozenTeacher(model, find_task(model), shared_classes=VOCAB - 3)
    assert isinstance(teacher, Teacher)
    logits, *others = teacher.targets({**inputs, "unknown": torch.zeros(1)}, rows)
    with torch.no_grad():
        expected = rows.take(model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits)
    assert not any(others) and logits.shape == (len(rows.labels), VOCAB - 3) and not logits[:].requires_grad
    torch.testing.assert_close(logits[:], expected[:, : VOCAB - 3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_training_leaves_the_teacher_as_it_was(name: str, tmp_path: Path) -> None:
    student, teacher = tiny(name), tiny(name, seed=1)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    start = {key: value.clone() for key, value in student.state_dict().items()}
    run = trainer(student, teacher, tmp_path, soft_weight_schedule="constant", save_strategy="steps", save_steps=5)
    run.train()
    run.evaluate(run.train_dataset)
    after = teacher.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(not torch.equal(value, start[key]) for key, value in student.state_dict().items())  # it did train


def test_the_teacher_is_in_no_checkpoint(tmp_path: Path) -> None:
    student, teacher = tiny("bert"), tiny("bert", seed=1, intermediate_size=24)
    run = trainer(student, teacher, tmp_path, soft_weight_schedule="constant", save_strategy="steps", save_steps=5)
    run.train()
    run.save_model()
    names = {id(parameter) for group in run.optimizer.param_groups for parameter in group["params"]}
    assert names.isdisjoint(id(parameter) for parameter in teacher.parameters())
    assert not any(module is teacher for module in student.modules())
    for folder in (tmp_path, tmp_path / "checkpoint-5"):
        saved = load_file(folder / "model.safetensors")
        assert saved.keys() <= student.state_dict().keys()
        assert not any(24 in value.shape for value in saved.values())  # the teacher's own width
        arguments = torch.load(folder / "training_args.bin", weights_only=False)
        assert not any(isinstance(value, torch.nn.Module) for value in vars(arguments).values())
    moments = torch.load(tmp_path / "checkpoint-5" / "optimizer.pt", weights_only=True)["state"]
    assert not any(24 in moment["exp_avg"].shape for moment in moments.values())
    assert any(24 in parameter.shape for parameter in teacher.parameters())  # what would have been found


class Oracle:
    """A teacher of the user's own: it knows the labels."""

    columns: frozenset[str] = frozenset({"labels"})

    def __init__(self) -> None:
        self.calls = 0

    def targets(self, batch: Any, rows: Rows) -> Targets:
        self.calls += 1
        return Targets(10.0 * torch.nn.functional.one_hot(rows.labels, VOCAB).float())


def test_any_object_with_the_protocol_teaches(tmp_path: Path) -> None:
    oracle = Oracle()
    run = trainer(tiny("bert"), oracle, tmp_path, soft_weight_schedule="constant", learning_rate=1e-2, max_steps=20)
    before = run.evaluate(run.train_dataset)
    run.train()
    after = run.evaluate(run.train_dataset)
    assert after["eval_soft_loss"] < before["eval_soft_loss"] - 0.1
    assert after["eval_teacher_agreement"] == after["eval_accuracy"] and after["eval_teacher_loss"] < 0.01
    assert oracle.calls > 20


def test_a_faded_teacher_is_not_asked(tmp_path: Path) -> None:
    """What makes a fading schedule cheaper than a constant one."""
    for until, calls in ((0.4, 2), (1.0, 5)):
        oracle = Oracle()
        trainer(
            tiny("bert"),
            oracle,
            tmp_path,
            soft_weight_schedule="step_off",
            soft_weight_schedule_kwargs={"until": until},
        ).train()
        assert oracle.calls == calls
