"""Tasks whose rows are no tokens: independent labels, numbers, images, choices and answers in a text."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Trainer

from hf_dwt import DistillationTrainer, from_weak_teacher
from hf_dwt.assess import assess_teacher
from hf_dwt.errors import ArgumentError, DataError, SetupError, TaskError, TeacherError
from hf_dwt.teachers import OtherTokenizer, SeveralTeachers

from .tasks import CASES, LENGTH, Case, stack
from .training import arguments, history

WEIGHTS: dict[str, Any] = {"hard_weight": 0.7, "soft_weight": 1.3, "soft_weight_schedule": "constant"}
SOFTENED = {"temperature": 2.0, "soft_loss_scaling": "tau_squared"}
every_task = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def build(case: Case, teacher: Any, out: Path, student: Any = None, **settings: Any) -> DistillationTrainer:
    settings = {**WEIGHTS, **settings} if teacher is not None else settings
    return DistillationTrainer(
        student or case.model(),
        arguments(out, **settings),
        stack,
        case.examples(),
        case.examples(7),
        teacher_model=teacher,
    )


@every_task
def test_without_a_teacher_the_steps_are_those_of_stock_trainer(case: Case, tmp_path: Path) -> None:
    stock = Trainer(case.model(), arguments(tmp_path, max_steps=3), stack, case.examples())
    ours = build(case, None, tmp_path, max_steps=3)
    stock.train()
    ours.train()
    expected = history(stock, "loss", "grad_norm")  # type: ignore[arg-type]
    assert len(expected) == 3 and len({loss for loss, _ in expected}) == 3
    np.testing.assert_allclose(history(ours, "loss", "grad_norm"), expected, rtol=1e-5)


@every_task
def test_loss_and_gradients_are_those_of_a_float64_reference(case: Case, tmp_path: Path) -> None:
    teacher = case.model(seed=1)
    run = build(case, teacher, tmp_path, **(SOFTENED if case.tau else {}))
    batch = stack(case.examples(8))
    student, wide, other = run.model.train(), copy.deepcopy(run.model).double(), copy.deepcopy(teacher).double()
    inputs = {k: v for k, v in widened(batch).items() if k not in run.task.labels}
    hard = case.hard(wide(**inputs), widened(batch))
    soft = case.soft(wide(**inputs), other(**inputs)) * (4.0 if case.tau else 1.0)
    if len(soft) > len(hard):  # rows without a label have no soft term either
        counts = torch.cat([batch[name] < LENGTH for name in run.task.labels])
        soft = soft[counts]
    assert len(soft) == len(hard) and soft.min() > 0
    expected = 0.7 * hard.mean() + 1.3 * soft.mean()
    expected.backward()
    loss = run.compute_loss(student, batch)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    assert len(gradients) > 20
    for name, parameter in wide.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name].double(), parameter.grad, rtol=1e-4, atol=1e-6)


@every_task
def test_evaluation_has_the_figures_of_both_models(case: Case, tmp_path: Path) -> None:
    teacher = case.model(seed=1)
    figures = build(case, teacher, tmp_path, per_device_eval_batch_size=2).evaluate()
    batch = stack(case.examples(7))
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "start_positions", "end_positions")}
    with torch.no_grad():
        own, other = (case.hard(model(**inputs), batch).mean().item() for model in (case.model(), teacher))
    assert figures["eval_loss"] == pytest.approx(own, rel=1e-5)
    assert figures["eval_teacher_loss"] == pytest.approx(other, rel=1e-5)
    assert figures["eval_soft_loss"] > 1e-3
    of_classes = {"eval_perplexity", "eval_accuracy", "eval_teacher_accuracy", "eval_teacher_agreement"}
    assert of_classes & set(figures) == (of_classes if case.tau else set())  # numbers have no classes


@every_task
def test_a_teacher_that_is_the_student_has_no_soft_term(case: Case, tmp_path: Path) -> None:
    run = build(case, case.model(), tmp_path, max_steps=1)
    run.train()
    (soft, hard), *_ = history(run, "soft_loss", "hard_loss")
    assert soft == pytest.approx(0.0, abs=1e-6) and hard > 1e-2


def test_an_image_classifier_that_was_grown_predicts_as_its_teacher(tmp_path: Path) -> None:
    case = CASES["image"]
    teacher = case.model(1)
    teacher.save_pretrained(tmp_path / "teacher")
    student = from_weak_teacher(tmp_path / "teacher", hidden_size=32, init="clone")
    run = build(case, tmp_path / "teacher", tmp_path, student, max_steps=1)
    before = run.evaluate()
    assert before["eval_soft_loss"] < 1e-6 and before["eval_loss"] == pytest.approx(
        before["eval_teacher_loss"], rel=1e-4
    )
    run.train()
    assert run.evaluate()["eval_soft_loss"] > 1e-6


def one_each(student: Tensor, teacher: Tensor, examples: Tensor) -> Tensor:
    return student.sum(1) * 0.0 + 1.0


@pytest.mark.parametrize("name", ["multi-label", "regression of two", "question answering"])
def test_a_hidden_term_counts_once_for_each_row(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    run = build(case, case.model(1), tmp_path, max_steps=1, hidden_term=one_each)
    run.train()
    assert history(run, "hidden_loss") == [pytest.approx((1.0,), rel=1e-6)]


def test_what_a_regression_does_not_have_is_refused_before_the_first_step(tmp_path: Path) -> None:
    case = CASES["regression"]
    teacher = SeveralTeachers([case.model(1), case.model(2)])
    settings = {"temperature": 2.0, "soft_term": torch.nn.functional.cosine_similarity, "label_smoothing_factor": 0.1}
    with pytest.raises(SetupError) as caught:
        build(case, teacher, tmp_path, **settings, teacher_correction="gate", soft_weight_schedule="auto")
    refused = {problem.argument for problem in caught.value.problems}
    assert {*settings, "teacher_correction", "soft_weight_schedule", "teacher_model"} <= refused
    build(case, None, tmp_path)  # what is of the teacher alone has no effect without one


@pytest.mark.parametrize(
    ("name", "settings", "argument"),
    [
        ("question answering", {"teacher_cache": "cache"}, "teacher_cache"),
        ("image", {"hidden_term": "relations"}, "hidden_term"),
        ("multiple choice", {"hidden_term": "relations"}, "hidden_term"),
    ],
)
def test_what_a_task_does_not_have_is_refused(
    name: str, settings: dict[str, Any], argument: str, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=argument):
        build(CASES[name], CASES[name].model(1), tmp_path, **settings)


def test_teachers_of_another_outcome_or_reading_are_refused(tmp_path: Path) -> None:
    case = CASES["multi-label"]
    other = case.model(1)
    other.config.problem_type = None  # exclusive classes
    with pytest.raises(TeacherError, match="problem_type"):
        build(case, other, tmp_path)
    with pytest.raises((SetupError, TeacherError), match="reads the classes of texts"):
        build(case, OtherTokenizer(case.model(1)), tmp_path)
    with pytest.raises(TaskError, match="exclusive classes are needed"):
        assess_teacher(case.model(), case.examples())


@pytest.mark.parametrize(
    ("name", "labels", "problem"),
    [
        ("multi-label", [0.0, 0.5, 1.0], "0.5.*neither 0 nor 1"),
        ("multi-label", 1, "1 an example, and the model has 3 outputs"),
        ("regression", float("nan"), "no finite numbers"),
        ("image", 1.5, "problem_type"),
    ],
)
def test_labels_that_do_not_fit_the_problem_are_refused(name: str, labels: Any, problem: str, tmp_path: Path) -> None:
    run = build(CASES[name], None, tmp_path)
    run.train_dataset = [{**example, "labels": labels} for example in run.train_dataset]
    with pytest.raises(DataError, match=problem):
        run.train()


def test_labels_that_are_not_known_do_not_count(tmp_path: Path) -> None:
    """Of a multi-label example: its loss is the mean over the others."""
    case = CASES["multi-label"]
    run, batch = build(case, None, tmp_path), stack(case.examples(4))
    batch["labels"][1, 2] = batch["labels"][3, 0] = -100.0
    rows, loss = case.hard(run.model(batch["input_ids"]), batch), run.compute_loss(run.model, batch)
    known = rows[(batch["labels"] != -100).view(-1)]
    assert isinstance(loss, Tensor) and len(known) == 10
    assert loss.item() == pytest.approx(known.mean().item(), rel=1e-5)


def widened(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
