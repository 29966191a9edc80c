"""Which checkpoint a run goes on from, what is said of it, and when there is nothing to go on with."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_dwt import DistillationTrainer
from hf_dwt.errors import ArgumentError
from hf_dwt.training.resume import last_whole_checkpoint

from .models import tiny
from .training import trainer

RATE = 5e-3


def build(out: Path, steps: int, rate: float = RATE, **settings: Any) -> DistillationTrainer:
    """A run whose first steps do not depend on its length, with a save at the end."""
    saved: dict[str, Any] = {"save_strategy": "steps", "save_steps": steps, "soft_weight_schedule": "constant"}
    settings = {**saved, **settings}
    return trainer(tiny("bert"), tiny("bert", seed=1), out, max_steps=steps, learning_rate=rate, **settings)


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoint-4 of one run, and checkpoint-2 of a later one."""
    folder = tmp_path_factory.mktemp("twice")
    build(folder, 4, rate=1e-4, weight_decay=0.1).train()
    build(folder, 2).train()
    return folder


@pytest.fixture
def copied(twice: Path, tmp_path: Path) -> Path:
    """The same with the times of its files lost: the earlier run's seem the later ones."""
    folder = tmp_path / "copied"
    shutil.copytree(twice, folder)
    for number, name in enumerate(("checkpoint-2", "checkpoint-4")):
        for path in (folder / name).iterdir():
            os.utime(path, (1e9 + number, 1e9 + number))
    return folder


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "hf_dwt.training.resume"]


def weights(run: DistillationTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])  # type: ignore[union-attr]


def test_a_run_goes_on_with_the_checkpoint_of_the_latest_run(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = build(tmp_path / "whole", 3)
    whole.train()
    run = build(copied, 3)
    with caplog.at_level(logging.WARNING, "hf_dwt.training.resume"):
        result = run.train(resume_from_checkpoint=True)
    assert result.global_step == 3
    assert torch.equal(weights(run), weights(whole))
    stale, *rest = lines(caplog)
    assert "checkpoint-2 was saved last" in stale and "left out: checkpoint-4" in stale
    assert [line for line in rest if "max_steps: 2 there, 3 here" not in line] == []
    other = build(tmp_path / "other", 5)
    other.train(resume_from_checkpoint=str(copied / "checkpoint-4"))  # by name it may be the earlier run's
    assert other.state.global_step == 5


def test_a_checkpoint_without_a_time_of_its_own_has_its_files(copied: Path) -> None:
    for name in ("checkpoint-2", "checkpoint-4"):
        path = copied / name / "trainer_state.json"
        path.write_text('{"global_step": 4}')
        os.utime(path, (1e9 + (name == "checkpoint-2"),) * 2)
    assert last_whole_checkpoint(copied) == str(copied / "checkpoint-2")
    os.utime(copied / "checkpoint-4" / "trainer_state.json", (2e9, 2e9))
    assert last_whole_checkpoint(copied) == str(copied / "checkpoint-4")


def test_what_differs_from_the_checkpoints_arguments_is_named(
    twice: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = str(twice / "checkpoint-4")
    changed: dict[str, Any] = {"temperature": 2.0, "soft_weight_schedule": "linear_decay", "logging_steps": 3}
    changed |= {"teacher_placement": "offload"}
    with caplog.at_level(logging.WARNING, "hf_dwt.training.resume"):
        build(tmp_path, 5, **changed).train(resume_from_checkpoint=checkpoint)
    (line,) = lines(caplog)
    assert checkpoint in line
    for words in (
        "temperature: 1.0 there, 2.0 here",
        "soft_weight_schedule: constant there, linear_decay here",
        f"learning_rate: 0.0001 there, {RATE} here",
        "max_steps: 4 there, 5 here",
        "weight_decay: 0.1 there, default here",
    ):
        assert words in line
    assert not any(name in line for name in ("logging_steps", "save_steps", "hard_weight", "seed", "teacher_"))


def test_the_same_arguments_go_on_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"save_steps": 2}
    build(tmp_path, 3, **settings).train()
    with caplog.at_level(logging.WARNING, "hf_dwt.training.resume"):
        build(tmp_path, 3, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert not lines(caplog)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("settings", "name"),
    [({"steps": 2}, "max_steps"), ({"steps": 1}, "max_steps"), ({"steps": -1, "epochs": 0.4}, "num_train_epochs")],
)
def test_a_run_that_is_over_is_refused(settings: dict[str, Any], name: str, named: bool, twice: Path) -> None:
    """The Trainer goes one step beyond the end where it is told to stop after so many steps."""
    run = build(twice, settings["steps"], save_steps=100, num_train_epochs=settings.get("epochs", 3))
    before = weights(run)
    with pytest.raises(ArgumentError, match=f"{name}=.*checkpoint-2.*nothing is left to train. Raise {name}"):
        run.train(resume_from_checkpoint=str(twice / "checkpoint-2") if named else True)
    assert torch.equal(weights(run), before)
