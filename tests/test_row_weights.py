"""Weights of rows in the batch: each row's own factor of the hard and of the soft term, in training alone."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from hf_dwt.errors import ArgumentError, DataError, TeacherError
from hf_dwt.forward.rows import HARD, SOFT, select_rows, weighted_rows
from hf_dwt.objective import Targets, Weights, chunked, distillation_terms
from hf_dwt.objective.divergences.forward_kl import FORWARD_KL
from hf_dwt.objective.logits import LinearLogits
from hf_dwt.objective.sparse import TopK
from hf_dwt.schedules.adaptive import adaptive
from hf_dwt.teachers import SeveralTeachers

from .invariants.layouts import Knowing
from .models import VOCAB, tiny
from .processes import run_in_two_processes
from .training import Example, history, pad, ragged_examples, trainer

ROWS, CLASSES = 11, 29
WEIGHTS = Weights(0.7, 1.3)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return FORWARD_KL(teacher, student)


@pytest.mark.parametrize(
    "form", ["plain", "smoothed", "warm", "narrow", "another divergence", "few classes", "no teacher"]
)
def test_each_row_has_its_own_factor(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums and gradients are those of the rows one by one, times their factors; in chunks and at once."""
    monkeypatch.setattr(chunked, "BYTES_ON_CPU", 4 * CLASSES * 8)
    monkeypatch.setattr(chunked, "LEAST_ROWS", 1)
    generator = torch.Generator().manual_seed(0)
    hidden, head, teacher = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((ROWS, 6), (CLASSES, 6), (ROWS, CLASSES))
    )
    labels = torch.randint(0, CLASSES - 4, (ROWS,), generator=generator)
    hard, soft = (torch.rand(ROWS, generator=generator) * (torch.arange(ROWS) % 3 != drop) for drop in (0, 1))
    options: dict[str, Any] = {
        "smoothed": {"label_smoothing": 0.1},
        "warm": {"temperature": 2.0},
        "another divergence": {"soft_term": reverse_kl},
    }.get(form, {})

    def targets(rows: slice) -> Targets | None:
        logits: Any = teacher[rows, : CLASSES - 4] if form == "narrow" else teacher[rows]
        if form == "few classes":
            found, ids = torch.log_softmax(logits, -1).topk(5)
            rest = (1 - found.exp().sum(-1)).clamp(min=0)
            truth = torch.log_softmax(logits, -1).gather(1, labels[rows].unsqueeze(1)).squeeze(1)
            logits = TopK(ids, CLASSES, truth, found, rest)
        return None if form == "no teacher" else Targets(logits)

    def computed(logits: Any, rows: slice, leaves: list[Tensor], weights: Weights, *own: Tensor) -> dict[str, Tensor]:
        found, (of_hard, of_soft) = targets(rows), own or (None, None)
        found = None if found is None else found.weighted(of_soft)
        terms = distillation_terms(logits, labels[rows], found, weights, row_weight=of_hard, **options)
        gradients = torch.autograd.grad(terms["loss"], leaves)
        return {name: value.detach() for name, value in terms.items()} | dict(zip("hw", gradients, strict=True))

    expected: dict[str, Tensor] = {}
    for row in range(ROWS):
        for factor, weights in ((hard[row], Weights(0.7, 0.0)), (soft[row], Weights(0.0, 1.3))):
            leaves = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
            part = slice(row, row + 1)
            one = computed(leaves[0][part] @ leaves[1].T, part, leaves, weights)
            kept = {"hard_loss", "teacher_margin"} if weights.hard else {"soft_loss"}
            for name in ({"loss", "h", "w"} | kept) & one.keys():
                expected[name] = expected.get(name, torch.zeros(())) + factor * one[name]
    expected["hard_rows"] = hard.sum()
    for lazy in (True, False):
        leaves = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
        logits = LinearLogits(leaves[0], leaves[1]) if lazy else leaves[0] @ leaves[1].T
        found = computed(logits, slice(None), leaves, WEIGHTS, hard, soft)
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name].double(), value.double(), rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert form == "no teacher" or expected["soft_loss"] > 1


@pytest.mark.parametrize("shifts", [False, True])
def test_a_weight_stands_where_the_label_stands(shifts: bool) -> None:
    labels = torch.tensor([[-100, 3, 4, -100], [5, -100, 6, 7]])
    of_labels = torch.arange(8.0).reshape(2, 4)
    found = weighted_rows(
        select_rows(labels, shifts), {"labels": labels, HARD: of_labels, SOFT: torch.tensor([True, False])}, shifts
    )
    assert found.labels.tolist() == ([3, 4, 6, 7] if shifts else [3, 4, 5, 6, 7])
    assert found.hard is not None and found.hard.tolist() == ([1, 2, 6, 7] if shifts else [1, 2, 4, 6, 7])
    assert found.soft is not None and found.soft.tolist() == ([1, 1, 0, 0] if shifts else [1, 1, 0, 0, 0])


# ---- in a run ----


def weighted(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """As `pad`, with a weight of each label of the hard term and, by its first token, of each example's soft term."""
    batch = pad(examples)
    return {**batch, HARD: batch["input_ids"] % 3 != 0, SOFT: batch["input_ids"][:, 0] % 2}


def steps(micro: int, processes: int, schedule: str) -> list[tuple[float, ...]]:
    with tempfile.TemporaryDirectory() as out:
        run = trainer(
            tiny("bert"),
            Knowing(),
            out,
            max_steps=12,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=8 // (micro * processes),
            soft_weight_schedule=schedule,
            more={"data_collator": weighted},
        )
        run.train()
    return history(run, "loss", "grad_norm", "hard_rows", "hard_loss", "teacher_margin", "soft_weight")


def each_split(micro: int, processes: int) -> dict[str, list[tuple[float, ...]]]:
    return {schedule: steps(micro, processes, schedule) for schedule in ("constant", "auto")}


def test_any_split_gives_the_same_step() -> None:
    """Over micro-batches and processes; the adaptive schedule follows the margin of the rows that have a truth."""
    whole, parts, processes = each_split(8, 1), each_split(2, 1), run_in_two_processes(each_split, 2, 2)
    for schedule, expected in whole.items():
        np.testing.assert_allclose(parts[schedule], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(processes[schedule], expected, rtol=1e-5, atol=1e-6)
    assert len({weight for *_, weight in whole["auto"]}) >= 3
    (*_, rows, loss, margin, _), (*_, weight) = whole["auto"][
        :2
    ]  # the means over all rows, of which some have a truth
    new = margin / rows / (math.log(VOCAB) - loss / rows + margin / rows)
    assert weight == pytest.approx(adaptive(1 / 12, margin / rows, new)[1], rel=1e-5) and 0.3 < rows < 0.9


def test_the_first_step_is_that_of_an_independent_computation(tmp_path: Path) -> None:
    """And the adaptive schedule's first measure is that of the rows with a truth alone."""
    student, teacher, batch = tiny("bert"), tiny("bert", seed=1), weighted(ragged_examples()[:8])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    kept = batch["labels"] != -100
    with torch.no_grad():
        own, other = (torch.log_softmax(model(**inputs).logits[kept], -1) for model in (student, teacher))
    labels, hard = batch["labels"][kept], batch[HARD][kept].float()
    soft = batch[SOFT].unsqueeze(1).expand_as(kept)[kept].float()
    cross, others = F.nll_loss(own, labels, reduction="none"), F.nll_loss(other, labels, reduction="none")
    divergence = F.kl_div(own, other, log_target=True, reduction="none").sum(-1)
    expected = [
        (hard * cross + soft * divergence).mean(),
        (hard * cross).mean(),
        (soft * divergence).mean(),
        hard.mean(),
    ]
    run = trainer(
        student, teacher, tmp_path, max_steps=1, soft_weight_schedule="constant", more={"data_collator": weighted}
    )
    run.train()
    (found,) = history(run, "loss", "hard_loss", "soft_loss", "hard_rows", "teacher_margin")
    np.testing.assert_allclose(found, [*expected, (hard * (cross - others)).mean()], rtol=1e-5)
    assert 0.2 < hard.mean() < 0.9 and 0 < soft.mean() < 1


def test_weights_of_one_are_none_and_evaluation_knows_none(tmp_path: Path) -> None:
    def ones(examples: list[Example]) -> dict[str, Tensor]:
        batch = pad(examples)
        return {**batch, HARD: torch.ones_like(batch["labels"]), SOFT: torch.ones(len(examples))}

    found = {}
    for collator in (pad, ones, weighted):
        run = trainer(
            tiny("bert"),
            tiny("bert", seed=1),
            tmp_path,
            more={"data_collator": collator, "eval_dataset": ragged_examples(9)},
        )
        before = run.evaluate()
        run.train()
        found[collator.__name__] = (before["eval_loss"], before["eval_soft_loss"], history(run, "loss"))
    assert found["ones"] == found["pad"]
    assert found["weighted"][:2] == found["pad"][:2] and found["weighted"][2] != found["pad"][2]


def test_a_column_of_the_data_is_a_weight(tmp_path: Path) -> None:
    """Stock batches carry it; the same weights from the data set and from a collator give the same run."""
    examples = ragged_examples(16)
    marked = [{**example, SOFT: example["input_ids"][0] % 2 == 0} for example in examples]

    def carrying(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {**pad(batch), SOFT: torch.tensor([example[SOFT] for example in batch])}

    def making(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {**pad(batch), SOFT: torch.tensor([example["input_ids"][0] % 2 == 0 for example in batch])}

    def run_of(data: Any, collator: Any, **settings: Any) -> Any:
        more = {"data_collator": collator}
        run = trainer(
            tiny("bert"), tiny("bert", seed=1), tmp_path, train_dataset=data, more=more, max_steps=2, **settings
        )
        run.train()
        return history(run, "loss", "soft_loss")

    found = run_of(Dataset.from_list(marked), carrying)
    assert found == run_of(Dataset.from_list(examples), making)
    cached = run_of(Dataset.from_list(marked), carrying, teacher_cache=str(tmp_path / "cache"))
    np.testing.assert_allclose(cached, found, rtol=1e-3)
    with pytest.raises(DataError, match=f"{SOFT}.*no entry of the batch"):
        run_of(Dataset.from_list(marked), pad)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (torch.ones(3), "shape"),
        (torch.full((8,), -1.0), "no weight"),
        (torch.full((8,), torch.nan), "no weight"),
        ([1] * 8, "list"),
    ],
)
def test_what_is_no_weight_is_refused(entry: Any, words: str, tmp_path: Path) -> None:
    run = trainer(
        tiny("bert"), None, tmp_path, more={"data_collator": lambda examples: {**pad(examples), HARD: entry}}
    )
    with pytest.raises(DataError, match=words):
        run.train()


@pytest.mark.parametrize("reader", ["compute_loss_func", "teacher_correction", "teacher_model"])
def test_what_reads_every_label_as_the_truth_is_refused(reader: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"teacher_correction": "revise"} if reader == "teacher_correction" else {}
    teacher: Any = tiny("bert", seed=1)
    teacher = SeveralTeachers([teacher, tiny("bert", seed=2)]) if reader == "teacher_model" else teacher
    more: dict[str, Any] = {"data_collator": weighted}
    if reader == "compute_loss_func":
        more[reader] = lambda outputs, labels, num_items_in_batch: outputs["logits"].sum()
    with pytest.raises((ArgumentError, DataError, TeacherError), match=reader):
        trainer(tiny("bert"), teacher, tmp_path, more=more, **settings).train()
