"""Every start of the training loop equals a run that began so: at a smaller batch size, and in a search."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from hf_dwt import DistillationError, DistillationTrainer

from .invariants.layouts import Knowing
from .models import tiny
from .training import arguments, pad, ragged_examples, trainer

FITS = 4
"""Examples a batch that this machine has memory for."""


class OutOfMemory(TrainerCallback):
    """Says that there is no memory for more than `FITS` examples at step `at`; keeps the weights as they were then."""

    def __init__(self, at: int) -> None:
        self.at, self.weights = at, dict[str, torch.Tensor]()
        self.run: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.run._train_batch_size > FITS and state.global_step == self.at:
            self.weights = copy.deepcopy(kwargs["model"].state_dict())
            raise torch.OutOfMemoryError("CUDA out of memory.")


def build(out: Path, student: nn.Module, teacher: Any, **settings: Any) -> DistillationTrainer:
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 12, "logging_steps": 2, **settings}
    return trainer(student, teacher, out, train_dataset=ragged_examples(64), **settings)


def logged(run: DistillationTrainer) -> list[dict[str, float]]:
    """All that was logged but the clock, and the operations that were spent, on a batch that did not fit too."""
    of_the_clock = ("runtime", "per_second", "total_flos")
    return [{k: v for k, v in e.items() if not k.endswith(of_the_clock)} for e in run.state.log_history]


@pytest.mark.parametrize("at", [0, 2, 3])
@pytest.mark.parametrize("schedule", [None, "auto", "knowledge_inheritance"])
def test_a_restart_at_a_smaller_batch_size(schedule: str | None, at: int, tmp_path: Path) -> None:
    """SGD has no state, so all that the restarted run takes over are the weights as they were when memory ran out."""
    settings: dict[str, Any] = {"soft_weight_schedule": schedule} if schedule else {}
    student, teacher = tiny("bert"), Knowing() if schedule else None
    run = build(tmp_path, student, teacher, auto_find_batch_size=True, **settings)
    memory = OutOfMemory(at)
    memory.run = run
    run.add_callback(memory)
    run.train()
    assert run._train_batch_size == FITS and memory.weights
    same = tiny("bert", seed=3)
    same.load_state_dict(memory.weights)
    began = build(tmp_path, same, Knowing() if schedule else None, per_device_train_batch_size=FITS, **settings)
    began.train()
    assert logged(run) == logged(began)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in student.state_dict().items())
    other = [entry["hard_loss"] for entry in logged(run) if "hard_loss" in entry]
    assert len(other) == 6 and len(set(other)) == 6
    if schedule:
        assert len({entry["soft_weight"] for entry in logged(run) if "soft_weight" in entry}) > 1


@pytest.mark.parametrize("schedule", ["auto", "constant"])
def test_a_second_training_equals_the_first(schedule: str, tmp_path: Path) -> None:
    """Nothing of a run stays in the trainer but the student."""
    student = tiny("bert")
    start = copy.deepcopy(student.state_dict())
    run = build(tmp_path, student, Knowing(), soft_weight_schedule=schedule)
    run.train()
    first = logged(run)
    student.load_state_dict(start)
    run.optimizer = run.lr_scheduler = None  # type: ignore[assignment]  # the Trainer keeps these
    run.train()
    assert logged(run) == first


@pytest.mark.parametrize("schedule", [None, "auto", "knowledge_inheritance"])
def test_a_resumed_run_equals_the_whole_one(schedule: str | None, tmp_path: Path) -> None:
    """Whether or not there is a teacher; the checkpoint lies between two logs, and within a mean of the margin."""
    settings: dict[str, Any] = {"optim": "adamw_torch", "save_strategy": "steps", "save_steps": 5, "logging_steps": 3}
    settings |= {"soft_weight_schedule": schedule} if schedule else {}
    runs = [build(tmp_path, tiny("bert"), Knowing() if schedule else None, **settings) for _ in range(2)]
    runs[0].train()
    runs[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    steps = [[e for e in logged(run) if "train_loss" not in e] for run in runs]
    assert steps[0] == steps[1] and len(steps[0]) == 4
    weights: Any = [run.model for run in runs]
    assert all(torch.equal(v, weights[1].state_dict()[k]) for k, v in weights[0].state_dict().items())


# ---- hyperparameter search ----


SHORT: dict[str, Any] = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "learning_rate": 0.1}


def search(out: Path, name: str, values: list[Any], *, settings: Any = (), **keywords: Any) -> Any:
    """A finished search that goes through values in order.

    Its `searched` has what each trial logged, and its `objectives` what each was judged by, with all metrics.
    """
    args = arguments(out, **{**SHORT, "optim": "sgd", **dict(settings)})
    run: Any = DistillationTrainer(
        None,
        args,
        pad,
        ragged_examples(32),
        ragged_examples(16, seed=1),
        model_init=lambda: tiny("bert"),
        teacher_model=Knowing(),
        **keywords,
    )
    run.searched, run.objectives = [], []

    class Watch(TrainerCallback):
        def on_train_end(self, *_: Any, **__: Any) -> None:
            run.searched.append(logged(run))

    run.add_callback(Watch())
    report = run._report_to_hp_search

    def watched(trial: Any, step: int, metrics: dict[str, float]) -> None:
        report(trial, step, metrics)
        run.objectives.append((run.objective, metrics))

    run._report_to_hp_search = watched
    run.hyperparameter_search(lambda trial: {name: values[trial.number]}, n_trials=len(values), backend="optuna")
    return run


SEARCHED: dict[str, list[Any]] = {
    "soft_weight": [0.0, 1.0, 3.0],
    "hard_weight": [0.5, 1.0],
    "temperature": [1.0, 4.0],
    "soft_weight_schedule": ["auto", "constant", "step_off", "auto"],
    "soft_loss_scaling": ["none", "tau_squared"],
    "loss_kernel": ["plain", "auto"],
    "learning_rate": [0.1, 0.01],
}


@pytest.mark.parametrize("name", SEARCHED)
def test_each_trial_is_the_run_with_its_values(name: str, tmp_path: Path) -> None:
    settings = {"temperature": 2.0} if name == "soft_loss_scaling" else {}
    run = search(tmp_path, name, SEARCHED[name], settings=settings)
    for value, found in zip(SEARCHED[name], run.searched, strict=True):
        args = arguments(tmp_path, **{**SHORT, "optim": "sgd", **settings, name: value})
        data = ragged_examples(32), ragged_examples(16, seed=1)
        alone = DistillationTrainer(tiny("bert"), args, pad, *data, teacher_model=Knowing())
        alone.train()
        assert found == logged(alone)
    if name != "loss_kernel":  # which changes nothing
        assert run.searched[0] != run.searched[1]


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.0), ("soft_weight", -1.0), ("soft_term", "kl")])
def test_a_trial_is_checked_before_its_first_step(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match=f"^{name}={value!r}"):
        search(tmp_path, name, [value])


def test_a_search_minimises_what_stock_does(tmp_path: Path) -> None:
    """The loss; and where compute_metrics gives figures, their sum, with none that is added here."""
    run = search(tmp_path, "learning_rate", [0.1, 0.3])
    assert [found for found, _ in run.objectives] == [metrics["eval_loss"] for _, metrics in run.objectives]
    assert all("eval_perplexity" in metrics for _, metrics in run.objectives)
    more = search(tmp_path, "learning_rate", [0.1], compute_metrics=lambda _: {"accuracy": 2.0, "f1": 0.5})
    assert [found for found, _ in more.objectives] == [2.5]
