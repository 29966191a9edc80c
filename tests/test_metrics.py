"""The metrics: sums over examples, with no network."""

import math
from types import SimpleNamespace
from typing import Any

import evaluate
import numpy as np
import pytest
import torch

from hf_dwt.forward.rows import select_rows
from hf_dwt.metrics import Accuracy, Loss, Perplexity, RowMean, SoftLoss, metrics_of
from hf_dwt.objective import Targets, Weights
from hf_dwt.objective.divergences.forward_kl import FORWARD_KL
from hf_dwt.training.figures import example_figures
from hf_dwt.training.meter import TermMeter

SUMS, COUNTS = [2.0, 9.0, 0.0], [1, 3, 0]


def test_a_mean_over_rows_is_not_a_mean_over_examples() -> None:
    assert Loss().compute(predictions=SUMS, references=COUNTS) == {"loss": 11 / 4}
    assert np.mean([2.0, 9 / 3]) != 11 / 4


@pytest.mark.parametrize(("metric", "value"), [(Perplexity, math.exp(11 / 4)), (Accuracy, 11 / 4)])
def test_added_in_parts_or_at_once(metric: type[RowMean], value: float) -> None:
    parts = metric()
    for total, count in zip(SUMS, COUNTS, strict=True):
        parts.add(predictions=total, references=count)
    whole = metric().compute(predictions=SUMS, references=COUNTS)
    assert parts.compute() == whole and whole[metric.label] == pytest.approx(value)


def test_they_are_metrics_of_evaluate() -> None:
    combined = evaluate.combine([Loss(), Perplexity()])
    assert isinstance(Loss(), evaluate.Metric)
    assert combined.compute(predictions=SUMS, references=COUNTS) == {"loss": 2.75, "perplexity": math.exp(2.75)}


def test_no_rows_have_no_mean() -> None:
    assert math.isnan(Loss().compute(predictions=[0.0], references=[0])["loss"])
    assert Perplexity().compute(predictions=[1e6], references=[1])["perplexity"] == math.inf


def test_rounding_makes_no_divergence_negative() -> None:
    metric = SoftLoss()
    assert metric.compute(predictions=[-6e-9, 0.0], references=[10, 0])["soft_loss"] == 0.0
    assert metric.compute(predictions=[-1e-3], references=[10])["soft_loss"] == pytest.approx(-1e-4)  # a sampled one
    meter = TermMeter()
    meter.add(
        {n: torch.tensor(-6e-9) for n in ("loss", "hard_loss", "soft_loss")}, torch.tensor(1.0), 0, torch.tensor(True)
    )
    one_process: Any = SimpleNamespace(reduce=lambda values, reduction: values)
    logs = meter.drain(1, lambda step: Weights(1.0, 1.0), one_process)
    assert logs["soft_loss"] == 0.0 and logs["hard_loss"] == pytest.approx(-6e-9)


def test_figures_of_examples_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (3, 4), generator=generator).masked_fill(torch.eye(3, 4) > 0, -100)
    labels[2] = -100
    logits, teacher = torch.randn(2, 3, 4, 5, generator=generator).unbind()
    rows = select_rows(labels, shifts=False)
    figures = example_figures(rows.take(logits), rows, 3, Targets(rows.take(teacher)), FORWARD_KL, 2.0)
    for example in range(3):
        kept = labels[example] != -100
        own, other, truth = logits[example][kept], teacher[example][kept], labels[example][kept]
        p, q = (other / 2).softmax(-1), (own / 2).softmax(-1)
        expected = {
            "rows": kept.sum(),
            "nll": -own.log_softmax(-1)[range(len(truth)), truth].sum(),
            "right": (own.argmax(-1) == truth).sum(),
            "soft": (p * (p / q).log()).sum(),
            "agrees": (own.argmax(-1) == other.argmax(-1)).sum(),
            "teacher_right": (other.argmax(-1) == truth).sum(),
            "teacher_nll": -other.log_softmax(-1)[range(len(truth)), truth].sum(),
        }
        assert figures.keys() == expected.keys()
        for name, value in expected.items():
            assert figures[name][example].item() == pytest.approx(float(value), rel=1e-5, abs=1e-6), name
    results = metrics_of({name: value.numpy() for name, value in figures.items()})
    assert results["loss"] == pytest.approx(figures["nll"].sum().item() / figures["rows"].sum().item())
    assert results["teacher_loss"] != results["loss"] != results["soft_loss"]
