"""Schedules: their curves, their bounds, and that nothing but progress goes in."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from hf_dwt.errors import ArgumentError
from hf_dwt.schedules import SCHEDULES, get_schedule

# name, parameters, then (progress, factor of hard_weight, factor of soft_weight), worked out by hand
CURVES: list[tuple[str, dict[str, float], list[tuple[float, float, float]]]] = [
    ("constant", {}, [(0, 1, 1), (0.5, 1, 1), (1, 1, 1)]),
    ("linear_decay", {}, [(0, 1, 4), (0.5, 1, 2.5), (1, 1, 1)]),
    ("linear_decay", {"start": 1, "end": 0}, [(0, 1, 1), (0.25, 1, 0.75), (1, 1, 0)]),
    ("knowledge_inheritance", {}, [(0, 0, 1), (0.15, 0.5, 0.5), (0.3, 1, 0), (1, 1, 0)]),
    ("knowledge_inheritance", {"until": 0.8}, [(0, 0, 1), (0.2, 0.25, 0.75), (0.9, 1, 0)]),
    ("step_off", {"until": 0.2}, [(0, 1, 1), (0.19, 1, 1), (0.2, 1, 0), (1, 1, 0)]),
    ("cosine", {}, [(0, 1, 1), (0.5, 1, 0.5), (1, 1, 0)]),
    ("cosine", {"until": 0.5}, [(0.25, 1, 0.5), (0.5, 1, 0), (0.75, 1, 0)]),
    (
        "warmup_stable_decay",
        {"warmup": 0.2, "decay": 0.4},
        [(0, 1, 0), (0.1, 1, 0.5), (0.2, 1, 1), (0.6, 1, 1), (0.8, 1, 0.5), (1, 1, 0)],
    ),
    ("warmup_stable_decay", {"warmup": 0, "decay": 0}, [(0, 1, 1), (1, 1, 1)]),
]


@pytest.mark.parametrize(("name", "parameters", "points"), CURVES)
def test_curve(name: str, parameters: dict[str, float], points: list[tuple[float, float, float]]) -> None:
    schedule = get_schedule(name, parameters)
    for progress, hard, soft in points:
        assert schedule(progress) == pytest.approx((hard, soft), abs=1e-12), progress


def test_every_schedule_has_a_curve_here() -> None:
    assert {name for name, _, _ in CURVES} == set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_progress_is_all_that_goes_in(name: str) -> None:
    """So a run that resumes at a step continues the curve of the run that never stopped."""
    parameters = list(inspect.signature(SCHEDULES[name]).parameters.values())
    assert parameters[0].name == "progress"
    assert all(p.kind == p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[1:])
    schedule = get_schedule(name)
    grid = np.linspace(0, 1, 41)
    forwards = [schedule(progress) for progress in grid]
    assert forwards == [schedule(progress) for progress in reversed(grid)][::-1]
    assert all(factor >= 0 for pair in forwards for factor in pair)


def test_a_callable_is_a_schedule() -> None:
    def sawtooth(progress: float, *, teeth: int = 2) -> tuple[float, float]:
        return 1.0, (progress * teeth) % 1.0

    assert get_schedule(sawtooth, {"teeth": 4})(0.125) == (1.0, 0.5)
    assert get_schedule(sawtooth)(0.125) == (1.0, 0.25)


@pytest.mark.parametrize(
    ("schedule", "parameters", "words"),
    [
        (
            "linear_decline",
            {},
            ["soft_weight_schedule='linear_decline'", "Did you mean 'linear_decay'?", "Available:"],
        ),
        ("zzz", {}, ["is unknown", "knowledge_inheritance", "function from progress"]),
        ("constant", {"until": 1}, ["soft_weight_schedule_kwargs", "until", "takes: none"]),
        ("cosine", {"untill": 0.5}, ["untill", "takes: until"]),
        ("cosine", {"until": 0}, ["soft_weight_schedule_kwargs['until']=0", "above 0 to 1"]),
        ("step_off", {"until": 1.5}, ["1.5", "out of range"]),
        ("linear_decay", {"start": -1}, ["'start'", "-1"]),
        ("linear_decay", {"start": "4"}, ["'start'", "'4'"]),
        (lambda progress: 1.0, {}, ["returned 1.0 at progress 0.0", "pair"]),
        (lambda progress: (1.0, 0.62 - progress), {}, ["at progress 0.63", "non-negative"]),
        (lambda progress: (1.0, float("nan")), {}, ["nan"]),
        (lambda progress: (1.0, 1 / (progress - 0.5)), {}, ["returned (1.0, -2.0)"]),
        (lambda progress: (1.0, abs(1 / (progress - 0.5))), {}, ["ZeroDivisionError at progress 0.5", "from 0 to 1"]),
        (lambda progress: {0.0: (1.0, 1.0)}[progress], {}, ["raised KeyError at progress 0.01"]),
        (torch.ones, {}, ["raised TypeError at progress 0.0"]),
        (lambda: 0.5, {}, ["soft_weight_schedule=<function", "cannot be called with progress"]),
        (lambda progress, *, pace: (1.0, pace), {}, ["soft_weight_schedule_kwargs={}", "'pace'"]),
        (int, {}, ["soft_weight_schedule=<class 'int'>", "returned 0"]),
        (["constant"], {}, ["soft_weight_schedule=['constant']", "is unknown"]),
    ],
)
def test_wrong_schedules_are_refused(schedule: Any, parameters: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ArgumentError) as error:
        get_schedule(schedule, parameters)
    assert all(word in str(error.value) for word in words), str(error.value)
