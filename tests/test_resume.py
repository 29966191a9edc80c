"""A run that stops at a checkpoint, or is killed anywhere, ends bit for bit where the uninterrupted run ends."""

import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.utils.data import IterableDataset
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hf_dwt import DistillationTrainer
from hf_dwt.teachers import ReinforcedSelection, SeveralTeachers
from hf_dwt.training import adaptive
from hf_dwt.training.learning import FILE
from hf_dwt.training.resume import is_whole, last_whole_checkpoint

from .invariants.layouts import Knowing
from .models import tiny
from .training import pad, ragged_examples, trainer

STEPS, SAVED = 10, 3  # saves fall between logs, which come every other step


def build(out: Path, teacher: Any = None, **settings: Any) -> DistillationTrainer:
    """Dropout, shuffling, Adam's moments and a moving schedule: all that a resumed run must continue."""
    return trainer(
        tiny("bert", hidden_dropout_prob=0.1),
        teacher or tiny("bert", seed=1),
        out,
        **{
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "train_sampling_strategy": "random",
            "logging_steps": 2,
            "save_strategy": "steps",
            "save_steps": SAVED,
            "soft_weight_schedule": "knowledge_inheritance",
            "soft_weight_schedule_kwargs": {"until": 0.8},
            "lr_scheduler_type": "linear",
            **settings,
        },
    )


def logged(run: DistillationTrainer) -> list[dict[str, float]]:
    """All that was logged but the clock, and the mean loss of one call of `train`, which is over its own steps."""
    of_the_call = ("runtime", "per_second", "train_loss")
    return [{k: v for k, v in e.items() if not k.endswith(of_the_call)} for e in run.state.log_history]


def state(run: DistillationTrainer) -> dict[str, torch.Tensor]:
    """Weights and moments."""
    assert isinstance(run.model, torch.nn.Module)
    tensors = dict(run.model.state_dict())
    for number, moments in run.optimizer.state_dict()["state"].items():
        tensors |= {f"{number}/{name}": value for name, value in moments.items()}
    return tensors


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> DistillationTrainer:
    run = build(tmp_path_factory.mktemp("uninterrupted"))
    run.train()
    return run


@pytest.mark.parametrize("checkpoint", [3, 6, 9])
def test_a_run_resumed_at_a_checkpoint(uninterrupted: DistillationTrainer, checkpoint: int, tmp_path: Path) -> None:
    folder = Path(str(uninterrupted.args.output_dir)) / f"checkpoint-{checkpoint}"
    run = build(tmp_path)
    start = state(uninterrupted)
    result = run.train(resume_from_checkpoint=str(folder))
    assert equal(state(run), start)
    assert logged(run) == logged(uninterrupted)
    assert len({entry["soft_weight"] for entry in logged(run) if "soft_weight" in entry}) > 2  # the schedule moved
    last_steps = [e["loss"] for e in logged(run) if "loss" in e and e["step"] > checkpoint]
    assert result.global_step == STEPS
    if checkpoint == 6:  # a log ends there
        assert result.training_loss == pytest.approx(sum(last_steps) / len(last_steps))


@pytest.mark.parametrize("checkpoint", [3, 6])
def test_weights_that_follow_the_run_resume_too(
    checkpoint: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint within an average of the teacher's lead, and one where it ends."""
    monkeypatch.setattr(adaptive, "EVERY", 5)
    settings: dict[str, Any] = {"soft_weight_schedule": "auto", "soft_weight_schedule_kwargs": None}
    whole = build(tmp_path / "whole", **settings)
    whole.teacher = Knowing()
    whole.train()
    run = build(tmp_path / "resumed", **settings)
    run.teacher = Knowing()
    run.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{checkpoint}"))
    assert equal(state(run), state(whole))
    assert logged(run) == logged(whole)
    assert len({entry["soft_weight"] for entry in logged(run) if "soft_weight" in entry}) > 2


def masked(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A collator that draws masks from the global generator, as DataCollatorForLanguageModeling does."""
    batch = pad(examples)
    batch["labels"] = batch["input_ids"].masked_fill(torch.rand(batch["input_ids"].shape) < 0.6, -100)
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["labels"] != -100, 4)
    return batch


class Stream(IterableDataset):  # type: ignore[type-arg]
    """The same few examples again and again, without a length."""

    def __iter__(self) -> Any:
        while True:
            yield from ragged_examples(8)


@pytest.mark.parametrize("source", ["dataset", "stream", "short stream", "workers"])
def test_masks_drawn_at_random_resume_too(source: str, tmp_path: Path) -> None:
    """A data loader draws the next batch's masks before a checkpoint keeps the random state."""
    settings: dict[str, Any] = {"more": {"data_collator": masked}}
    if source == "stream":
        settings["train_dataset"] = Stream()
    if source == "short stream":  # three steps are its pass
        settings["train_dataset"] = Dataset.from_list(ragged_examples(24)).to_iterable_dataset().repeat(None)
    if source == "workers":
        settings |= {"dataloader_num_workers": 1}
    whole = build(tmp_path / "whole", **settings)
    whole.train()
    resumed = build(tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert equal(state(resumed), state(whole))
    assert logged(resumed) == logged(whole)
    assert whole.data_collator is masked


def test_masks_differ_between_epochs_and_seeds(tmp_path: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        run = build(tmp_path, more={"data_collator": masked}, train_sampling_strategy="sequential", seed=seed)
        epochs = []
        for epoch in (0, 1):
            run.state.epoch = float(epoch)
            epochs.append(torch.cat([batch["labels"].flatten() for batch in run.get_train_dataloader()]))
        drawn.append(epochs)
    same, again, other = drawn
    assert torch.equal(same[0], again[0]) and torch.equal(same[1], again[1])
    assert not torch.equal(same[0], same[1]) and not torch.equal(same[0], other[0])


@pytest.mark.parametrize("source", ["workers that stay", "a stream's workers"])
def test_masks_differ_between_epochs_in_workers_too(source: str, tmp_path: Path) -> None:
    """One that outlives an epoch, or counts its batches anew in each."""
    data = Dataset.from_list([{"input_ids": [5 + n] * 8, "labels": [7] * 8} for n in range(16)])
    stream = source == "a stream's workers"
    run = build(
        tmp_path,
        more={"data_collator": masked},
        train_dataset=data.to_iterable_dataset() if stream else data,
        train_sampling_strategy="sequential",
        dataloader_num_workers=1,
        dataloader_persistent_workers=not stream,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        max_steps=4,  # two epochs
    )
    seen = []
    original = run.compute_loss

    def watch(model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        seen.append(inputs["labels"] != -100)
        return original(model, inputs, *rest, **more)

    run.compute_loss = watch  # type: ignore[method-assign]
    run.train()
    assert len(seen) == 4 and not any(
        torch.equal(first, again) for first, again in zip(seen[:2], seen[2:], strict=True)
    )


def test_the_comparison_sees_masks_from_the_global_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_dwt.training.loaders.SeededCollator", lambda collator, *_, **__: collator)
    whole, resumed = (build(tmp_path / name, more={"data_collator": masked}) for name in ("whole", "resumed"))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert not equal(state(resumed), state(whole))


def test_the_comparison_sees_a_run_that_starts_over(uninterrupted: DistillationTrainer, tmp_path: Path) -> None:
    """From the same weights, but with fresh moments, random state and schedule."""
    folder = Path(str(uninterrupted.args.output_dir)) / "checkpoint-6"
    run = build(tmp_path, max_steps=STEPS - 6)
    assert isinstance(run.model, torch.nn.Module)
    run.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    run.train()
    assert not equal(state(run), state(uninterrupted))


# ---- killed ----


class KillAt(TrainerCallback):
    """SIGKILL in the middle of an optimiser step: after the backward pass, before the weights move."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_in_step(run: DistillationTrainer) -> None:
    run.add_callback(KillAt(7))


def kill_in_save_of(name: str) -> Callable[[DistillationTrainer], None]:
    """SIGKILL in the second save, half of the file `name` being written."""

    def arrange(run: DistillationTrainer) -> None:
        methods = {
            "model.safetensors": "_save",
            "optimizer.pt": "_save_optimizer_and_scheduler",
            "rng_state.pth": "_save_rng_state",
        }
        original = getattr(run, methods[name])

        def cut(folder: str, *args: Any, **kwargs: Any) -> None:
            original(folder, *args, **kwargs)
            if folder.endswith("checkpoint-6"):
                path = Path(folder) / name
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(run, methods[name], cut)

    return arrange


def kill_in_state(run: DistillationTrainer) -> None:
    """SIGKILL when half of the state, the last file of a checkpoint, is written."""
    original = run._save_rng_state

    def cut(folder: str) -> None:
        original(folder)
        if folder.endswith("checkpoint-6"):
            (Path(folder) / "trainer_state.json").write_text('{"best_global_step": null, "log_his')
            os.kill(os.getpid(), signal.SIGKILL)

    run._save_rng_state = cut  # type: ignore[method-assign]


def killed(out: Path, arrange: Callable[[DistillationTrainer], None], teacher: Any = None) -> None:
    """Train in a child process until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            run = build(out, teacher)
            arrange(run)
            run.train()
        finally:
            os._exit(1)  # it outlived its killing
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize(
    ("arrange", "whole"),
    [
        pytest.param(kill_in_step, 6, id="step"),
        pytest.param(kill_in_save_of("model.safetensors"), 3, id="weights"),
        pytest.param(kill_in_save_of("optimizer.pt"), 3, id="optimizer"),
        pytest.param(kill_in_save_of("rng_state.pth"), 3, id="random-state"),
        pytest.param(kill_in_state, 3, id="state"),
    ],
)
def test_a_killed_run_goes_on(
    uninterrupted: DistillationTrainer, arrange: Callable[[DistillationTrainer], None], whole: int, tmp_path: Path
) -> None:
    killed(tmp_path, arrange)
    assert (tmp_path / "checkpoint-6").is_dir()
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / f"checkpoint-{whole}")
    run = build(tmp_path)
    run.train(resume_from_checkpoint=True)
    assert equal(state(run), state(uninterrupted))
    assert logged(run) == logged(uninterrupted)
    assert all(is_whole(tmp_path / f"checkpoint-{step}") for step in (3, 6, 9))


@pytest.mark.parametrize("arrange", [kill_in_step, kill_in_save_of("optimizer.pt")], ids=["step", "save"])
def test_a_killed_run_goes_on_with_its_policy(arrange: Callable[[DistillationTrainer], None], tmp_path: Path) -> None:
    """Which of two teachers is chosen depends on all that the policy has learnt and on its count of steps."""
    policy = ReinforcedSelection(warmup=0.2, learning_rate=0.1)
    teacher = SeveralTeachers([tiny("bert", seed=1), tiny("bert", seed=2)], policy)
    whole = build(tmp_path / "whole", teacher)
    whole.train()
    killed(tmp_path / "killed", arrange, teacher)
    run = build(tmp_path / "killed", teacher)
    run.train(resume_from_checkpoint=True)
    assert equal(state(run), state(whole)) and logged(run) == logged(whole)
    assert len({entry["teacher_weight_0"] for entry in logged(run) if "teacher_weight_0" in entry}) > 3
    learnt, expected = (torch.load(tmp_path / one / "checkpoint-9" / FILE) for one in ("killed", "whole"))
    torch.testing.assert_close(learnt, expected, rtol=0, atol=0)


def test_the_window_between_logs_is_why_logs_agree(
    uninterrupted: DistillationTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what a checkpoint keeps of it, the first log after resuming is the mean over fewer steps."""
    monkeypatch.setattr("hf_dwt.training.resume.StartState.on_train_begin", lambda *args, **kwargs: None)
    run = build(tmp_path)
    run.train(resume_from_checkpoint=str(Path(str(uninterrupted.args.output_dir)) / "checkpoint-3"))
    assert equal(state(run), state(uninterrupted))
    assert logged(run) != logged(uninterrupted)


def test_callbacks_are_restored_beside_it_and_none_is_missed(
    uninterrupted: DistillationTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Counts(TrainerCallback, ExportableState):
        steps = 0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.steps += 1

        def state(self) -> dict[str, Any]:
            return {"args": {}, "attributes": {"steps": self.steps}}

    build(tmp_path, more={"callbacks": [Counts()]}).train()
    of_the_trainer = logging.getLogger("transformers.trainer")
    of_the_trainer.addHandler(caplog.handler)
    try:
        for restored, counted in ((True, STEPS), (False, STEPS - 6)):
            run = build(tmp_path, more={"callbacks": [Counts()]}, restore_callback_states_from_checkpoint=restored)
            run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
            found = [c.steps for c in run.callback_handler.callbacks if isinstance(c, Counts)]
            assert found == [counted] and logged(run) == logged(uninterrupted), restored
        assert "not included in current configuration" not in caplog.text
        noted = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())["stateful_callbacks"]
        assert {"DistillationTrainer", "Counts"} <= set(noted)  # as in checkpoints of earlier versions
    finally:
        of_the_trainer.removeHandler(caplog.handler)


def test_a_checkpoint_of_an_earlier_version_resumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What they noted of the log and of "auto" had other names, as in the first version; training goes on the same."""
    auto: dict[str, Any] = {"soft_weight_schedule": "auto", "soft_weight_schedule_kwargs": None}
    whole = build(tmp_path, **auto)
    whole.teacher = Knowing()
    whole.train()
    file = tmp_path / "checkpoint-6" / "trainer_state.json"
    noted = json.loads(file.read_text())
    window = noted["stateful_callbacks"]["DistillationTrainer"]
    total, counted = window["fade"].pop("sums")
    assert counted == window["fade"]["steps"] == 5  # since the first step
    window["fade"]["sum"] = total
    window["terms"] = {"start": 4, "heard": 2, "sums": {"hard_loss": 1.0, "soft_loss": 1.0}}
    del window["saved"]
    file.write_text(json.dumps(noted))
    run = build(tmp_path, **auto)
    run.teacher = Knowing()
    caplog.clear()
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert equal(state(run), state(whole)) and "Left out" not in caplog.text
    assert logged(run)[-2:] == logged(whole)[-2:]
