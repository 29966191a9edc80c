"""Metrics over the rows of an evaluation: `evaluate.Metric` subclasses that need no network.

All of them take sums, one entry per example: predictions are a figure summed over the example's rows, references the
number of its rows. Sums make the result independent of how examples fall into batches and processes; a mean of
batch means is not.
"""

import math
from collections.abc import Mapping, Sequence

import datasets
import evaluate
import numpy as np

from .objective.divergences import clear_of_rounding

__all__ = [
    "Accuracy",
    "Loss",
    "Perplexity",
    "RowMean",
    "SoftLoss",
    "TeacherAccuracy",
    "TeacherAgreement",
    "TeacherLoss",
    "TeacherRows",
    "TeacherWeight",
]

_INPUTS = """
Args:
    predictions: for each example, the figure summed over its rows.
    references: for each example, the number of its rows (positions with a label).
"""
_CITATION = """@inproceedings{lee2023weak, title={A Study on Knowledge Distillation from Weak Teacher for Scaling Up
Pre-trained Language Models}, author={Lee, Hayeon and Hou, Rui and Kim, Jongpil and Liang, Davis and Hwang, Sung Ju
and Min, Alexander}, booktitle={Findings of ACL}, year={2023}}"""


class RowMean(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """The mean over all rows of all examples, under the metric's name; NaN where there is no row."""

    label = "row_mean"

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**{"keep_in_memory": True, "seed": 0, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").strip(),
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[int]) -> dict[str, float]:
        rows = int(np.sum(references))
        return {self.label: self.of_mean(float(np.sum(predictions)) / rows) if rows else math.nan}

    @staticmethod
    def of_mean(mean: float) -> float:
        """From the mean over rows to the metric."""
        return mean


class Loss(RowMean):
    """Cross-entropy of the labels in nats; predictions are summed negative log-likelihoods.

    Of numbers the mean squared error; predictions are summed squared errors.
    """

    label = "loss"


class Perplexity(RowMean):
    """exp of the cross-entropy; predictions are summed negative log-likelihoods in nats."""

    label = "perplexity"

    @staticmethod
    def of_mean(mean: float) -> float:
        return math.inf if mean >= 700 else math.exp(mean)  # beyond what a float holds


class Accuracy(RowMean):
    """Share of rows whose most likely class is the label; predictions count the rows that are right."""

    label = "accuracy"


class SoftLoss(RowMean):
    """The soft term (divergence from teacher to student); predictions are sums over rows, in nats."""

    label = "soft_loss"

    @staticmethod
    def of_mean(mean: float) -> float:
        return clear_of_rounding(mean)


class TeacherAgreement(RowMean):
    """Share of rows on which student and teacher find the same class most likely; predictions count them."""

    label = "teacher_agreement"


class TeacherLoss(RowMean):
    """Cross-entropy of the labels under the teacher, in nats; predictions are summed negative log-likelihoods.

    Only rows count whose label it has a class for.
    """

    label = "teacher_loss"


class TeacherAccuracy(RowMean):
    """Share of rows whose most likely class under the teacher is the label; predictions count them."""

    label = "teacher_accuracy"


class TeacherRows(RowMean):
    """Share of rows that the teacher has anything for; predictions count them."""

    label = "teacher_rows"


class TeacherWeight(RowMean):
    """How much one of several teachers counts; predictions are its weights summed over rows."""

    label = "teacher_weight"


def metrics_of(figures: Mapping[str, np.ndarray]) -> dict[str, float]:
    """All metrics that figures allow: the teacher's loss only where it is known of all labels.

    "teacher_rows" is there only where it is below 1: the teacher's loss is then over other rows than the student's.

    Args:
        figures: (N,) arrays over the examples of an evaluation, by the names of `hf_dwt.training.figures`.
    """
    rows, none = figures["rows"].astype(np.int64), np.zeros(1)
    taught = figures.get("teacher_entries", rows).astype(np.int64)
    results: dict[str, float] = {}
    for figure, sums in figures.items():
        for name, metric in _METRICS:
            # "teacher_nll_a" is a figure of the teacher a, one of several.
            if figure != name and not (name in _OF_EACH and figure.startswith(f"{name}_")):
                continue
            if metric is Perplexity and "right" not in figures:  # of numbers, which have no probability
                continue
            if metric is TeacherLoss and figures.get("teacher_unknown", none).any():
                continue
            counted = rows if name in _OF_STUDENT else taught
            if metric is TeacherLoss:
                counted = figures.get("teacher_rows", taught).astype(np.int64)
            (mean,) = metric().compute(predictions=sums, references=counted).values()
            results[metric.label + figure.removeprefix(name)] = mean
    if figures.get("teacher_rows", rows).sum() < rows.sum():
        results |= TeacherRows().compute(predictions=figures["teacher_rows"], references=rows)
    return results


_METRICS: tuple[tuple[str, type[RowMean]], ...] = (
    ("nll", Loss),
    ("nll", Perplexity),
    ("right", Accuracy),
    ("soft", SoftLoss),
    ("agrees", TeacherAgreement),
    ("teacher_nll", TeacherLoss),
    ("teacher_right", TeacherAccuracy),
    ("teacher_weight", TeacherWeight),
)
_OF_STUDENT = ("nll", "right")
_OF_EACH = ("teacher_nll", "teacher_weight")
