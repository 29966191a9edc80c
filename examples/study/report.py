"""Tables and pictures of a study, from its results alone."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from study.cells import AUTO, CONSTANT, FADE, TUNING_SEED, Cell, Study

# Two-sided 95 % points of Student's t by degrees of freedom; from 30 on the normal's.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
Row = dict[str, Any]


class Results:
    """Finished cells, looked up by what they are and gathered over seeds."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._runs: dict[Cell, dict[int, Row]] = defaultdict(dict)
        for row in rows:
            fields = {**row["cell"], "schedule": tuple(tuple(pair) for pair in row["cell"]["schedule"])}
            cell = Cell(**fields)
            if cell.seed != TUNING_SEED:
                self._runs[replace(cell, seed=0)][cell.seed] = row

    def runs(self, cell: Cell) -> dict[int, Row]:
        """Seed -> row."""
        return self._runs.get(replace(cell, seed=0), {})

    def losses(self, cell: Cell) -> list[float]:
        return [row["loss"] for row in self.runs(cell).values()]

    def mean(self, cell: Cell) -> str:
        """Mean and standard deviation over seeds, or a dash."""
        losses = self.losses(cell)
        if not losses:
            return "-"
        spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
        return f"{statistics.mean(losses):.3f}{spread}"

    def difference(self, cell: Cell, other: Cell) -> tuple[float, float] | None:
        """Mean of `cell` minus `other`, paired by seed, and half its 95 % interval; None with fewer than two pairs."""
        ours, theirs = self.runs(cell), self.runs(other)
        gaps = [ours[seed]["loss"] - theirs[seed]["loss"] for seed in ours.keys() & theirs.keys()]
        if len(gaps) < 2:
            return None
        t = _T[len(gaps) - 2] if len(gaps) - 2 < len(_T) else 1.96
        return statistics.mean(gaps), t * statistics.stdev(gaps) / math.sqrt(len(gaps))

    def gain(self, cell: Cell, other: Cell) -> str:
        found = self.difference(cell, other)
        return "-" if found is None else f"{found[0]:+.3f} ± {found[1]:.3f}"

    def reach(self, cell: Cell, base: Cell, axis: str) -> str:
        """Share of `base`'s cost at which `cell` reaches the loss that `base` ends at, paired by seed: the median."""
        shares = []
        for seed, run in self.runs(cell).items():
            if seed in self.runs(base):
                last = self.runs(base)[seed]["curve"][-1]
                reached = cost_at(run["curve"], last["eval_loss"], axis)
                shares.append(math.inf if reached is None else reached / last[axis])
        if not shares:
            return "-"
        median = statistics.median(shares)
        return "never" if math.isinf(median) else f"{median:.2f}"


def cost_at(curve: list[dict[str, float]], loss: float, axis: str) -> float | None:
    """What it had cost when the curve first came down to `loss`, by a straight line between evaluations."""
    if curve[0]["eval_loss"] <= loss:
        return curve[0][axis]
    for before, after in pairwise(curve):
        if after["eval_loss"] <= loss:
            share = (before["eval_loss"] - loss) / (before["eval_loss"] - after["eval_loss"])
            return before[axis] + share * (after[axis] - before[axis])
    return None


def table(head: list[str], lines: Iterable[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


# ---- the tables ----

KI: dict[str, Any] = {"soft": FADE, "schedule": (("until", 0.3),)}
KI_SHORT: dict[str, Any] = {"soft": FADE, "schedule": (("until", 0.15),)}
SOFT: dict[str, dict[str, Any]] = {
    "no soft term": {},
    "constant 1 : 1": {"soft": CONSTANT},
    "fade over 0.3": KI,
    "auto": {"soft": AUTO},
}


def main_table(results: Results, teacher: str) -> str:
    inits = ("random", "remap", "clone")
    return table(
        ["start", *SOFT],
        [[init, *(results.mean(Cell(teacher, init=init, **soft)) for soft in SOFT.values())] for init in inits],
    )


def gain_table(results: Results, teacher: str) -> str:
    """Differences to the same start without a soft term, and the cost to the loss that random, alone, ends at."""
    base, lines = Cell(teacher), []
    for init in ("random", "remap", "clone"):
        for name, soft in SOFT.items():
            cell = Cell(teacher, init=init, **soft)
            gain = "" if not soft else results.gain(cell, Cell(teacher, init=init))
            costs = [results.reach(cell, base, axis) for axis in ("step", "cpu_seconds", "flops")]
            lines.append([f"{init}, {name}", gain, results.gain(cell, base), *costs])
    return table(["setting", "against its start alone", "against random alone", "steps", "time", "operations"], lines)


def control_table(results: Results, teacher: str) -> str:
    base = Cell(teacher)
    cells = {
        "no teacher": base,
        "label smoothing 0.1": Cell(teacher, soft=CONSTANT, voice="smoothing"),
        "virtual teacher": Cell(teacher, soft=CONSTANT, voice="virtual"),
        "unigram teacher, fade over 0.3": Cell(teacher, voice="unigram", **KI),
        "weak teacher, fade over 0.3": Cell(teacher, **KI),
        "the teacher itself, trained on": Cell(teacher, student="small", init="teacher"),
    }
    return table(
        ["control", "loss", "against no teacher"],
        [[name, results.mean(cell), "" if cell == base else results.gain(cell, base)] for name, cell in cells.items()],
    )


def quality_table(results: Results, study: Study) -> str:
    base = Cell(next(iter(study.teachers)))
    columns: dict[str, dict[str, Any]] = {
        "constant": {"soft": CONSTANT},
        "constant x 0.25": {"soft": CONSTANT, "weight": 0.25},
        "fade 0.15": KI_SHORT,
        "fade 0.3": KI,
        "auto": {"soft": AUTO},
        "clone": {"init": "clone"},
        "clone, fade 0.15": {"init": "clone", **KI_SHORT},
        "clone, auto": {"init": "clone", "soft": AUTO},
    }
    lines = []
    for teacher in study.teachers:
        cells = [Cell(teacher, **column) for column in columns.values()]
        own = next((f"{row['teacher_loss']:.3f}" for cell in cells for row in results.runs(cell).values()), "-")
        lines.append([f"{teacher} ({own})", *(results.gain(cell, base) for cell in cells)])
    return table(["teacher (its loss)", *columns], lines)


def weight_table(results: Results, study: Study, teacher: str) -> str:
    base = Cell(teacher)
    cells = {str(cell).removesuffix(" seed 0"): cell for cell in study.groups["weight"]}
    return table(
        ["setting", "loss", "against none"], [[n, results.mean(c), results.gain(c, base)] for n, c in cells.items()]
    )


def group_table(results: Results, study: Study, group: str) -> str:
    """Cells of a group beside the first of them."""
    cells = study.groups[group]
    return table(
        ["setting", "loss", "against the first"],
        [
            [str(c).removesuffix(" seed 0"), results.mean(c), "" if c == cells[0] else results.gain(c, cells[0])]
            for c in cells
        ],
    )


# ---- the pictures ----

COLOURS = {"no soft term": "#6b6b6b", "constant 1 : 1": "#b8562b", "fade over 0.3": "#0b6e99", "auto": "#3b8132"}
STYLES = {"random": "-", "remap": ":", "clone": "--"}


def average(runs: dict[int, Row], axis: str) -> tuple[list[float], list[float]]:
    """The mean curve over seeds."""
    points = zip(*(row["curve"] for row in runs.values()), strict=True)
    means = [(statistics.mean(p[axis] for p in at), statistics.mean(p["eval_loss"] for p in at)) for at in points]
    return [x for x, _ in means], [y for _, y in means]


def draw_curves(results: Results, teacher: str, output: Path) -> None:
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", sharey=True)
    for pane, (axis, label) in zip(
        panes, (("step", "optimiser steps"), ("cpu_seconds", "seconds of one core, teacher included")), strict=True
    ):
        for init, style in STYLES.items():
            for name, soft in SOFT.items():
                if runs := results.runs(Cell(teacher, init=init, **soft)):
                    pane.plot(*average(runs, axis), style, color=COLOURS[name], label=f"{init}, {name}", linewidth=1.6)
        own = next((r["teacher_loss"] for s in SOFT.values() for r in results.runs(Cell(teacher, **s)).values()), None)
        if own is not None:
            pane.axhline(own, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
        pane.set_xlabel(label)
        pane.set_ylim(top=5.6)
        pane.grid(alpha=0.25)
        pane.spines[["top", "right"]].set_visible(False)
    panes[0].set_ylabel("held-out loss (nats per masked token)")
    panes[1].legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(output, dpi=130)
    plt.close(figure)


def draw_points(
    lines: dict[str, list[tuple[float, float, float]]],
    x: str,
    y: str,
    output: Path,
    ticks: dict[float, str] | None = None,
) -> None:
    """Lines of (x, mean, half interval)."""
    from matplotlib import pyplot as plt

    figure, pane = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for number, (name, points) in enumerate(lines.items()):
        if points:
            xs, ys, errors = zip(*points, strict=True)
            colour = COLOURS.get(name, f"C{number}")
            pane.errorbar(xs, ys, errors, label=name, color=colour, capsize=3, marker="o", linewidth=1.6)
    pane.axhline(0, color="black", linewidth=0.8)
    if ticks:
        pane.set_xticks(list(ticks), list(ticks.values()))
    pane.set_xlabel(x)
    pane.set_ylabel(y)
    pane.grid(alpha=0.25)
    pane.spines[["top", "right"]].set_visible(False)
    if lines:
        pane.legend(frameon=False)
    figure.savefig(output, dpi=130)
    plt.close(figure)


def draw_quality(results: Results, study: Study, output: Path) -> None:
    base = Cell(next(iter(study.teachers)))
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for name, soft in SOFT.items():
        if soft:
            for teacher in study.teachers:
                cell = Cell(teacher, **soft)
                if found := results.difference(cell, base):
                    own = next(iter(results.runs(cell).values()))["teacher_loss"]
                    lines.setdefault(name, []).append((own, *found))
    draw_points(
        lines, "the teacher's own held-out loss (weaker to the right)", "loss against no teacher (nats)", output
    )


def draw_square(results: Results, teacher: str, output: Path) -> None:
    """Initialisation x fading: the cell that nobody had measured."""
    inits = ("random", "remap", "clone")
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for name, soft in SOFT.items():
        for place, init in enumerate(inits):
            if soft and (found := results.difference(Cell(teacher, init=init, **soft), Cell(teacher, init=init))):
                lines.setdefault(name, []).append((place, *found))
    label = "loss against the same start without a soft term (nats)"
    draw_points(lines, "how the student starts", label, output, dict(enumerate(inits)))


# ---- the page ----


def write(study: Study, rows: list[Row], page: Path) -> None:
    """The page, between its markers, and the pictures beside it."""
    import matplotlib

    matplotlib.use("Agg")
    results, teacher = Results(rows), next(iter(study.teachers))
    parts: dict[str, Callable[[], str]] = {
        "main": lambda: main_table(results, teacher),
        "gains": lambda: gain_table(results, teacher),
        "controls": lambda: control_table(results, teacher),
        "quality": lambda: quality_table(results, study),
        "weight": lambda: weight_table(results, study, teacher),
        "depth": lambda: group_table(results, study, "depth"),
        "poor": lambda: group_table(results, study, "poor"),
    }
    text = page.read_text(encoding="utf-8")
    for name, make in parts.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if start in text and end in text:  # a page shows the tables that it has room for
            before, rest = text.split(start)
            text = f"{before}{start}\n{make()}\n\n{end}{rest.split(end, 1)[1]}"
    page.write_text(text, encoding="utf-8")
    folder = page.parent / "study"
    folder.mkdir(exist_ok=True)
    draw_curves(results, teacher, folder / "curves.png")
    draw_quality(results, study, folder / "quality.png")
    draw_square(results, teacher, folder / "square.png")
