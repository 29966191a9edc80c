"""Tables and pictures of a study, from its results alone."""

import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from study.cells import AUTO, CONSTANT, INITS, KI, NONE, Cell, Study
from study.claims import Claim, corrections, guidelines, hidden, paper
from study.pictures import draw_curves, draw_quality, draw_square
from study.results import SOFT, Results, Row


def table(head: list[str], lines: Iterable[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


# ---- the tables ----


def main_table(results: Results, teacher: str) -> str:
    return grid(results.mean, teacher)


def task_table(results: Results, teacher: str, task: str) -> str:
    """Held-out accuracy of a task that every student was fine-tuned on, %, mean over seeds and their extremes."""

    def accuracy(cell: Cell) -> str:
        found = [100 * row["tasks"][task] for row in results.runs(cell).values() if task in row.get("tasks", {})]
        return f"{statistics.mean(found):.1f} ({min(found):.1f} to {max(found):.1f})" if found else "-"

    return grid(accuracy, teacher)


def grid(of: Callable[[Cell], str], teacher: str) -> str:
    """Initialisation x schedule."""
    lines = [[init, *(of(Cell(teacher, init=init, **soft)) for soft in SOFT.values())] for init in INITS]
    return table(["start", *SOFT], lines)


def gain_table(results: Results, timed: Results, teacher: str) -> str:
    """Differences to the same start without a soft term, and the cost to the loss that random, alone, ends at."""
    cells = {f"{init}, {name}": Cell(teacher, init=init, **soft) for init in INITS for name, soft in SOFT.items()}
    beside = {
        "against its start alone": lambda cell: Cell(teacher, init=cell.init),
        "against random alone": lambda cell: Cell(teacher),
    }
    return cost_table(results, timed, cells, beside, Cell(teacher))


def hidden_table(results: Results, timed: Results, teacher: str) -> str:
    """The same of terms on hidden states, from a random start."""
    adaptive = Cell(teacher, soft=AUTO)
    terms = {"LET": "late_to_early", "masked features (weight 10)": "strong_features"}
    cells = {"no teacher": Cell(teacher), "auto": adaptive}
    for name, term in terms.items():
        cells |= {name: Cell(teacher, voice=term), f"{name}, auto": replace(adaptive, voice=term)}
    beside = {"against no teacher": lambda cell: Cell(teacher), "against auto": lambda cell: adaptive}
    return cost_table(results, timed, cells, beside, Cell(teacher))


def cost_table(
    results: Results,
    timed: Results,
    cells: Mapping[str, Cell],
    beside: Mapping[str, Callable[[Cell], Cell]],
    base: Cell,
) -> str:
    """Differences to other cells, and the shares of the cost of `base` at which a cell reaches the loss it ends at."""
    lines = []
    for name, cell in cells.items():
        if results.runs(cell):
            gains = ["" if cell == other(cell) else results.gain(cell, other(cell)) for other in beside.values()]
            costs = [results.reach(cell, base, axis) for axis in ("step", "flops")]
            lines.append([name, *gains, *costs, timed.reach(cell, base, "cpu_seconds")])
    return table(["setting", *beside, "steps", "operations", "time"], lines)


def control_table(results: Results, teacher: str) -> str:
    base = Cell(teacher)
    cells = {
        "no teacher": base,
        "label smoothing 0.1": Cell(teacher, soft=CONSTANT, voice="smoothing"),
        "virtual teacher": Cell(teacher, soft=CONSTANT, voice="virtual"),
        "unigram teacher, fade over 0.3": Cell(teacher, voice="unigram", **KI),
        f"{teacher} teacher, fade over 0.3": Cell(teacher, **KI),
        "the teacher itself, trained on": Cell(teacher, student="small", init="teacher"),
    }
    return table(
        ["control", "loss", "against no teacher"],
        [
            [name, results.mean(cell), "" if cell == base else results.gain(cell, base)]
            for name, cell in cells.items()
            if results.runs(cell)
        ],
    )


def quality_table(results: Results, study: Study) -> str:
    """Factor 1: for each teacher the difference to training without one, from a random start."""
    base = study.base
    columns: dict[str, dict[str, Any]] = {
        "constant": {"soft": CONSTANT},
        "fade 0.3": KI,
        "auto": {"soft": AUTO},
        "remap": {"init": "remap"},
        "remap, auto": {"init": "remap", "soft": AUTO},
    }
    alone = results.losses(base)
    lines = []
    for teacher in study.teachers:
        cells = [Cell(teacher, **column) for column in columns.values()]
        own = next((row["teacher_loss"] for cell in cells for row in results.runs(cell).values()), None)
        if own is None:
            continue
        gap = f"{own - statistics.mean(alone):+.3f}" if alone else "-"
        name = f"{teacher} ({own:.3f})"
        lines.append([name, gap, *(results.gain(cell, base) for cell in cells)])
    return table(["teacher (its loss)", "teacher - student alone", *columns], lines)


def course_table(results: Results, teacher: str) -> str:
    """Factor 2: what a weight does early and at the end."""
    weights = (0.25, 1.0, 4.0)
    cells = {"none": Cell(teacher)} | {f"{w:g} : 1": Cell(teacher, soft=CONSTANT, weight=w) for w in weights}
    cells |= {"4 to 1, linearly": Cell(teacher, soft="linear_decay"), "auto": Cell(teacher, soft=AUTO)}
    lines = []
    for name, cell in cells.items():
        if not results.runs(cell):
            continue
        curves = [row["curve"] for row in results.runs(cell).values()]
        early = [f"{statistics.mean(at):.3f}" if (at := loss_at(curves, share)) else "-" for share in (0.25, 0.5)]
        lines.append([name, *early, results.mean(cell), "" if name == "none" else results.gain(cell, cells["none"])])
    return table(["soft : hard", "at a quarter", "at half", "at the end", "against none"], lines)


def claims_table(results: Results, study: Study, claims: Iterable[Claim]) -> str:
    """Each claim that was run, with its difference and whether the results bear it out."""
    lines, waiting, cells = [], 0, set(study.cells())
    for claim in claims:
        found = results.difference(claim.cell, claim.other)
        waiting += found is None and {claim.cell, claim.other} <= cells
        if found is not None:
            lines.append([claim.sentence, results.gain(claim.cell, claim.other), claim.verdict(*found)])
    note = f"\n\n{waiting} more are written down and not run yet." if waiting else ""
    return table(["claim", "difference (nats)", ""], lines) + note


def loss_at(curves: list[list[dict[str, float]]], share: float) -> list[float]:
    """The held-out loss of each curve at the evaluation next to that share of its steps."""
    return [
        min(curve, key=lambda point: abs(point["step"] - share * curve[-1]["step"]))["eval_loss"] for curve in curves
    ]


def group_table(results: Results, study: Study, group: str) -> str:
    """Cells of a group, each beside the one of its start without a soft term and with the whole text's base."""
    lines = []
    for cell in study.groups[group]:
        if not results.runs(cell):
            continue
        teacher = study.base.teacher if cell.init == "random" else cell.teacher  # a random start is nobody's
        alone = replace(cell, teacher=teacher, soft=NONE, schedule=(), weight=1.0, voice="teacher")
        gain = "" if cell == alone else results.gain(cell, alone)
        rate = results.rate(cell)
        lines.append(
            [str(cell).removesuffix(" seed 0"), "-" if rate is None else f"{rate:g}", results.mean(cell), gain]
        )
    head = ["setting", "learning rate", "loss", "against its start alone"]
    return table(head, lines) if lines else "Not run yet."


def tasks_of(rows: list[Row]) -> list[str]:
    return sorted({name for row in rows for name in row.get("tasks", {})})


def headline(results: Results, timed: Results, study: Study) -> str:
    """What a newcomer wants to know, for the first page."""
    good, weakest = study.base, Cell(list(study.teachers)[-1])
    remapped = replace(good, init="remap", soft=AUTO)
    cells = (replace(weakest, soft=CONSTANT), replace(weakest, soft=AUTO), replace(good, soft=AUTO))
    harm, mended, gain = (results.gain(cell, good) for cell in cells)
    beside = results.gain(remapped, Cell(good.teacher, student="small", init="teacher"))
    sentences = (
        f"Held-out loss beside training without a teacher, below 0 is better: {gain} nats with a good teacher; with a "
        f"teacher that knows little but frequencies, {harm} under constant weights and {mended} under the default "
        "schedule, which lowers its weight as the student catches up.",
        f"Started from the good teacher's parameters, the student reaches the last loss of training from scratch in "
        f"{timed.reach(remapped, good, 'cpu_seconds')} of the time, the teacher's forward passes included.",
        f"Beside the teacher itself, trained further for as many operations, that student ends at {beside}: grow a "
        "model when training it further no longer pays.",
        "Three seeds or more, 95 % intervals, tiny models: [what to choose](guidelines.md), [the study](paper.md).",
    )
    lines = textwrap.wrap("**Measured.** " + " ".join(sentences), 117, break_on_hyphens=False, break_long_words=False)
    return "- " + "\n  ".join(lines)


# ---- the page ----


def write(
    study: Study,
    rows: list[Row],
    timed_rows: list[Row],
    pages: Iterable[Path],
    pictures: Path,
    preset: str = "cpu",
    timed_hidden: Sequence[Row] = (),
) -> None:
    """The pages, between their markers, and the pictures into their folder.

    Args:
        timed_rows: cells whose seconds compare, since they were run side by side.
        preset: the markers of the others than "cpu" begin with their name.
        timed_hidden: the same of cells with hidden terms, which were run on another day.
    """
    results, timed, teacher = Results(rows), Results(timed_rows), next(iter(study.teachers))
    parts: dict[str, Callable[[], str]] = {
        "main": lambda: main_table(results, teacher),
        "gains": lambda: gain_table(results, timed, teacher),
        "gains of hidden terms": lambda: hidden_table(results, Results(list(timed_hidden)), teacher),
        "controls": lambda: control_table(results, teacher),
        "quality": lambda: quality_table(results, study),
        "course": lambda: course_table(results, teacher),
        "headline": lambda: headline(results, timed, study),
        "findings": lambda: claims_table(results, study, paper(study)),
        "guidelines": lambda: claims_table(results, study, guidelines(study)),
        "claims on corrections": lambda: claims_table(results, study, corrections(study)),
        "claims on hidden terms": lambda: claims_table(results, study, hidden(study)),
        **{f"cells of {group}": partial(group_table, results, study, group) for group in study.groups},
        **{f"task {name}": partial(task_table, results, teacher, name) for name in tasks_of(rows)},
    }
    mark = "" if preset == "cpu" else f"{preset} "
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name, make in parts.items():
            start, end = f"<!-- {mark}{name} -->\n", f"<!-- /{mark}{name} -->"
            if start in text and end in text:  # a page shows the tables that it has room for
                before, rest = text.split(start)
                text = f"{before}{start}\n{make()}\n\n{end}{rest.split(end, 1)[1]}"
        page.write_text(text, encoding="utf-8")
    pictures.mkdir(parents=True, exist_ok=True)
    draw_curves(results, timed, teacher, pictures / "curves.png")
    draw_quality(results, study, pictures / "quality.png")
    draw_square(results, teacher, pictures / "square.png")
