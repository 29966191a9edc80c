"""What learns beside the student: an optimizer of its own, in checkpoints and in nothing that is pushed."""

import copy
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_dwt import DistillationTrainer
from hf_dwt.errors import ArgumentError
from hf_dwt.publish.model_files import files_to_push
from hf_dwt.teachers.several import SeveralTeachers
from hf_dwt.training.learning import FILE

from .learners import Learner
from .models import tiny
from .processes import run_in_two_processes
from .test_restarts import FITS, OutOfMemory
from .training import history, pad, ragged_examples, trainer

STEPS = 6


def build(out: Path | str, learner: Any = None, **settings: Any) -> DistillationTrainer:
    learner = Learner() if learner is None else learner
    settings = {"soft_weight_schedule": "constant", "max_steps": STEPS, **settings}
    return trainer(tiny("bert"), learner, out, train_dataset=ragged_examples(64), **settings)


def trained(out: Path | str, **settings: Any) -> DistillationTrainer:
    run = build(out, **settings)
    run.train()
    return run


def kept(run: DistillationTrainer) -> dict[str, Tensor]:
    found = {}
    for part in run.learning.parts.values():
        found |= {name: value.clone() for name, value in [*part.module.state_dict().items(), *part.state.items()]}
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def by_hand(
    factors: list[float], norm: float = 1.0, rate: float = 1e-2, decay: float = 0.0
) -> tuple[Tensor, list[float]]:
    """The vector after steps of 8 examples under torch's AdamW, and the loss before each step."""
    logits = Learner().module.logits
    optimizer = torch.optim.AdamW([logits], lr=rate, weight_decay=decay)
    losses = []
    for step, factor in enumerate(factors):
        labels = pad(ragged_examples(64)[8 * step : 8 * step + 8])["labels"].flatten()
        loss = torch.nn.functional.cross_entropy(logits.expand(len(labels), -1), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([logits], norm)
        optimizer.param_groups[0]["lr"] = rate * factor
        optimizer.step()
        losses.append(loss.item())
    return logits.detach(), losses


@pytest.mark.parametrize(
    ("settings", "decay", "factors", "norm"),
    [
        ({}, 0.0, [1.0] * STEPS, 1.0),
        ({"lr_scheduler_type": "linear", "warmup_steps": 2}, 0.1, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25], 1.0),
        ({"max_grad_norm": 0.01}, 0.0, [1.0] * STEPS, 0.01),
        ({"max_grad_norm": 0.0}, 0.0, [1.0] * STEPS, 100.0),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}, 0.0, [1.0] * STEPS, 1.0),
        ({"loss_kernel": "plain"}, 0.0, [1.0] * STEPS, 1.0),
    ],
)
def test_it_takes_the_steps_of_adamw_on_its_own_loss(
    settings: dict[str, Any], decay: float, factors: list[float], norm: float, tmp_path: Path
) -> None:
    run = trained(tmp_path, learner=Learner(decay=decay), adam_epsilon=1e-8, **settings)
    expected, losses = by_hand(factors, norm, decay=decay)
    torch.testing.assert_close(kept(run)["logits"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.ravel(history(run, "teacher_own_loss")), losses, rtol=1e-5)
    module: Any = run.learning.parts["counts"].module
    counted = sum(label != -100 for example in ragged_examples(64)[: 8 * STEPS] for label in example["labels"])
    assert module.steps == STEPS and module.rows == counted
    progress = run.teacher.progress  # type: ignore[union-attr]
    assert sorted(set(progress)) == [step / STEPS for step in range(STEPS)]


def test_nothing_of_it_touches_the_student(tmp_path: Path) -> None:
    """A teacher of the same vector that does not learn, and one whose loss is not the student's: rate 0."""
    still = trained(tmp_path / "still", learner=Learner(rate=0.0))
    assert torch.equal(kept(still)["logits"], Learner().module.logits)
    frozen = Learner()
    frozen.learning_parts = {}
    plain = trained(tmp_path / "plain", learner=frozen)
    assert frozen.module.logits.grad is not None  # its own backward pass, which nothing uses
    assert history(plain, "loss", "grad_norm") == history(still, "loss", "grad_norm")
    one, other = (run.model.state_dict() for run in (still, plain))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    moved = trained(tmp_path / "moved")
    assert history(moved, "loss")[0] == history(still, "loss")[0] and history(moved, "loss") != history(still, "loss")


# ---- processes ----


def in_each_process() -> tuple[list[tuple[float, ...]], dict[str, np.ndarray]]:
    """Two processes, whose modules would begin with other values."""
    with tempfile.TemporaryDirectory() as out:
        learner = Learner(seed=int(os.environ.get("RANK", 0)))
        processes = int(os.environ.get("WORLD_SIZE", 1))
        run = trained(out, learner=learner, per_device_train_batch_size=4 // processes, gradient_accumulation_steps=2)
    return history(run, "loss", "teacher_own_loss"), {name: value.numpy() for name, value in kept(run).items()}


def test_processes_leave_its_steps_as_they_are() -> None:
    found, module = run_in_two_processes(in_each_process)
    expected, single = in_each_process()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(module["logits"], single["logits"], rtol=1e-5, atol=1e-6)
    assert module["steps"] == STEPS and module["rows"] == single["rows"] / 2  # the mean over processes


# ---- starts ----


def test_each_start_of_the_loop_begins_anew(tmp_path: Path) -> None:
    """Memory runs out within a step, when gradients of the own loss are there; then the run is trained again."""
    settings: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.1}
    run = build(tmp_path / "restarted", auto_find_batch_size=True, gradient_accumulation_steps=2, **settings)
    memory = OutOfMemory(2)
    memory.run = run

    def on_substep_end(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if run._train_batch_size > FITS and state.global_step == 2:
            memory.weights = copy.deepcopy(kwargs["model"].state_dict())
            assert run.learning.parts["counts"].module.logits.grad is not None
            raise torch.OutOfMemoryError("CUDA out of memory.")

    memory.on_step_begin = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    memory.on_substep_end = on_substep_end  # type: ignore[method-assign,assignment]
    run.add_callback(memory)
    run.train()
    assert run._train_batch_size == FITS and memory.weights
    began = build(tmp_path / "began", per_device_train_batch_size=FITS, gradient_accumulation_steps=2, **settings)
    began.model.load_state_dict(memory.weights)
    began.train()
    assert history(run, "loss", "teacher_own_loss") == history(began, "loss", "teacher_own_loss")
    assert equal(kept(run), kept(began))
    first = kept(run)
    run.optimizer = run.lr_scheduler = None  # type: ignore[assignment]  # the Trainer keeps these
    run.train()
    assert equal(kept(run), first)


# ---- checkpoints ----

SAVES: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> DistillationTrainer:
    return trained(tmp_path_factory.mktemp("whole"), **SAVES)


def test_it_resumes_bit_for_bit(whole: DistillationTrainer, tmp_path: Path) -> None:
    run = build(tmp_path, learner=Learner(seed=5), **SAVES)
    run.train(resume_from_checkpoint=str(Path(str(whole.args.output_dir), "checkpoint-4")))
    assert equal(kept(run), kept(whole)) and kept(run)["steps"] == STEPS
    assert history(run, "loss", "teacher_own_loss") == history(whole, "loss", "teacher_own_loss")
    assert all(torch.equal(v, whole.model.state_dict()[k]) for k, v in run.model.state_dict().items())


def in_a_save(run: DistillationTrainer) -> None:
    """SIGKILL in the second save, half of its file being written."""
    original = run.learning.save

    def cut(folder: str, writes: bool) -> None:
        original(folder, writes)
        if folder.endswith("checkpoint-4"):
            path = Path(folder, FILE)
            path.write_bytes(path.read_bytes()[:100])
            os.kill(os.getpid(), signal.SIGKILL)

    run.learning.save = cut  # type: ignore[method-assign]


def between_backward_and_step(run: DistillationTrainer) -> None:
    original = run.learning.on_pre_optimizer_step

    def die(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        original(args, state, control, **kwargs)

    run.learning.on_pre_optimizer_step = die  # type: ignore[method-assign]


@pytest.mark.parametrize("arrange", [in_a_save, between_backward_and_step])
def test_a_killed_run_goes_on(
    arrange: Callable[[DistillationTrainer], None], whole: DistillationTrainer, tmp_path: Path
) -> None:
    child = os.fork()
    if child == 0:
        try:
            run = build(tmp_path, **SAVES)
            arrange(run)
            run.train()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    run = build(tmp_path, **SAVES)
    run.train(resume_from_checkpoint=True)
    assert equal(kept(run), kept(whole))
    assert history(run, "loss", "teacher_own_loss") == history(whole, "loss", "teacher_own_loss")


def test_its_file_is_in_checkpoints_alone(whole: DistillationTrainer, tmp_path: Path) -> None:
    folder = Path(str(whole.args.output_dir), "checkpoint-6")
    found = torch.load(folder / FILE, weights_only=True)
    assert set(found["state"]) == {
        f"counts.{name}" for name in ("logits", "steps", "rows", "seen")
    }  # nothing that is frozen
    assert FILE not in files_to_push(folder)
    whole.save_model(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").rglob("*learning*"))
    assert not set(found["state"]) & set(whole.model.state_dict())
    students = {id(p) for group in whole.optimizer.param_groups for p in group["params"]}
    assert id(whole.learning.parts["counts"].module.logits) not in students
    without = trained(tmp_path / "without", **{**SAVES, "save_only_model": True, "max_steps": 2})
    assert not list(Path(str(without.args.output_dir)).rglob(FILE))


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (lambda: SeveralTeachers({"a": Learner(), "b": Learner(seed=1)}), "'a.counts.logits', for one, differs"),
        (Learner, "has no teacher_learning.pt: nothing learnt beside the student of its run"),
    ],
)
def test_another_teachers_checkpoint_is_refused(
    teacher: Callable[[], Any], words: str, whole: DistillationTrainer, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    for path in Path(str(whole.args.output_dir), "checkpoint-4").iterdir():
        if teacher is not Learner or path.name != FILE:
            (checkpoint / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ArgumentError, match=f"^resume_from_checkpoint=.*{words}.* Resume with the teacher"):
        build(tmp_path, learner=teacher(), **SAVES).train(resume_from_checkpoint=str(checkpoint))


# ---- several ----


def test_several_that_learn_keep_apart(tmp_path: Path) -> None:
    """Each of a mixture takes the steps that it takes alone, and has figures of its own."""
    run = build(tmp_path, learner=SeveralTeachers({"a": Learner(), "b": Learner(seed=1, rate=0.1)}))
    run.train()
    parts = run.learning.parts
    assert list(parts) == ["a.counts", "b.counts"]
    expected, losses = by_hand([1.0] * STEPS)
    module: Any = parts["a.counts"].module
    torch.testing.assert_close(module.logits.detach(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.ravel(history(run, "teacher_own_loss_a")), losses, rtol=1e-5)
    assert history(run, "teacher_own_loss_a")[0] != history(run, "teacher_own_loss_b")[0]
