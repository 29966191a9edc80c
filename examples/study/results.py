"""Finished cells: means, differences with intervals, costs, and what an assessment of a teacher rests on."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hf_dwt.assess.assessment import explained
from study.cells import AUTO, CONSTANT, KI, NONE, TUNING_SEED, Cell, Study

# Two-sided 95 % points of Student's t by degrees of freedom; above, 1.96 + 2.5 / degrees is within 0.02 of it.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
Row = dict[str, Any]
SOFT: dict[str, dict[str, Any]] = {
    "no soft term": {},
    "constant 1 : 1": {"soft": CONSTANT},
    "fade over 0.3": KI,
    "auto": {"soft": AUTO},
}
"""What tables and pictures put side by side -> fields of its cells."""


class Results:
    """Finished cells, looked up by what they are and gathered over seeds."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._runs: dict[Cell, dict[int, Row]] = defaultdict(dict)
        for row in rows:
            fields = {**row["cell"], "schedule": tuple(tuple(pair) for pair in row["cell"]["schedule"])}
            cell = Cell(**fields)
            if cell.seed != TUNING_SEED:
                self._runs[replace(cell, seed=0)][cell.seed] = row

    def cells(self) -> list[Cell]:
        return list(self._runs)

    def runs(self, cell: Cell) -> dict[int, Row]:
        """Seed -> row."""
        return self._runs.get(replace(cell, seed=0), {})

    def losses(self, cell: Cell) -> list[float]:
        return [row["loss"] for row in self.runs(cell).values()]

    def rate(self, cell: Cell) -> float | None:
        return next((row["rate"] for row in self.runs(cell).values()), None)

    def mean(self, cell: Cell) -> str:
        """Mean and standard deviation over seeds, or a dash."""
        losses = self.losses(cell)
        if not losses:
            return "-"
        spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
        return f"{statistics.mean(losses):.3f}{spread}"

    def spread(self, cell: Cell) -> tuple[float, int]:
        """Variance over seeds among the cells like this one, pooled, and its degrees of freedom.

        Three seeds say little of a spread, and cells of one start whose students are supervised alike have much the
        same: without a teacher it is that of the step at which training leaves its plateau, which a teacher
        hastens.
        """
        groups = [self.losses(other) for other in self._runs if _kind(other) == _kind(cell)]
        degrees = sum(len(losses) - 1 for losses in groups)
        squares = sum(statistics.variance(losses) * (len(losses) - 1) for losses in groups if len(losses) > 1)
        return (squares / degrees if degrees else math.inf), degrees

    def difference(self, cell: Cell, other: Cell) -> tuple[float, float] | None:
        """Mean of `cell` minus mean of `other`, and half its 95 % interval (Welch); None without two seeds of each."""
        ours, theirs = self.losses(cell), self.losses(other)
        if min(len(ours), len(theirs)) < 2:
            return None
        (one, n), (two, m) = self.spread(cell), self.spread(other)
        parts = one / len(ours), two / len(theirs)
        if _kind(cell) == _kind(other) or not any(parts):
            degrees = min(n, m)
        else:  # Welch and Satterthwaite's
            degrees = int(sum(parts) ** 2 / (parts[0] ** 2 / n + parts[1] ** 2 / m))
        t = _T[degrees - 1] if degrees <= len(_T) else 1.96 + 2.5 / degrees
        return statistics.mean(ours) - statistics.mean(theirs), t * math.sqrt(sum(parts))

    def gain(self, cell: Cell, other: Cell) -> str:
        found = self.difference(cell, other)
        return "-" if found is None else f"{found[0]:+.3f} ± {found[1]:.3f}"

    def reach(self, cell: Cell, base: Cell, axis: str) -> str:
        """Share of `base`'s cost at which `cell` reaches the loss `base` ends at, by seed: median and extremes."""
        shares = []
        for seed, run in self.runs(cell).items():
            if seed in self.runs(base):
                last = self.runs(base)[seed]["curve"][-1]
                reached = cost_at(run["curve"], last["eval_loss"], axis)
                shares.append(math.inf if reached is None else reached / last[axis])
        if not shares:
            return "-"
        low, middle, high = (f"{x:.2f}" if x < math.inf else "never" for x in _extremes(shares))
        return middle if len(shares) == 1 else f"{middle} ({low} to {high})"


# voice of a cell -> what supervises its students, where that is neither a teacher's predictions nor nothing
_SUPERVISORS = {
    "unigram": "frequencies",
    "late_to_early": "hidden states",
    "strong_features": "hidden states",
    "random_features": "random hidden states",
    "strong_self_features": "own hidden states",
}


def _kind(cell: Cell) -> tuple[Any, str]:
    """The start, and what supervises the student: predictions, hidden states, frequencies of words, or nothing."""
    taught = cell.is_taught and cell.voice not in ("smoothing", "virtual", "features")
    return cell.start, _SUPERVISORS.get(cell.voice, "a model" if taught else "nothing")


def _extremes(values: list[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def cost_at(curve: list[dict[str, float]], loss: float, axis: str) -> float | None:
    """What it had cost when the curve first came down to `loss`, by a straight line between evaluations."""
    if curve[0]["eval_loss"] <= loss:
        return curve[0][axis]
    for before, after in pairwise(curve):
        if after["eval_loss"] <= loss:
            share = (before["eval_loss"] - loss) / (before["eval_loss"] - after["eval_loss"])
            return before[axis] + share * (after[axis] - before[axis])
    return None


# ---- what an assessment of a teacher rests on ----

SETTINGS: dict[str, dict[str, Any]] = {
    "random, constant": {"init": "random", "soft": CONSTANT},
    "random, fade over 0.3": {"init": "random", **KI},
    "random, auto": {"init": "random", "soft": AUTO},
    "remap, none": {"init": "remap"},
    "remap, constant": {"init": "remap", "soft": CONSTANT},
    "remap, fade over 0.3": {"init": "remap", **KI},
    "remap, auto": {"init": "remap", "soft": AUTO},
    "clone, none": {"init": "clone"},
    "clone, auto": {"init": "clone", "soft": AUTO},
}
"""Setting -> fields of its cells."""


def evidence(results: Results, study: Study, unigram: float) -> dict[str, Any]:
    """What `hf_dwt.assess` reads.

    Args:
        unigram: loss in nats of who knows the frequencies of the held-out text alone.
    """
    base = study.base
    teachers = []
    for teacher in study.teachers:
        cells = {name: Cell(teacher, **fields) for name, fields in SETTINGS.items()}
        gains = {name: found for name, cell in cells.items() if (found := results.difference(cell, base))}
        losses = [row["teacher_loss"] for cell in cells.values() for row in results.runs(cell).values()]
        if gains:
            shown = {name: [round(number, 4) for number in found] for name, found in gains.items()}
            share = round(explained(losses[0], unigram), 4)
            teachers.append({"name": teacher, "loss": losses[0], "explained": share, "gains": shown})
    rates = {cell.init: rate for cell in results.cells() if cell.student == "wide" and (rate := results.rate(cell))}
    settings = {name: arguments(fields) for name, fields in SETTINGS.items()}
    return {"unigram": round(unigram, 4), "teachers": teachers, "settings": settings, "rates": rates}


def arguments(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a setting as a user would write them."""
    if fields.get("soft", NONE) == NONE:
        return {"init": fields["init"], "soft_weight": 0.0}
    told = {"init": fields["init"], "soft_weight": 1.0, "soft_weight_schedule": fields["soft"]}
    return told | ({"soft_weight_schedule_kwargs": dict(fields["schedule"])} if "schedule" in fields else {})
