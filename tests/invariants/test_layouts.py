"""Any split of the same samples over micro-batches and processes gives the same step."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import Trainer

from hf_dwt import DistillationTrainer
from hf_dwt.objective.corrections import CORRECTIONS
from tests.models import tiny
from tests.processes import run_in_two_processes
from tests.tasks import CASES
from tests.training import arguments, history, pad, ragged_examples

from .layouts import (
    ARCHITECTURES,
    COMPARED,
    MIXED,
    SPLITS,
    adaptive_steps,
    after_an_evaluation,
    compared_steps,
    corrected_steps,
    evaluation,
    logs,
    mixed_steps,
    on_each_process,
    steps,
    task_steps,
)

whole_step = cache(lambda name, setting: steps(name, setting, 8))


@pytest.fixture(scope="module")
def two_processes() -> dict[str, Any]:
    """The steps of all architectures and settings in two processes that reduce over gloo."""
    results: dict[str, Any] = run_in_two_processes(on_each_process)
    assert results["processes"] == 2
    return results


@pytest.mark.parametrize(("name", "micro", "setting"), SPLITS)
def test_micro_batches_leave_the_step_as_it_is(name: str, micro: int, setting: str) -> None:
    expected = whole_step(name, setting)
    assert len(expected) == 5 and len({loss for loss, _ in expected}) == 5  # it trains: the steps differ
    np.testing.assert_allclose(steps(name, setting, micro), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_chunks_leave_the_step_as_it_is(name: str) -> None:
    plain = steps(name, "one to one", 8, loss_kernel="plain")
    np.testing.assert_allclose(whole_step(name, "one to one"), plain, rtol=1e-5)


@pytest.mark.parametrize(("name", "micro", "setting"), SPLITS)
def test_processes_leave_the_step_as_it_is(two_processes: dict[str, Any], name: str, micro: int, setting: str) -> None:
    np.testing.assert_allclose(two_processes["steps"][name, micro, setting], whole_step(name, setting), rtol=1e-5)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_corrections_are_the_same_however_a_step_is_split(two_processes: dict[str, Any], name: str) -> None:
    expected = corrected_steps(name, 8)
    assert max(abs(a - b) for (a, _), (b, _) in zip(expected, whole_step("bert", "schedule"), strict=True)) > 1e-3
    np.testing.assert_allclose(corrected_steps(name, 2), expected, rtol=1e-5)
    np.testing.assert_allclose(two_processes["corrected"][name], expected, rtol=1e-5)


@pytest.mark.parametrize("name", MIXED)
def test_several_teachers_are_the_same_however_a_step_is_split(two_processes: dict[str, Any], name: str) -> None:
    """Those of a policy too: what it chooses, learns and averages over steps."""
    expected = mixed_steps(name, 8)
    assert len({loss for loss, *_ in expected}) == 5
    np.testing.assert_allclose(mixed_steps(name, 2), expected, rtol=1e-5)
    np.testing.assert_allclose(two_processes["mixed"][name], expected, rtol=1e-5)


@pytest.mark.parametrize("name", COMPARED)
def test_hidden_terms_are_the_same_however_a_step_is_split(two_processes: dict[str, Any], name: str) -> None:
    """Their projectors too: a step of theirs changes the loss of the next."""
    expected = compared_steps(name, 8)
    assert len({hidden for *_, hidden in expected}) == 5 and min(hidden for *_, hidden in expected) > 1e-3
    np.testing.assert_allclose(compared_steps(name, 2), expected, rtol=1e-5)
    np.testing.assert_allclose(two_processes["compared"][name], expected, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_every_task_is_the_same_however_a_step_is_split(two_processes: dict[str, Any], name: str) -> None:
    """Also where a micro-batch has fewer rows than others: answers that lie behind the text."""
    expected = task_steps(name, 8)
    assert len({loss for loss, _ in expected}) == 3
    np.testing.assert_allclose(task_steps(name, 2), expected, rtol=1e-5)
    np.testing.assert_allclose(two_processes["tasks"][name], expected, rtol=1e-5)


def test_processes_leave_an_evaluation_as_it_is(two_processes: dict[str, Any]) -> None:
    """Also where examples are repeated to fill the last batch of each process."""
    assert two_processes["evaluation"] == pytest.approx(evaluation(7), rel=1e-5)
    assert evaluation(7)["loss"] != evaluation(7)["teacher_loss"]


def test_processes_leave_the_logged_terms_as_they_are(two_processes: dict[str, Any]) -> None:
    np.testing.assert_allclose(two_processes["logs"], logs(), rtol=1e-5)


def test_an_evaluation_before_training_leaves_it_as_it_is(two_processes: dict[str, Any]) -> None:
    """The mark that accelerate leaves then must not keep the processes from reducing their gradients."""
    np.testing.assert_allclose(two_processes["after an evaluation"], after_an_evaluation(), rtol=1e-5)


def test_weights_that_follow_the_run_are_the_same_however_a_step_is_split(two_processes: dict[str, Any]) -> None:
    whole = adaptive_steps(8)
    weights = [weight for _, weight in whole]
    assert weights[0] == 1.0 and len(set(weights)) == 3 and all(0.05 < weight < 1 for weight in weights[1:])
    np.testing.assert_allclose(adaptive_steps(2), whole, rtol=1e-5)
    np.testing.assert_allclose(two_processes["adaptive"], whole, rtol=1e-5)


def test_ragged_label_counts_are_among_the_samples() -> None:
    counts = [sum(label != -100 for label in example["labels"]) for example in ragged_examples()]
    per_micro = [sum(counts[start : start + 2]) for start in range(0, 40, 2)]
    assert len(set(per_micro)) > 3 and 0 in counts


def test_the_comparison_sees_a_loss_divided_per_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DistillationTrainer, "loss_is_scaled_for_ga", False)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(steps("bert", "one to one", 2), whole_step("bert", "one to one"), rtol=1e-5)


def test_the_comparison_sees_a_mean_over_each_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trainer built on the model's own loss does: every micro-batch counts alike, however few its rows."""
    original = DistillationTrainer.compute_loss

    def mean(self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        return original(self, model, inputs, return_outputs) / self.current_gradient_accumulation_steps

    monkeypatch.setattr(DistillationTrainer, "compute_loss", mean)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(steps("bert", "hard alone", 2), whole_step("bert", "hard alone"), rtol=1e-5)


def test_hard_term_alone_is_the_loss_of_stock_trainer_on_whole_batches(tmp_path: Path) -> None:
    """An independent reference: without accumulation stock Trainer's loss of a masked LM is right."""
    args = arguments(tmp_path, soft_weight=0.0)
    stock = Trainer(tiny("bert"), args, data_collator=pad, train_dataset=ragged_examples())
    stock.train()
    ours = [loss for loss, _ in whole_step("bert", "hard alone")]
    np.testing.assert_allclose(ours, np.ravel(history(stock, "loss")), rtol=1e-5)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            [loss for loss, _ in whole_step("bert", "one to one")], np.ravel(history(stock, "loss")), rtol=1e-5
        )
