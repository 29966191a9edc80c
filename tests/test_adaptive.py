"""The adaptive schedule: its weights, when the teacher is no longer run, and that a resumed run goes on."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_dwt.errors import ArgumentError
from hf_dwt.forward.rows import Rows
from hf_dwt.objective import Targets, Weights, distillation_terms
from hf_dwt.objective.logits import LinearLogits
from hf_dwt.schedules.adaptive import FADE, OFF_BELOW
from hf_dwt.training import adaptive
from hf_dwt.training.adaptive import EVERY, AdaptiveSchedule

from .models import VOCAB, tiny
from .training import arguments, trainer

EMPTY = None
"""The lead of a step without rows."""


def see(fade: AdaptiveSchedule, lead: float | None, known: float = 9.0) -> None:
    counted = torch.tensor(lead is not EMPTY)
    fade.add(torch.tensor(lead or 0.0), torch.tensor(0.0 if lead is EMPTY else known), counted)


def follow(leads: Sequence[float | None], max_steps: int = 1, known: float = 0.0) -> AdaptiveSchedule:
    """A fade that has seen these leads, one a step; by default of a run so short that it falls as they do.

    `known`: nats by which the student is better than a guess at first.
    """
    fade = AdaptiveSchedule(lambda mean: mean)
    first = next((step for step, lead in enumerate(leads, 1) if lead is not EMPTY), 0)
    for step, lead in enumerate(leads, 1):
        if fade.runs_teacher:
            see(fade, lead, known if step == first else 9.0)
        fade.on_step_end(None, SimpleNamespace(global_step=step, max_steps=max_steps), None)
    return fade


def test_the_teacher_has_the_share_by_which_its_perplexity_is_lower() -> None:
    lead = math.log(4.0)  # a perplexity of a quarter
    assert follow([]).at(0) == (0.0, 1.0)
    assert follow([lead]).at(1) == pytest.approx((0.25, 0.75))
    # then the mean of the last steps
    fade = follow([lead] + [lead, 0.0] * (EVERY // 2))
    assert fade.at(EVERY) == pytest.approx((0.25, 0.75))
    assert fade.at(EVERY + 1) == pytest.approx((0.5, 0.5))
    assert fade.at(0) == (0.0, 1.0)  # steps that are past keep their weights


def test_an_equal_teacher_is_listened_to_and_a_worse_one_is_not() -> None:
    equal = follow([0.0])
    assert equal.at(1) == (1.0, 0.0) and equal.runs_teacher
    behind = follow([0.0] + [-0.01] * EVERY)
    assert behind.at(EVERY + 1) == (1.0, 0.0) and behind.runs_teacher
    fell_back = follow([0.0] + [-0.01] * EVERY + [0.5] * EVERY)
    assert fell_back.at(2 * EVERY + 1)[1] == pytest.approx(1 - math.exp(-0.5))
    gone = follow([1.0] + [2 * OFF_BELOW] * EVERY + [1.0] * EVERY)
    assert gone.at(3 * EVERY) == (1.0, 0.0) and not gone.runs_teacher


def test_a_step_without_rows_and_a_lead_that_is_no_number_change_nothing() -> None:
    lead = math.log(4.0)
    waits = follow([EMPTY] * 3)
    assert waits.at(3) == (0.0, 1.0) and waits.runs_teacher
    late, prompt = follow([EMPTY] * 3 + [lead], known=1.0), follow([lead], known=1.0)
    assert late.at(4) == prompt.at(1) == pytest.approx((0.25, 0.75))  # as if it began there
    assert late.state()["new"] == prompt.state()["new"] == pytest.approx(lead / (1 + lead))
    # the mean is over the steps with rows
    half = follow([lead] + [EMPTY, 1.0] * (EVERY // 2))
    assert half.at(1 + EVERY)[1] == pytest.approx(1 - math.exp(-1.0))
    none = follow([lead] + [EMPTY] * EVERY)
    assert none.at(1 + EVERY) == pytest.approx((0.25, 0.75)) and none.runs_teacher
    for wrong in (math.nan, math.inf, -math.inf):
        kept = follow([lead] + [wrong] + [1.0] * (EVERY - 1) + [0.5] * EVERY)
        assert kept.at(1 + EVERY) == pytest.approx((0.25, 0.75)) and kept.runs_teacher
        assert kept.at(1 + 2 * EVERY)[1] == pytest.approx(1 - math.exp(-0.5))
        assert follow([wrong] * 3 + [lead], known=1.0).at(4)[1] == pytest.approx(0.75)


def test_what_is_new_to_the_student_fades_no_faster_than_over_a_part_of_training() -> None:
    steps = 10 * EVERY
    for known, new in ((0.0, 1.0), (-0.1, 1.0), (1.0, 0.5), (3.0, 0.25)):
        caught_up = follow([1.0] + [0.0] * (4 * EVERY), steps, known)
        for step in (1 + EVERY, 1 + 2 * EVERY):
            assert caught_up.at(step)[1] == pytest.approx(new * (1 - step / (FADE * steps)))
        assert caught_up.at(1 + 3 * EVERY) == (1.0, 0.0) and caught_up.runs_teacher
    assert follow([1.0], steps).at(1)[1] == pytest.approx(1 - 1 / (FADE * steps))
    assert follow([1.0], steps, 3.0).at(1)[1] == pytest.approx(1 - math.exp(-1.0))  # the larger of the two
    level = follow([0.0] * (2 * EVERY), steps, 3.0)  # a student that starts as good as the teacher
    assert level.at(1 + EVERY) == (1.0, 0.0) and level.runs_teacher
    assert follow([1.0] + [2 * OFF_BELOW] * EVERY, steps).at(1 + EVERY) == (1.0, 0.0)  # whoever is behind is silent


def test_a_state_goes_on_within_an_average() -> None:
    leads = [2.0, *(EMPTY if step in (12, 20) else 0.1 * step for step in range(25))]
    whole, first = follow(leads, 60), follow(leads[:17], 60)
    second = AdaptiveSchedule(lambda lead: lead)
    second.load(first.state(), torch.device("cpu"))
    for step, lead in enumerate(leads[17:], 18):
        see(second, lead)
        second.on_step_end(None, SimpleNamespace(global_step=step, max_steps=60), None)
    assert second.state() == whole.state() and len(whole.state()["changes"]) == 4


@pytest.mark.parametrize("tau", [1.0, 3.0])
@pytest.mark.parametrize("shared", [9, 6])
def test_the_lead_is_a_difference_of_cross_entropies(tau: float, shared: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, teacher = (torch.randn(*s, generator=generator).double() for s in ((7, 4), (9, 4), (7, shared)))
    labels = torch.tensor([0, 8, 3, 5, 2, 8, 1])
    known = labels < shared
    cross = torch.nn.functional.cross_entropy
    expected = cross((hidden @ weight.T)[known], labels[known], reduction="sum")
    expected = expected - cross(teacher[known], labels[known], reduction="sum")
    for student in (hidden @ weight.T, LinearLogits(hidden, weight)):
        terms = distillation_terms(
            student, labels, Targets(teacher), Weights(1, 1), temperature=tau, label_smoothing=0.1
        )
        assert terms["teacher_margin"].item() == pytest.approx(expected.item(), rel=1e-10)
        assert not terms["teacher_margin"].requires_grad


class Told:
    """A teacher that puts a share of the probability on the truth, and counts how often it is asked."""

    columns: frozenset[str] = frozenset()

    def __init__(self, logit: float) -> None:
        self.logit, self.asked = logit, 0

    def targets(self, batch: Any, rows: Rows) -> Targets:
        self.asked += 1
        return Targets(torch.nn.functional.one_hot(rows.labels, VOCAB).float() * self.logit)


def test_training_follows_the_lead_that_it_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "EVERY", 1)
    run = trainer(tiny("bert"), Told(3.0), tmp_path, soft_weight_schedule="auto", soft_weight=2.0, max_steps=4)
    run.train()
    steps = [entry for entry in run.state.log_history if "teacher_margin" in entry]
    assert [steps[0]["hard_weight"], steps[0]["soft_weight"]] == [0.0, 2.0]
    for before, entry in pairwise(steps):
        soft = 1 - math.exp(-before["teacher_margin"])
        assert 0.3 < soft < 0.99
        assert [entry["hard_weight"], entry["soft_weight"]] == pytest.approx([1 - soft, 2 * soft], rel=1e-5)


def test_a_teacher_that_is_behind_is_not_run(tmp_path: Path) -> None:
    worse = Told(-5.0)
    run = trainer(tiny("bert"), worse, tmp_path, soft_weight_schedule="auto", max_steps=5)
    run.train()
    assert worse.asked == 1
    assert [entry.get("soft_weight") for entry in run.state.log_history if "loss" in entry] == [1.0] + [None] * 4
    run.train()  # again: what the first run found does not hold for the second
    assert worse.asked == 2


def test_without_a_soft_weight_nobody_is_asked(tmp_path: Path) -> None:
    teacher = Told(3.0)
    trainer(tiny("bert"), teacher, tmp_path, soft_weight_schedule="auto", soft_weight=0.0).train()
    assert teacher.asked == 0


def test_auto_takes_no_parameters() -> None:
    with pytest.raises(ArgumentError, match="soft_weight_schedule_kwargs=.*'auto' takes none"):
        arguments("unused", soft_weight_schedule="auto", soft_weight_schedule_kwargs={"until": 0.3})
