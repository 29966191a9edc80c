"""An interrupted run saves a whole checkpoint if asked to, says how to go on, and leaves signals as they were."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_dwt import DistillationTrainer
from hf_dwt.training import interrupting
from hf_dwt.training.resume import is_whole

from .models import tiny
from .processes import run_in_processes
from .training import history, ragged_examples, trainer

STEPS = 5


class Send(TrainerCallback):
    """Sends signals to its own process within the third step."""

    def __init__(self, *numbers: int, rank: int = 0) -> None:
        self.numbers, self.rank = numbers, rank

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for number in self.numbers if state.global_step == 2 and args.process_index == self.rank else ():
            signal.raise_signal(number)


def build(out: Path, *signals: int, rank: int = 0, **settings: Any) -> DistillationTrainer:
    more = {"callbacks": [Send(*signals, rank=rank)], "eval_dataset": ragged_examples(8)}
    return trainer(tiny("bert"), tiny("bert", seed=1), out, more=more, max_steps=STEPS, logging_steps=2, **settings)


def weights(run: DistillationTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A Ctrl-C has its effect also where the tests run in the background, in which it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """What a handler of the user's has got of SIGTERM, which would end the tests without one."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


def test_ctrl_c_saves_a_checkpoint_from_which_the_run_goes_on_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two logs, beside a best model of an earlier step, which alone stock would keep at the end."""
    best: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    best |= {"load_best_model_at_end": True, "save_total_limit": 1, "learning_rate": 0.5, "save_on_interrupt": True}
    whole = build(tmp_path / "whole", **best)
    whole.train()
    before = signal.getsignal(signal.SIGINT)
    cut = build(tmp_path / "cut", signal.SIGINT, signal.SIGINT, **best)  # the second as a launcher passes it on
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    folder = tmp_path / "cut" / "checkpoint-3"
    assert cut.state.global_step == 3 and is_whole(folder) and signal.getsignal(signal.SIGINT) is before
    assert [e["step"] for e in cut.state.log_history if "eval_loss" in e] == [1, 2]  # none before the checkpoint
    line = f'Interrupted at step 3. To go on from {folder}: trainer.train(resume_from_checkpoint="last")'
    assert line in capsys.readouterr().out.splitlines()
    again = build(tmp_path / "cut", **best)
    again.train(resume_from_checkpoint="last")
    names = ("loss", "grad_norm", "hard_loss", "soft_weight")
    assert history(again, *names) == history(whole, *names) and len(history(again, *names)) == 2
    assert torch.equal(weights(again), weights(whole))


def test_a_handler_of_sigterm_is_called_once_the_checkpoint_is_whole(tmp_path: Path, handled: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run = build(tmp_path, signal.SIGTERM, eval_strategy="epoch", save_on_interrupt=True)
    assert run.train(resume_from_checkpoint="last").global_step == 3  # from the beginning: nothing is there
    assert is_whole(tmp_path / "checkpoint-3") and handled == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
    assert not any("eval_loss" in entry for entry in run.state.log_history)


def test_a_second_ctrl_c_ends_a_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(interrupting, "SAME_SECONDS", -1.0)
    run = build(tmp_path, signal.SIGINT, signal.SIGINT, save_on_interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert run.state.global_step == 2 and not list(tmp_path.glob("checkpoint-*"))
    assert "Interrupted at step 2, before the first checkpoint: nothing of it is kept." in capsys.readouterr().out


def test_without_the_argument_a_line_names_the_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], handled: list[int]
) -> None:
    run = build(tmp_path, signal.SIGTERM, signal.SIGINT, save_strategy="steps", save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert handled == [signal.SIGTERM] and run.state.global_step == 2  # neither waits for the end of the step
    assert f"Interrupted at step 2. To go on from {tmp_path / 'checkpoint-2'}: " in capsys.readouterr().out


def in_two_processes(out: str) -> tuple[int, int, int]:
    """The last step of this rank, its exit code, and its processes; the second one alone gets the signal."""
    run = build(Path(out), signal.SIGTERM, rank=1, save_on_interrupt=True)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        run.train()
    except SystemExit as error:
        return run.state.global_step, int(str(error.code)), run.args.world_size
    raise AssertionError(f"rank {os.environ['RANK']} went on")


def test_all_processes_end_with_the_same_step(tmp_path: Path) -> None:
    assert run_in_processes(2, {}, in_two_processes, str(tmp_path)) == [(3, 143, 2)] * 2
    assert is_whole(tmp_path / "checkpoint-3") and len(list((tmp_path / "checkpoint-3").glob("rng_state_*"))) == 2
