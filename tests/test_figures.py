"""A figure is that of the examples: not of the batches, the order or the processes in which they come."""

import functools
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    TrainerCallback,
)

from hf_dwt import assess_teacher
from hf_dwt.training.opening import PrintAssessment

from .models import LABELS, randomise, tiny
from .processes import run_in_two_processes
from .training import ragged_examples, sequence_examples, trainer

TOKENIZER = AutoTokenizer.from_pretrained(str(Path(__file__).parents[1] / "examples" / "data" / "weak_teacher"))
WORDS = len(TOKENIZER)
SIZES = (1, 3, 8, 64)
TASKS = ("masked", "causal", "seq2seq", "token", "sequence")
COUNT = 21  # examples: neither three, eight nor two processes share them evenly


@functools.cache
def model(task: str, seed: int) -> Any:
    if task == "sequence":
        torch.manual_seed(seed)
        return randomise(AutoModelForSequenceClassification.from_config(tiny("bert", num_labels=LABELS).config), seed)
    if task == "token":
        return tiny("bert-token-classification", seed=seed)
    return tiny({"masked": "bert", "causal": "llama", "seq2seq": "t5"}[task], seed=seed, vocab_size=WORDS)


def collator(task: str) -> Any:
    kinds: dict[str, Any] = {
        "masked": lambda t: DataCollatorForLanguageModeling(t, mlm_probability=0.3),
        "causal": lambda t: DataCollatorForLanguageModeling(t, mlm=False),
        "seq2seq": DataCollatorForSeq2Seq,
        "token": DataCollatorForTokenClassification,
        "sequence": DataCollatorWithPadding,
    }
    return kinds[task](TOKENIZER)


def examples(task: str) -> list[dict[str, Any]]:
    if task == "sequence":
        return sequence_examples(COUNT, classes=LABELS)
    found: list[dict[str, Any]] = ragged_examples(COUNT, classes=LABELS if task == "token" else WORDS)  # type: ignore[assignment]
    return [{"input_ids": one["input_ids"]} for one in found] if task in ("masked", "causal") else found


def figures(task: str, size: int, data: Any = None, teacher: bool = True, **settings: Any) -> dict[str, float]:
    """Every figure of an evaluation but those of the clock."""
    more = {"data_collator": collator(task), **settings.pop("more", {})}
    with tempfile.TemporaryDirectory() as out:
        taught = model(task, 1) if teacher else None
        run = trainer(model(task, 0), taught, out, more=more, per_device_eval_batch_size=size, **settings)
        found = run.evaluate(examples(task) if data is None else data)
    clock = ("_runtime", "_per_second", "_time")
    return {name: value for name, value in found.items() if name.startswith("eval_") and not name.endswith(clock)}


@contextmanager
def per_batch_randomness() -> Iterator[None]:
    """Random numbers as they come, one batch behind the other."""
    with patch("hf_dwt.batches.collation.ExampleCollator.__call__", lambda self, features: self.collator(features)):
        yield


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    return one.keys() == other.keys() and one == pytest.approx(other, rel=1e-6, abs=1e-6)


@functools.cache
def alone(task: str) -> dict[str, float]:
    """The figures of batches of one."""
    found = figures(task, 1)
    wanted = ("loss", "perplexity", "accuracy", "soft_loss", "teacher_agreement", "teacher_loss", "teacher_accuracy")
    assert found.keys() == {f"eval_{name}" for name in wanted}
    assert found["eval_soft_loss"] > 1e-4 and found["eval_loss"] != found["eval_teacher_loss"]
    return found


@pytest.mark.parametrize("task", TASKS)
def test_figures_do_not_depend_on_the_batch_size_or_the_order(task: str) -> None:
    for size in SIZES[1:]:
        assert same(figures(task, size), alone(task)), size
    shuffled = examples(task)
    random.Random(0).shuffle(shuffled)
    assert same(figures(task, 3, shuffled), alone(task))
    assert not same(figures(task, 3, shuffled[:-2]), alone(task))


def in_two_processes() -> dict[tuple[str, int], dict[str, float]]:
    found = {(task, size): figures(task, size) for task in TASKS for size in ((3, 64) if task == "masked" else (3,))}
    with per_batch_randomness():
        return {**found, ("per batch", 3): figures("masked", 3)}


def test_figures_do_not_depend_on_the_number_of_processes() -> None:
    found = run_in_two_processes(in_two_processes)
    wrong = found.pop(("per batch", 3))
    for (task, size), values in found.items():
        assert same(values, alone(task)), (task, size)
    assert not same(wrong, alone("masked"))


@pytest.mark.parametrize("way", ["workers", "grouped", "stream", "nobody teaches", "a generator of its own"])
def test_masks_belong_to_examples_however_they_are_read(way: str) -> None:
    settings: dict[str, dict[str, Any]] = {
        "workers": {"dataloader_num_workers": 2},
        "grouped": {"train_sampling_strategy": "group_by_length"},
        "stream": {"data": Dataset.from_list(examples("masked")).to_iterable_dataset()},
        "nobody teaches": {"teacher": False},
        "a generator of its own": {
            "more": {"data_collator": DataCollatorForLanguageModeling(TOKENIZER, mlm_probability=0.3, seed=5)}
        },
    }
    found = figures("masked", 3, **settings[way])
    expected = {name: value for name, value in alone("masked").items() if name in found}
    assert same(found, expected) and len(found) >= 3
    assert not same(figures("masked", 3, **{**settings[way], "seed": 7}), expected)


def test_the_comparison_sees_randomness_of_batches() -> None:
    with per_batch_randomness():
        assert not same(figures("masked", 3), figures("masked", 8))
        assert same(figures("causal", 3), alone("causal"))


def test_predictions_count_the_same_rows(tmp_path: Path) -> None:
    found = []
    for size in (3, 64):
        more = {"data_collator": collator("masked")}
        run = trainer(model("masked", 0), None, tmp_path, more=more, per_device_eval_batch_size=size)
        found.append(run.predict(examples("masked")).metrics)
    for name in ("loss", "accuracy"):
        expected = pytest.approx(alone("masked")[f"eval_{name}"], rel=1e-6)
        assert [one[f"test_{name}"] for one in found] == [expected, expected]


def test_an_assessment_does_not_depend_on_the_batch_size() -> None:
    def assess(size: int) -> list[float]:
        found = assess_teacher(
            model("masked", 1),
            examples("masked"),
            data_collator=collator("masked"),
            processing_class=TOKENIZER,
            batch_size=size,
        )
        return [found.rows, found.unigram, found.teacher.loss, found.teacher.accuracy, found.teacher.calibration_error]

    one = assess(1)
    for size in (3, 64):
        assert assess(size) == pytest.approx(one, rel=1e-6)
    with patch("hf_dwt.assess.data.ExampleCollator", lambda collator, seed: collator):
        assert assess(3) != pytest.approx(assess(64), rel=1e-6)


def test_the_opening_line_does_not_depend_on_the_batch_size_or_the_order(tmp_path: Path) -> None:
    def line(size: int, data: Any) -> str:
        more = {"data_collator": collator("masked")}
        settings = {"train_dataset": data, "per_device_train_batch_size": size}
        run = trainer(model("masked", 0), model("masked", 1), tmp_path, more=more, **settings)
        prints = next(part for part in run.callback_handler.callbacks if isinstance(part, PrintAssessment))
        return prints.line(run.teacher, data, run.model, run.processing_class, run.args)

    lines = {line(size, examples("masked")) for size in SIZES} | {line(3, examples("masked")[::-1])}
    assert len(lines) == 1 and line(3, examples("masked")[:-2]) not in lines


# ---- evaluations within evaluations ----


class Evaluates(TrainerCallback):
    """Evaluates another set whenever one was evaluated."""

    def __init__(self) -> None:
        self.run: Any = None
        self.within = False
        self.found: dict[str, float] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.within:
            self.within = True
            self.found = self.run.evaluate(examples("masked")[:5], metric_key_prefix="eval_inner")


@pytest.mark.parametrize("place", ["at the end", "after each batch", "before each batch's metrics", "in a callback"])
def test_an_evaluation_within_another_leaves_its_figures(place: str, tmp_path: Path) -> None:
    """compute_metrics evaluates and predicts; so does what it sees of each batch, and a callback."""
    run: Any = None
    inner: list[dict[str, float]] = []
    callback, open_ = Evaluates(), [True]

    def again(*_: Any, compute_result: bool = True, **__: Any) -> dict[str, float]:
        if open_:
            open_.clear()
            inner.append(run.evaluate(examples("masked")[:5], metric_key_prefix="eval_inner"))
            inner.append(run.predict(examples("masked")[:4]).metrics)
            open_.append(True)
        return {}

    def on_logits(logits: Any, labels: Any) -> Any:
        again()
        return logits

    more: dict[str, Any] = {"data_collator": collator("masked")}
    if place == "in a callback":
        more["callbacks"] = [callback]
    elif place == "before each batch's metrics":
        more |= {"preprocess_logits_for_metrics": on_logits, "compute_metrics": lambda *_, **__: {}}
    else:
        more["compute_metrics"] = again
    settings = {"batch_eval_metrics": place == "after each batch", "per_device_eval_batch_size": 3}
    run = callback.run = trainer(model("masked", 0), model("masked", 1), tmp_path, more=more, **settings)
    outer = run.evaluate({"a": examples("masked"), "b": examples("masked")})
    for name, value in alone("masked").items():
        expected = pytest.approx(value, rel=1e-6)
        assert [outer[name.replace("eval_", f"eval_{part}_")] for part in "ab"] == [expected, expected], name
    few = figures("masked", 3, examples("masked")[:5])
    found = inner[0] if inner else callback.found
    assert found["eval_inner_loss"] == pytest.approx(few["eval_loss"], rel=1e-6) != outer["eval_a_loss"]
    if inner:
        assert inner[1]["test_accuracy"] >= 0 and "test_perplexity" in inner[1]
