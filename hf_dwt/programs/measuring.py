"""What training costs and what comes of it: seconds, the curve of the held-out loss, the table."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

Row = dict[str, Any]
"""What results.json has of one model."""

_DIGITS = {"perplexity": 2}


class Clock(TrainerCallback):
    """Seconds of training (the teacher's share included, evaluation and saving not), noted at every evaluation."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A resumed run finds the seconds it had spent in the history that its checkpoint kept.
        self.seconds = max((entry.get("seconds", 0.0) for entry in state.log_history), default=0.0)
        self.on_save()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.start

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.log_history[-1]["seconds"] = round(self.seconds, 2)
        self.on_save()

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter() - self.seconds  # as if no time had passed since the last step


def curve_of(history: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The held-out loss over steps and seconds, one point a step, from the history of a run."""
    keys = ("step", "seconds", "eval_loss", "eval_teacher_loss")
    evaluated = {entry["step"]: entry for entry in history if "eval_loss" in entry}
    return [{key: entry[key] for key in keys if key in entry} for entry in evaluated.values()]


def seconds_of(teacher: str) -> float | None:
    """How long the teacher was trained, if Trainer.save_metrics or a program left that beside it."""
    for name in ("all_results.json", "results.json"):
        if (record := Path(teacher) / name).is_file():
            found: Row = json.loads(record.read_text(encoding="utf-8"))
            seconds: float | None = found.get("train_runtime", found.get("student", {}).get("seconds"))
            return seconds
    return None


def table(results: Mapping[str, Row], figures: Iterable[str]) -> str:
    """A line for each model, with its size, its figures on held-out data and the seconds of its training."""
    widths = {name: max(len(name) + 2, 9) for name in figures}
    header = "".join(f"{name:>{width}}" for name, width in widths.items())
    lines = [f"{'held out':10}{'parameters':>12}{header}{'training':>10}"]
    for name, row in results.items():
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        cells = "".join(f"{row[key]:>{width}.{_DIGITS.get(key, 3)}f}" for key, width in widths.items())
        lines.append(f"{name:10}{row['parameters']:>12,}{cells}{seconds:>10}")
    return "\n".join(lines)
