"""Checkpoints from which a run goes on as if it had never stopped, also after it was killed while saving one."""

import json
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import ArgumentError, HubError
from ..publish.run_record import RunRecord
from .adaptive import AdaptiveSchedule, AdaptiveState
from .interrupting import Interruption
from .meter import TermMeter, TermState
from .student import RunsStudent

logger = logging.getLogger(__name__)

_WINDOW = "DistillationTrainer"
LAST = "last"
"""As `resume_from_checkpoint`: the whole checkpoint that was saved last, or none where there is none yet."""

WITHOUT_EFFECT = re.compile(
    r"(log|save|eval|do_|include_|report_|disable_|metric_|greater_|load_best|restore_|skip_|ignore_data|prediction_|"
    r"per_device_eval|batch_eval|push_|dataloader_(num|pin|persistent|prefetch)|torch_empty_cache|save_total|"
    r"teacher_placement)"
)
"""Names of arguments that change the speed, or what is logged, saved and evaluated, and not what is learnt."""


def is_whole(checkpoint: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint was written to its end: the Trainer writes the state last."""
    return _state(Path(checkpoint)) is not None


def last_whole_checkpoint(folder: str | os.PathLike[str], below: int | None = None) -> str | None:
    """The checkpoint in a folder that was saved last and written to its end, or None.

    A folder may also hold checkpoints of an earlier run, of more steps.

    Args:
        folder: `output_dir` of a run.
        below: only those of fewer steps, from which there is something left to train.
    """
    found = []
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if not (path.is_dir() and step.isdigit()) or (below is not None and int(step) >= below):
            continue
        if (state := _state(path)) is None:
            logger.warning("%s was cut off while it was saved, and is left out.", path)
        else:
            found.append((_saved_at(path, state), int(step), path))
    if not found:
        return None
    _, steps, last = max(found)
    if stale := [path.name for _, other, path in sorted(found) if other > steps]:
        logger.warning("%s was saved last; of an earlier run, and left out: %s.", last, ", ".join(stale))
    return str(last)


def choose_checkpoint(wanted: str | bool | None, args: TrainingArguments) -> str | None:
    """The checkpoint to resume from: the one that is named, or for True and "last" the whole one that was saved last.

    Where there is none, "last" is None: the same program starts and restarts.

    Raises:
        ArgumentError: there is no whole checkpoint there, or its run is as long as the one that is to go on.
    """
    if not wanted:
        return None
    output_dir = str(args.output_dir)
    if isinstance(wanted, str | os.PathLike) and is_whole(wanted):
        _require_steps_left(Path(wanted), args)
        return os.fspath(wanted)
    last = last_whole_checkpoint(output_dir) if os.path.isdir(output_dir) else None
    if wanted is True or wanted == LAST:
        if last is None and wanted == LAST:
            logger.info("There is no whole checkpoint in %s yet: training starts from the beginning.", output_dir)
            return None
        if last is None:
            raise ArgumentError(
                "resume_from_checkpoint",
                True,
                f"finds no whole checkpoint in {output_dir!r}.",
                f"Start without it, give {LAST!r} to start where there is none, or give the path of a checkpoint.",
            )
        _require_steps_left(Path(last), args)
        return last
    raise ArgumentError(
        "resume_from_checkpoint",
        wanted,
        f"is no checkpoint, or was cut off while it was saved ({TRAINER_STATE_NAME} is missing or broken).",
        f"The last whole one is {last!r}." if last else f"There is no whole one in {output_dir!r}.",
    )


def warn_of_other_arguments(checkpoint: str, now: RunRecord) -> None:
    """Log which arguments of a run differ from those that its checkpoint was saved under."""
    if found := other_arguments(checkpoint, now):
        problem = "%s was saved under other arguments, and the run goes on under these. %s."
        logger.warning(problem, checkpoint, "; ".join(found))


def other_arguments(checkpoint: str, now: RunRecord) -> list[str]:
    """Each argument that a checkpoint was saved under another value of, with both; none where that is not known."""
    try:
        before = RunRecord.load(checkpoint)
    except HubError:  # of another Trainer
        return []
    there, here = (_decisive(record) for record in (before, now))
    names = sorted(name for name in there | here if there.get(name) != here.get(name))
    return [f"{name}: {there.get(name, 'default')} there, {here.get(name, 'default')} here" for name in names]


def _decisive(record: RunRecord) -> dict[str, Any]:
    """The arguments that change what is learnt, by name, as they stand in JSON."""
    names = {"teacher_model": "name", "weighting": "weighting", "teacher": "made_of"}
    teacher = {name: record.teacher.get(key) for name, key in names.items()}
    named = {**teacher, **record.settings}
    named |= {f"soft_weight_{k}" if k.startswith("schedule") else k: v for k, v in record.objective.items()}
    text = json.dumps({k: v for k, v in named.items() if not WITHOUT_EFFECT.match(k)}, default=str)
    arguments: dict[str, Any] = json.loads(text)
    return arguments


def _require_steps_left(checkpoint: Path, args: TrainingArguments) -> None:
    state = _state(checkpoint) or {}
    done = {"max_steps": state.get("global_step") or 0, "num_train_epochs": state.get("epoch") or 0}
    name = "max_steps" if args.max_steps > 0 else "num_train_epochs"
    if done[name] >= getattr(args, name):
        raise ArgumentError(
            name,
            getattr(args, name),
            f"is reached in {str(checkpoint)!r} ({done[name]:g}): nothing is left to train.",
            f"Raise {name} to train on, start without resume_from_checkpoint, or load the model with from_pretrained.",
        )


def _state(checkpoint: Path) -> dict[str, Any] | None:
    """What the Trainer keeps of itself in a checkpoint; None where that cannot be read."""
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _saved_at(checkpoint: Path, state: dict[str, Any]) -> float:
    """Seconds since the epoch: as noted in the state, which a copy of the folder keeps, or of the file."""
    noted = (state.get("stateful_callbacks") or {}).get(_WINDOW) or {}
    return noted.get("saved") or (checkpoint / TRAINER_STATE_NAME).stat().st_mtime


class Window(TypedDict):
    """What a checkpoint keeps of the steps since the last log, which the Trainer would forget.

    saved: seconds since the epoch.
    loss: the Trainer's sum of losses, a mean over processes.
    last_logged: the step of the last log.
    terms: of `TermMeter`; None where they could not be read.
    fade: of the adaptive schedule; None in older checkpoints of a run without a teacher.
    """

    saved: float
    loss: float
    last_logged: int
    terms: TermState | None
    fade: AdaptiveState | None


class StartState(TrainerCallback):
    """Calls `start` at each start of the training loop.

    The Trainer starts its loop again for a smaller batch size or another trial, and makes its own state anew then.
    """

    def __init__(self, start: Callable[[], None]) -> None:
        self._start = start

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._start()


class Resuming(RunsStudent):
    """The part of `DistillationTrainer` that gives each start of the loop its state: a new one, or a checkpoint's."""

    _interruption: Interruption

    _meter: TermMeter
    _adaptive: AdaptiveSchedule

    def _set_up_resuming(self, begin: Callable[[], None]) -> None:
        """Let each start of the loop do what `begin` does, and then take up the state of a checkpoint."""
        self._restored: Window | None = None

        def start() -> None:
            window, self._restored = self._restored, None
            begin()
            if window is not None:
                self._go_on_from(window)

        self.add_callback(StartState(start))

    def _set_up_interrupting(self) -> None:
        """Last of all: what other callbacks do when training starts, such as making a cache, may be interrupted."""

        def strongest(number: int) -> int:
            if self.accelerator.num_processes == 1:
                return number
            numbers: Tensor = self.accelerator.gather(torch.tensor([number], device=self.args.device))
            return int(numbers.max())

        self._interruption = Interruption(self.options.save_on_interrupt, strongest)
        self.add_callback(self._interruption)

    def _go_on_from(self, window: Window) -> None:
        self._tr_loss.fill_(window["loss"])
        self._total_loss_scalar = -window["loss"]  # `train_loss` is the mean over the steps of this call alone
        self._globalstep_last_logged = window["last_logged"]
        if window["terms"] is not None:
            with self.bookkeeping("the terms of the loss since the last log"):
                self._meter.load(window["terms"], self.args.device)
        if window["fade"] is not None:
            self._adaptive.load(window["fade"], self.args.device)

    def _window(self) -> Window:
        part = "the terms of the loss in the checkpoint"
        return Window(
            saved=time.time(),
            loss=self._mean(self._tr_loss).item(),
            last_logged=self._globalstep_last_logged,
            terms=self.bookkeeping.get(part, lambda: self._meter.state(self.accelerator), None),
            fade=self._adaptive.state(),
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        kept: Any = self.state.stateful_callbacks  # a dict, though it is annotated as a list
        kept[_WINDOW] = self._window()
        super()._save_checkpoint(model, trial)

    def _load_callback_state(self) -> None:
        kept: Any = self.state.stateful_callbacks
        # The Trainer would take it for the state of a callback that is missing.
        self._restored = kept.pop(_WINDOW, None)
        super()._load_callback_state()
