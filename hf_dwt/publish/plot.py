"""The picture of a run: its held-out loss beside its teacher's, and the weights of both terms below."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..signatures import checks_arguments
from .bookkeeping import BookkeepingCallback
from .charts import BLUE, GREY, VIOLET, label_lines, look, marker, new_figure, save
from .recorder import RecordRun
from .run_record import RunRecord
from .trackers import show_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

PICTURE = "curves.png"
MOST_SETS = 4  # evaluation sets that are drawn
SAME_PACE = 0.05  # steps and seconds say the same where their shares of the whole differ by no more
_UNITS = ((7200, 3600, "hours"), (600, 60, "minutes"), (0, 1, "seconds"))  # from how many seconds on, its own seconds
_LABELLED = {"fill-mask": "masked token", "text-generation": "token", "text2text-generation": "token"}
Entries = Sequence[dict[str, float]]


def draw(record: RunRecord, folder: str | Path) -> bool:
    """Write `curves.png`; False where there is nothing to draw, or nothing to draw it with (matplotlib)."""
    if find_spec("matplotlib") is None or (figure := draw_run(record)) is None:
        return False
    with look():
        save(figure, Path(folder) / PICTURE)
    return True


@look()
def draw_run(record: RunRecord) -> "Figure | None":
    """The figure of a run; None with fewer than two evaluations of any set, which make no curve.

    A row of panels for each evaluation set and one for the weights, in a column for the optimiser steps and, where the
    pace of the steps changed, one for the seconds.
    """
    sets = {
        name: curve for name, curve in record.evaluations.items() if len(points_of(curve, "step", "eval_loss")) > 1
    }
    if not sets:
        return None
    weights = weights_of(record.curve)
    columns = columns_of([entry for curve in sets.values() for entry in curve])
    rows = min(len(sets), MOST_SETS)
    figure = new_figure(3.3 * rows + 0.4 + 1.3 * bool(weights))
    panels = figure.subplots(
        rows + bool(weights),
        len(columns),
        squeeze=False,
        sharex="col",
        sharey="row",
        height_ratios=[3.0] * rows + [1.0] * bool(weights),
    )
    teacher = "its weak teachers' mixture" if "teachers" in record.teacher else "its weak teacher"
    unit_of_loss = "" if record.model.get("outcome") == "number" else " nats"
    labelled = _LABELLED.get(record.model.get("task", ""), "label")
    loss = f"held-out loss (nats per {labelled})" if unit_of_loss else "held-out mean squared error"
    for column, (axis, (unit, label)) in enumerate(columns.items()):
        for row, (name, curve) in enumerate(list(sets.items())[:rows]):
            _draw_losses(panels[row][column], curve, axis, unit, teacher)
            shown = verdict(curve, teacher, unit_of_loss)
            panels[row][0].set_title(f"{name}: {shown}" if name else shown)
            panels[row][0].set_ylabel(loss)
        if weights:
            _draw_weights(panels[-1][column], weights, axis, unit)
            panels[-1][0].set_ylabel("weight")
        panels[-1][column].set_xlabel(label)
        panels[-1][column].set_xlim(left=0)
        panels[-1][column].xaxis.set_major_formatter("{x:,.10g}")
    label_lines(figure)
    return figure


def verdict(curve: Entries, teacher: str = "its weak teacher", unit: str = " nats") -> str:
    """What the picture shows, in one line; `unit` is that of the loss."""
    first, last = (next(e for e in entries if "eval_loss" in e) for entries in (curve, curve[::-1]))
    if "eval_loss" not in curve[-1]:
        return f"No finite loss after step {last['step']:,.0f}"
    if "eval_teacher_loss" in last:
        gap = round(last["eval_loss"] - last["eval_teacher_loss"], 2)
        where = f"{abs(gap):.2f}{unit} {'above' if gap > 0 else 'below'}" if gap else "at the loss of"
        return f"This model ends {where} {teacher}"
    return f"Held-out loss from {first['eval_loss']:.2f} to {last['eval_loss']:.2f}"


def columns_of(evaluations: Entries) -> dict[str, tuple[float, str]]:
    """What the columns count ("step", "seconds") -> its unit and its label.

    Seconds have a column of their own where they are known of each evaluation and tell of another pace than steps.
    """
    paces = [(entry["step"], entry.get("seconds", math.nan)) for entry in evaluations]
    steps, seconds = (max(column) for column in zip(*paces, strict=True))
    if not all(math.isfinite(pace[1]) for pace in paces) or not steps or not seconds:
        return {"step": (1, "optimiser steps")}
    _, unit, name = next(row for row in _UNITS if seconds >= row[0])
    if all(abs(at / steps - when / seconds) <= SAME_PACE for at, when in paces):
        return {"step": (1, f"optimiser steps ({steps:,.0f} took {seconds / unit:,.3g} {name} of training)")}
    return {"step": (1, "optimiser steps"), "seconds": (unit, f"{name} of training")}


def weights_of(curve: Entries) -> dict[str, list[dict[str, float]]]:
    """What the weights belong to -> entries of step, seconds and weight; none without a teacher.

    A log has the mean since the log before: its place is the middle of that stretch, and the ends are level. A teacher
    whose weight is 0 is not run, and no weight is logged then: the labels keep theirs.
    """
    if not any("soft_weight" in entry for entry in curve):
        return {}
    logs: list[dict[str, float]] = []
    last: dict[str, float] = {}
    for entry in curve:
        if "hard_loss" in entry:
            last = {"hard_weight": entry["hard_weight"]} if "hard_weight" in entry else last
            logs.append({"soft_weight": 0.0, **last, **entry})
    found = {}
    for key, name in (("soft_weight", "teacher"), ("hard_weight", "labels")):
        ends = [{"step": 0.0, "seconds": 0.0}, *(log for log in logs if key in log)]
        middles = [
            {axis: (before[axis] + log[axis]) / 2 for axis in ends[0] if axis in before and axis in log}
            | {"weight": log[key]}
            for before, log in pairwise(ends)
        ]
        if middles:
            found[name] = [ends[0] | {"weight": middles[0]["weight"]}, *middles, ends[-1] | {"weight": ends[-1][key]}]
    if len(found) == 2 and [e["weight"] for e in found["teacher"]] == [e["weight"] for e in found["labels"]]:
        return {"teacher and labels": found["teacher"]}
    return found


def _draw_losses(panel: "Axes", curve: Entries, axis: str, unit: float, name: str) -> None:
    # An evaluation without a finite loss has none in the record: a gap.
    points = points_of([{"eval_loss": math.nan, **entry} for entry in curve], axis, "eval_loss")
    _line(panel, points, unit, color=BLUE, marker=marker(len(points)), clip_on=False, label="this model")
    if teacher := points_of(curve, axis, "eval_teacher_loss"):
        # It does not learn: where it was not measured again, its loss is the one before.
        teacher = [(points[0][0], teacher[0][1]), *teacher, (points[-1][0], teacher[-1][1])]
        _line(panel, teacher, unit, color=GREY, linestyle="--", linewidth=1.5, label=name)


def _draw_weights(panel: "Axes", weights: dict[str, list[dict[str, float]]], axis: str, unit: float) -> None:
    largest = max(entry["weight"] for entries in weights.values() for entry in entries)
    panel.set_ylim(0, 1.1 * max(1.0, largest))
    for name, entries in weights.items():
        points = [(entry[axis], entry["weight"]) for entry in entries if axis in entry]
        _line(panel, points, unit, color=VIOLET if name == "labels" else GREY, label=name)


def _line(panel: "Axes", points: list[tuple[float, float]], unit: float, **options: Any) -> None:
    panel.plot([place / unit for place, _ in points], [value for _, value in points], **options)


def points_of(curve: Entries, axis: str, key: str) -> list[tuple[float, float]]:
    """(place, value) of each step: the first, where an evaluation of another set follows at the same step."""
    points: dict[float, tuple[float, float]] = {}
    for entry in curve:
        if key in entry and axis in entry:
            points.setdefault(entry.get("step", entry[axis]), (entry[axis], entry[key]))
    return list(points.values())


@checks_arguments
class DrawRun(BookkeepingCallback):
    """Draws what a `RecordRun` has recorded, at the end of training, into `output_dir`, and shows it in trackers.

    Args:
        record: of the run.
        callbacks: returns those of the trainer, in which trackers are found: TensorBoard, W&B, Trackio and MLflow, as
            `report_to` names them.
    """

    part = "the picture of the run"

    def __init__(self, record: RecordRun, callbacks: Callable[[], Sequence[TrainerCallback]] = tuple) -> None:
        self._record, self._callbacks = record, callbacks

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        # The last log of training: the trackers close behind it.
        if "train_runtime" not in (logs or {}) or not state.is_world_process_zero:
            return
        folder = str(args.output_dir)
        if draw(self._record.run_record(args, state), folder):
            show_picture(Path(folder) / PICTURE, state.global_step, self._callbacks(), self.bookkeeping)
        else:
            logger.info("No picture of the run: it takes two evaluations, and matplotlib.")
