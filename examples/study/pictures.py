"""Pictures of a study, from its results alone."""

import statistics
from pathlib import Path

from study.cells import INITS, Cell, Study
from study.results import SOFT, Results, Row

COLOURS = {"no soft term": "#6b6b6b", "constant 1 : 1": "#b8562b", "fade over 0.3": "#0b6e99", "auto": "#3b8132"}
STYLES = dict(zip(INITS, ("-", ":", "--"), strict=True))


def average(runs: dict[int, Row], axis: str) -> tuple[list[float], list[float]]:
    """The mean curve over seeds."""
    points = zip(*(row["curve"] for row in runs.values()), strict=True)
    means = [(statistics.mean(p[axis] for p in at), statistics.mean(p["eval_loss"] for p in at)) for at in points]
    return [x for x, _ in means], [y for _, y in means]


def draw_curves(results: Results, timed: Results, teacher: str, output: Path) -> None:
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", sharey=True)
    cost = (results, "flops", "operations, teacher included")
    if timed.cells():
        cost = (timed, "cpu_seconds", "seconds of one core, teacher included (runs made side by side)")
    for pane, (source, axis, label) in zip(panes, ((results, "step", "optimiser steps"), cost), strict=True):
        for init, style in STYLES.items():
            for name, soft in SOFT.items():
                if runs := source.runs(Cell(teacher, init=init, **soft)):
                    pane.plot(*average(runs, axis), style, color=COLOURS[name], label=f"{init}, {name}", linewidth=1.6)
        own = next((r["teacher_loss"] for s in SOFT.values() for r in results.runs(Cell(teacher, **s)).values()), None)
        if own is not None:
            pane.axhline(own, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
        pane.set_xlabel(label)
        pane.set_ylim(top=5.6)
        pane.grid(alpha=0.25)
        pane.spines[["top", "right"]].set_visible(False)
    panes[0].set_ylabel("held-out loss (nats per masked token)")
    panes[0].legend(frameon=False, fontsize=8, ncols=2)
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
            line = "none" if ticks else "-"  # nothing lies between two names
            places = [place + 0.06 * (number - 1) for place in xs] if ticks else xs
            pane.errorbar(places, ys, errors, label=name, color=colour, capsize=3, marker="o", linestyle=line)
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
    base = study.base
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
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for name, soft in SOFT.items():
        for place, init in enumerate(INITS):
            if soft and (found := results.difference(Cell(teacher, init=init, **soft), Cell(teacher, init=init))):
                lines.setdefault(name, []).append((place, *found))
    label = "loss against the same start without a soft term (nats)"
    draw_points(lines, "how the student starts", label, output, dict(enumerate(INITS)))
