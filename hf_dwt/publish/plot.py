"""The picture of a run: held-out loss against steps and seconds, with the teacher's line; its weight below."""

import io
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..signatures import checks_arguments
from .bookkeeping import BookkeepingCallback
from .recorder import RecordRun
from .run_record import RunRecord, write_whole

logger = logging.getLogger(__name__)

PICTURE = "curves.png"
_STUDENT, _TEACHER, _SOFT = "#0b6e99", "#6b6b6b", "#b8562b"


def draw(facts: RunRecord, folder: str | Path) -> bool:
    """Write `curves.png`; False where there is nothing to draw, or nothing to draw it with (matplotlib)."""
    most = max((sum("eval_loss" in entry for entry in curve) for curve in facts.evaluations.values()), default=0)
    if most < 2 or find_spec("matplotlib") is None:
        return False
    # Not pyplot: it would keep the figure, and choose a window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    top, bottom = figure.subplots(2, 2, sharex="col", height_ratios=(3, 1))
    for column, axis, label in ((0, "step", "steps"), (1, "seconds", "seconds of training")):
        for number, (name, curve) in enumerate(facts.evaluations.items()):
            _losses(top[column], curve, axis, f" ({name})" if name else "", alpha=0.4 if number else 1.0)
        _weights(bottom[column], facts.curve, axis)
        bottom[column].set_xlabel(label)
    top[0].set_ylabel("held-out loss (nats)")
    bottom[0].set_ylabel("weight")
    for panel in (*top, *bottom):
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False, fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_whole(Path(folder) / PICTURE, content.getvalue())
    return True


def _losses(panel: Any, curve: Sequence[dict[str, float]], axis: str, named: str, alpha: float) -> None:
    for key, colour, style, label in (
        ("eval_loss", _STUDENT, "-", "this model"),
        ("eval_teacher_loss", _TEACHER, "--", "its weak teacher"),
    ):
        _line(panel, curve, axis, key, colour, style, f"{label}{named}", alpha)


def _weights(panel: Any, curve: Sequence[dict[str, float]], axis: str) -> None:
    # Once it has faded, the teacher is not heard and its weight no longer logged: it is 0.
    told = any("soft_weight" in entry for entry in curve)
    steps = [{"soft_weight": 0.0, **entry} for entry in curve if "hard_loss" in entry] if told else []
    _line(panel, steps, axis, "soft_weight", _SOFT, "-", "of the teacher")


def _line(
    panel: Any,
    curve: Sequence[dict[str, float]],
    axis: str,
    key: str,
    colour: str,
    style: str,
    label: str,
    alpha: float = 1.0,
) -> None:
    if points := points_of(curve, axis, key):
        panel.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=2, label=label, alpha=alpha)


def points_of(curve: Sequence[dict[str, float]], axis: str, key: str) -> list[tuple[float, float]]:
    """(place, value) of each step: the first, where an evaluation of another set follows at the same step."""
    points: dict[float, tuple[float, float]] = {}
    for entry in curve:
        if key in entry and axis in entry:
            points.setdefault(entry.get("step", entry[axis]), (entry[axis], entry[key]))
    return list(points.values())


@checks_arguments
class DrawRun(BookkeepingCallback):
    """Draws what a `RecordRun` has recorded, at the end of training, into `output_dir`."""

    part = "the picture of the run"

    def __init__(self, record: RecordRun) -> None:
        self._record = record

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and not draw(self._record.run_record(args, state), args.output_dir):
            logger.info("No picture of the run: it takes two evaluations, and matplotlib.")
