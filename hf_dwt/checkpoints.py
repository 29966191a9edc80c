"""Checkpoints from which a run goes on as if it had never stopped, also after it was killed while saving one."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .errors import ArgumentError

logger = logging.getLogger(__name__)

_WINDOW = "DistillationTrainer"


def is_whole(checkpoint: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint was written to its end: the Trainer writes the state last."""
    try:
        json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def last_whole_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The checkpoint of the most steps in a folder that was written to its end, or None."""
    found = []
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if path.is_dir() and step.isdigit():
            found.append((int(step), path))
    for _, path in sorted(found, reverse=True):
        if is_whole(path):
            return str(path)
        logger.warning("%s was cut off while it was saved; looking for an earlier one.", path)
    return None


def choose_checkpoint(wanted: str | bool | None, output_dir: str) -> str | None:
    """The checkpoint to resume from: the one that is named, or for True the last whole one.

    Raises:
        ArgumentError: there is no whole checkpoint there.
    """
    if not wanted:
        return None
    last = last_whole_checkpoint(output_dir) if os.path.isdir(output_dir) else None
    if wanted is True:
        if last is None:
            raise ArgumentError(
                "resume_from_checkpoint",
                True,
                f"finds no whole checkpoint in {output_dir!r}.",
                "Start without it, or give the path of a checkpoint.",
            )
        return last
    if not is_whole(wanted):
        raise ArgumentError(
            "resume_from_checkpoint",
            wanted,
            f"is no checkpoint, or was cut off while it was saved ({TRAINER_STATE_NAME} is missing or broken).",
            f"The last whole one is {last!r}." if last else f"There is no whole one in {output_dir!r}.",
        )
    return wanted


def record_window(trainer: Any) -> None:
    """Note in the Trainer's state what it has summed since the last log, which a checkpoint would forget."""
    trainer.state.stateful_callbacks[_WINDOW] = {
        "loss": trainer.accelerator.reduce(trainer._tr_loss, reduction="mean").item(),
        "last_logged": trainer._globalstep_last_logged,
        "terms": trainer._meter.state(trainer.accelerator),
        "fade": trainer._fade and trainer._fade.state(),
    }


class RestoreWindow(TrainerCallback):
    """Takes up what `record_window` noted, so that the next log is the one that an uninterrupted run writes."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, window = self._trainer, state.stateful_callbacks.pop(_WINDOW, None)
        if window is None:
            return
        trainer._tr_loss.fill_(window["loss"])
        trainer._total_loss_scalar = -window["loss"]  # `train_loss` is the mean over the steps of this call alone
        trainer._globalstep_last_logged = window["last_logged"]
        trainer._meter.load(window["terms"], trainer.args.device)
        if trainer._fade is not None:
            trainer._fade.load(window["fade"], trainer.args.device)
