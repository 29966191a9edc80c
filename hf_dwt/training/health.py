"""Training in which nothing is learnt: no position has a label, or the loss is not finite."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import DataError

logger = logging.getLogger(__name__)

WARN_AFTER, STOP_AFTER = 10, 100
"""Steps in a row after which a warning is logged, and without rows from the first step on an error raised."""


class TrainingHealth(TrainerCallback):
    """Counts, on the device, the steps in a row without rows and those with a loss that is not finite.

    It reads them at logs that are `WARN_AFTER` steps apart, where the device is waited for anyway, after `WARN_AFTER`
    and `STOP_AFTER` steps, and at the end of an epoch and of the run.

    Args:
        reduce: the mean over processes of a tensor.

    Attributes:
        diverged: whether it was logged that the student has diverged, here or by an evaluation.

    Raises:
        DataError: no position of the first `STOP_AFTER` steps, or of an epoch or run that is shorter, has a label.
    """

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        self._reduce = reduce
        self._begin(0)

    def _begin(self, step: int) -> None:
        self._first = self._last_read = step
        self._counted: Tensor | None = None  # of the current step
        self._finite: Tensor | None = None
        self._in_a_row: Tensor | None = None  # (2,) steps without rows, steps without a finite loss
        self._warned_of_rows = False
        self.diverged = False

    def add(self, counted: Tensor, loss: Tensor) -> None:
        """Add a micro-batch.

        Args:
            counted: whether its step has rows, a truth value.
            loss: a sum over its rows, to be looked at for NaN and infinity.
        """
        finite = torch.isfinite(loss.detach())
        self._counted = counted if self._counted is None else self._counted | counted
        self._finite = finite if self._finite is None else self._finite & finite

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._begin(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self._counted is None or self._finite is None:
            return
        good = torch.stack([self._counted, self._finite])
        before = torch.zeros(2, device=good.device) if self._in_a_row is None else self._in_a_row
        self._in_a_row = torch.where(good, 0.0, before + 1.0)
        self._counted = self._finite = None
        due = state.global_step - self._last_read >= WARN_AFTER
        if due and (control.should_log or state.global_step - self._first in (WARN_AFTER, STOP_AFTER)):
            self._read(state.global_step)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._read(state.global_step, epoch_ends=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._read(state.global_step, run_ends=True)

    def _read(self, step: int, epoch_ends: bool = False, run_ends: bool = False) -> None:
        if self._in_a_row is None:
            return
        self._last_read = step
        empty, lost = self._reduce(self._in_a_row).tolist()
        if self._first == 0 and empty == step and (epoch_ends or step >= STOP_AFTER):
            raise DataError(
                "labels",
                f"{step} steps",
                "have no position with a label, so nothing was learnt.",
                "Check that data_collator keeps or makes labels other than -100.",
            )
        if empty >= WARN_AFTER and not self._warned_of_rows:
            self._warned_of_rows = True
            logger.warning(
                "No position of %d steps in a row, up to step %d, has a label: nothing is learnt.", empty, step
            )
        if lost >= (1 if run_ends else WARN_AFTER) and not self.diverged:
            self.diverged = True
            logger.warning(
                "The student has diverged: its loss is not finite in %d steps, up to step %d. Go back to an earlier "
                "checkpoint, and lower learning_rate or max_grad_norm.",
                lost,
                step,
            )
