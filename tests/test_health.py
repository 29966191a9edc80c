"""Training in which nothing is learnt says so: no labels, or a loss that is no number."""

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from hf_dwt import DistillationTrainer
from hf_dwt.errors import DataError
from hf_dwt.training import adaptive
from hf_dwt.training.health import STOP_AFTER, WARN_AFTER

from .invariants.layouts import Knowing
from .models import tiny
from .processes import run_in_two_processes
from .training import ragged_examples, trainer

Example = dict[str, list[int]]


def with_and_without(steps: str, size: int = 8) -> list[Example]:
    """Examples of `size` a step: of "." none has a label, of "x" some have."""
    rows = iter(one for one in ragged_examples(200, share=0.8) if any(label != -100 for label in one["labels"]))
    empty = {"input_ids": [5, 6, 7, 8], "labels": [-100] * 4}
    return [next(rows) if step == "x" else empty for step in steps for _ in range(size)]


def logged(run: Any) -> list[dict[str, float]]:
    return [entry for entry in run.state.log_history if "loss" in entry]


def warnings_of(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.message for record in caplog.records if words in record.message]


def test_steps_without_rows_leave_logs_and_schedule_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What "auto" makes of the first step with rows does not depend on how many came before it."""
    monkeypatch.setattr(adaptive, "EVERY", 2)
    found = []
    for steps in ("..xxxx", "xxxx"):
        data = with_and_without(steps)
        run = trainer(tiny("bert"), Knowing(), tmp_path, train_dataset=data, max_steps=len(steps))
        run.train()
        found.append(logged(run))
    late, prompt = found
    assert all(entry["loss"] == 0 and "hard_loss" not in entry and entry["soft_weight"] == 1 for entry in late[:2])
    for name in ("hard_loss", "soft_loss", "agreement", "teacher_margin", "soft_weight"):
        assert late[2][name] == pytest.approx(prompt[0][name], rel=1e-5)
    share = 1 - math.exp(-late[2]["teacher_margin"])
    assert late[3]["soft_weight"] == pytest.approx(share, rel=1e-5) == prompt[1]["soft_weight"]
    assert 0.1 < share < 0.9


@pytest.mark.parametrize("teacher", [True, False])
def test_a_mean_is_over_the_steps_with_rows(teacher: bool, tmp_path: Path) -> None:
    logs = []
    for every in (1, 4):
        data = with_and_without("x..x")
        taught = tiny("bert", seed=1) if teacher else None
        settings: dict[str, Any] = {"logging_steps": every, "soft_weight_schedule": "constant"}
        run = trainer(tiny("bert"), taught, tmp_path, train_dataset=data, max_steps=4, **settings)
        run.train()
        logs.append(logged(run))
    each, whole = logs
    assert ["hard_loss" in entry for entry in each] == [True, False, False, True]
    for name in ("hard_loss", "soft_loss", "agreement", "teacher_margin") if teacher else ("hard_loss",):
        assert whole[0][name] == pytest.approx((each[0][name] + each[3][name]) / 2, rel=1e-5)
    assert whole[0]["loss"] == pytest.approx((each[0]["loss"] + each[3]["loss"]) / 4, rel=1e-4)


def in_two_processes() -> list[Any]:
    """What is logged where the second process has no rows in any step, and how a run without any ends."""
    found: list[Any] = []
    for steps in ("x.x.x.", "......"):  # the batches of the two processes in turn
        with tempfile.TemporaryDirectory() as out:
            data = with_and_without(steps, size=4)
            settings = {"per_device_train_batch_size": 4, "max_steps": 3}
            run = trainer(tiny("bert"), Knowing(), out, train_dataset=data, **settings)
            try:
                run.train()
                found.append([(entry["hard_loss"], entry["soft_weight"]) for entry in logged(run)])
            except DataError as error:
                found.append(str(error))
    return found


def test_a_process_without_rows_waits_for_the_other(tmp_path: Path) -> None:
    shared, without = run_in_two_processes(in_two_processes)
    settings = {"per_device_train_batch_size": 4, "max_steps": 3}
    run = trainer(tiny("bert"), Knowing(), tmp_path, train_dataset=with_and_without("xxx", size=4), **settings)
    run.train()
    for found, entry in zip(shared, logged(run), strict=True):
        assert found == pytest.approx((entry["hard_loss"], entry["soft_weight"]), rel=1e-5)
    assert "labels='3 steps': have no position with a label" in without


@pytest.mark.parametrize("length", ["an epoch", "a run", "many steps"])
def test_a_run_without_labels_is_an_error(length: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps = {"an epoch": 20, "a run": 5, "many steps": 2 * STOP_AFTER}[length]
    data = with_and_without("." * 12) * (100 if length == "many steps" else 1)  # 12 steps are its epoch
    run = trainer(tiny("bert"), None, tmp_path, train_dataset=data, max_steps=steps)
    with pytest.raises(DataError, match=r"labels=.*no position with a label, so nothing was learnt\. Check"):
        run.train()
    assert run.state.global_step == {"an epoch": 12, "a run": 5, "many steps": STOP_AFTER}[length]
    assert len(warnings_of(caplog, "nothing is learnt")) == (steps > WARN_AFTER)


def test_many_steps_without_labels_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = with_and_without("x" + "." * 34)
    run = trainer(tiny("bert"), None, tmp_path, train_dataset=data, max_steps=35)
    run.train()
    assert warnings_of(caplog, "nothing is learnt") == [
        "No position of 19 steps in a row, up to step 20, has a label: nothing is learnt."
    ]
    caplog.clear()
    data = with_and_without("x" + "." * (WARN_AFTER - 1) + "xxxx")
    trainer(tiny("bert"), None, tmp_path, train_dataset=data, max_steps=WARN_AFTER + 4).train()
    assert not warnings_of(caplog, "nothing is learnt")


def test_masks_of_no_token_are_an_error(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(Path(__file__).parents[1] / "examples" / "data" / "weak_teacher"))
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.0)
    student = tiny("bert", vocab_size=len(tokenizer))
    with pytest.raises(
        DataError, match=r"data_collator\.mlm_probability=0: masks no token, so no position has a label"
    ):
        trainer(student, None, tmp_path, more={"data_collator": collator})


@pytest.mark.parametrize("filtered", [True, False])
def test_a_student_that_diverges_is_warned_of_and_keeps_its_teacher(
    filtered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adaptive, "EVERY", 1)
    teacher, asked = Knowing(), []
    targets = teacher.targets
    teacher.targets = lambda *given: (asked.append(1), targets(*given))[1]  # type: ignore
    settings: dict[str, Any] = {"learning_rate": 1e30, "optim": "sgd", "max_grad_norm": 0.0}
    run = trainer(tiny("bert"), teacher, tmp_path, max_steps=6, logging_nan_inf_filter=filtered, **settings)
    run.train()
    assert any(not torch.isfinite(parameter).all() for parameter in run.model.parameters())  # type: ignore[union-attr]
    weights = [entry["soft_weight"] for entry in run.state.log_history if "soft_weight" in entry]
    assert len(asked) == len(weights) == 6 and len(set(weights[1:])) == 1 and 0 < weights[1] < 1
    (warning,) = warnings_of(caplog, "has diverged: its loss is not finite")
    assert "5 steps, up to step 6" in warning


# ---- sets without examples or labels ----


def of(count: int, kind: str) -> Any:
    examples = [{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}] * count
    return examples if kind == "list" else Dataset.from_dict({name: [] for name in ("input_ids", "labels")})


@pytest.mark.parametrize("kind", ["list", "datasets"])
def test_a_set_without_examples_is_an_error_before_the_first_step(kind: str, tmp_path: Path) -> None:
    def fresh(**settings: Any) -> DistillationTrainer:
        return trainer(tiny("bert"), tiny("bert", seed=1), tmp_path, **settings)

    with pytest.raises(DataError, match="train_dataset=.*has no examples"):
        fresh(train_dataset=of(0, kind)).train()
    with pytest.raises(DataError, match="eval_dataset=.*has no examples"):
        fresh().evaluate(of(0, kind))
    for sets in (of(0, kind), {"a": of(3, "list"), "b": of(0, kind)}):
        run = fresh(more={"eval_dataset": sets}, eval_strategy="steps", eval_steps=2)
        with pytest.raises(DataError, match="eval_dataset=.*has no examples"):
            run.train()
        assert run.state.global_step == 0
    fresh(more={"eval_dataset": of(0, kind)}, max_steps=1).train()  # which does not evaluate
    with pytest.raises(DataError, match="dataloader_drop_last=True: leaves no batch of 3 examples"):
        fresh(train_dataset=of(3, "list"), dataloader_drop_last=True).train()


@pytest.mark.parametrize("what", ["no labels", "no rows", "no rows in one set"])
def test_an_evaluation_without_a_loss_is_warned_of_once(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unlabelled = [{"input_ids": [5, 6, 7, 8]}] * 5
    data: Any = unlabelled if what == "no labels" else [{**one, "labels": [-100] * 4} for one in unlabelled]
    more: dict[str, Any] = {"data_collator": None}
    run = trainer(tiny("bert"), tiny("bert", seed=1), tmp_path, train_dataset=of(8, "list"), more=more)
    sets = {"a": of(5, "list"), "b": data} if what == "no rows in one set" else data
    for _ in range(2):
        found = run.evaluate(sets)
    prefix = "eval_b" if what == "no rows in one set" else "eval"
    assert not math.isfinite(found.get(f"{prefix}_loss", math.nan))
    assert warnings_of(caplog, "eval_dataset") == [
        f"No position of eval_dataset has a label, so there is no {prefix}_loss. Give labels."
    ]
    caplog.clear()
    run.predict(data)  # of which nobody expects a loss
    run.evaluate(of(5, "list"))
    assert not warnings_of(caplog, "eval_dataset")
