"""Pictures of a study, from its results alone."""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_dwt.publish.charts import BLUE, GREY, ORANGE, VIOLET, label_lines, look, new_figure, save
from study.cells import INITS, Cell, Study
from study.results import SOFT, Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = dict(zip(SOFT, (GREY, ORANGE, VIOLET, BLUE), strict=True))
TITLES = {"random": "random start", "remap": "remapped from the teacher", "clone": "cloned from the teacher"}
HIGHEST = 5.6  # nats: above it, the curves of all random starts are alike
Curve = tuple[list[float], list[float]]


def average(runs: dict[int, Row], axis: str) -> Curve:
    """The mean curve over seeds."""
    points = zip(*(row["curve"] for row in runs.values()), strict=True)
    means = [(statistics.mean(p[axis] for p in at), statistics.mean(p["eval_loss"] for p in at)) for at in points]
    return [x for x, _ in means], [y for _, y in means]


@look()
def draw_curves(results: Results, timed: Results, teacher: str, output: Path) -> None:
    """Mean curves, a panel for each start; and against seconds the runs whose seconds compare."""
    curves = {
        (init, name): average(runs, "step")
        for init in INITS
        for name, soft in SOFT.items()
        if (runs := results.runs(Cell(teacher, init=init, **soft)))
    }
    inherited = [init for init in INITS if init != "random" and any(init == other for other, _ in curves)]
    figure = new_figure(7.4 if inherited else 4.0)
    mosaic: Any = [["random", "seconds" if timed.cells() else "random"]]
    mosaic += [inherited] if len(inherited) == 2 else [[init, init] for init in inherited]
    panels = figure.subplot_mosaic(mosaic)
    heights = [loss for (init, _), (_, losses) in curves.items() if init != "random" for loss in losses[1:]]
    alone = curves[("random", "no soft term")][1][-1] if ("random", "no soft term") in curves else None
    for init in inherited:  # nearer than the random start: they differ by less
        panels[init].set_ylim(min(heights) - 0.15, max(heights) + 0.1)
        if alone is not None:
            panels[init].axhline(alone, color=GREY, linewidth=1, linestyle="--", label="end without a teacher")
    for (init, name), curve in curves.items():
        panels[init].plot(*curve, color=COLOURS[name], label=name)
    for init in ("random", *inherited):
        panels[init].set_title(TITLES[init])
        panels[init].set_xlabel("optimiser steps")
    for own in [row["teacher_loss"] for s in SOFT.values() for row in results.runs(Cell(teacher, **s)).values()][:1]:
        panels["random"].axhline(own, color="black", linewidth=1, linestyle=":", label="teacher")
    if "seconds" in panels:
        _draw_seconds(panels["seconds"], timed, teacher)
    for name, panel in panels.items():
        panel.set_ylabel("held-out loss (nats)")
        panel.set_xlim(left=0)
        if name not in inherited:
            panel.set_ylim(top=HIGHEST)
    label_lines(figure)
    save(figure, output)


def _draw_seconds(panel: "Axes", timed: Results, teacher: str) -> None:
    for cell in timed.cells():
        for name, soft in SOFT.items():
            if cell == Cell(teacher, init=cell.init, **soft):
                curve = average(timed.runs(cell), "cpu_seconds")
                panel.plot(*curve, color=COLOURS[name], label=f"{cell.init} start, {name}")
    panel.set_title("two of them, against time")
    panel.set_xlabel("seconds of one core, teacher included")


@look()
def draw_quality(results: Results, study: Study, output: Path) -> None:
    """What each soft term changes, against how weak its teacher is."""
    figure = new_figure(4.5)
    panel = figure.subplots()
    for place, (name, soft) in enumerate(SOFT.items()):
        points = []
        for teacher in study.teachers if soft else ():
            cell = Cell(teacher, **soft)
            if found := results.difference(cell, study.base):
                own = next(iter(results.runs(cell).values()))["teacher_loss"]
                points.append((own + 0.012 * (place - 2), *found))  # side by side: their intervals can be told apart
        if points:
            places, means, _ = zip(*points, strict=True)
            panel.plot(places, means, color=COLOURS[name], marker="o", label=name)
            for x, y, half in points:
                panel.plot([x, x], [y - half, y + half], color=COLOURS[name], linewidth=1)
    panel.axhline(0, color="black", linewidth=0.8)
    panel.set_title("What a teacher adds to the final loss of a random start, mean and 95 % interval")
    panel.set_xlabel("the teacher's own held-out loss (nats per masked token; weaker to the right)")
    panel.set_ylabel("final loss minus that without\na teacher (nats; below 0 it helps)")
    label_lines(figure)
    save(figure, output)


@look()
def draw_square(results: Results, teacher: str, output: Path) -> None:
    """Initialisation x soft term: a row for each cell."""
    rows = [
        (init, name, *found)
        for init in INITS
        for name, soft in SOFT.items()
        if soft and (found := results.difference(Cell(teacher, init=init, **soft), Cell(teacher, init=init)))
    ]
    figure = new_figure(1.3 + 0.32 * len(rows))
    panel = figure.subplots()
    for place, (_, name, mean, half) in enumerate(rows):
        panel.hlines(place, mean - half, mean + half, color=COLOURS[name])
        panel.plot([mean], [place], color=COLOURS[name], marker="o", markersize=7)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(rows)), [f"{init} start, {name}" for init, name, *_ in rows])
    panel.invert_yaxis()
    panel.set_title("What the soft term adds to the final loss, mean and 95 % interval")
    panel.set_xlabel("final loss minus that of the same start without it (nats; left of 0 it helps)")
    save(figure, output)
