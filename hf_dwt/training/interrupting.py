"""A run that is interrupted: a whole checkpoint at the end of its step where that is wanted, and how to go on."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..publish.bookkeeping import BookkeepingCallback

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_SECONDS = 1.0
"""Within these a launcher passes a Ctrl-C on to processes that the terminal has sent it to already."""


class Interruption(BookkeepingCallback):
    """Takes SIGINT and SIGTERM during training, if it is to save; a line says how to go on after an interruption.

    A signal waits until the end of the step. The checkpoint is then saved on the usual way, with no evaluation before
    it; training ends, and the signal has the effect that it would have had: the handlers of before are back.
    `enable_jit_checkpoint` of transformers is no base for this: it takes SIGTERM alone, processes decide by their own
    clocks, and the script goes on as if training were complete.

    Args:
        saves: whether a checkpoint is saved.
        strongest: the largest of the processes' numbers.
    """

    part = "the checkpoint of an interrupted run"

    def __init__(self, saves: bool, strongest: Callable[[int], int]) -> None:
        self._saves, self._strongest = saves, strongest
        self._before: dict[int, Any] = {}  # the handlers of others
        self._signal, self._since, self._stops = 0, 0.0, False
        self._last: str | None = None  # the last checkpoint that this run has saved or has begun from
        self._state: TrainerState | None = None
        self._process = os.getpid()

    @contextmanager
    def watched(self, checkpoint: str | None) -> Iterator[None]:
        """Around training that begins from a checkpoint, or from none.

        Raises:
            KeyboardInterrupt: SIGINT was taken, and a checkpoint saved.
            SystemExit: the same of SIGTERM, with code 143; unless the user has a handler of it, which is called.
        """
        self._signal, self._stops, self._last, self._state = 0, False, checkpoint, None
        self._process = os.getpid()
        try:
            yield
        except KeyboardInterrupt:
            with self.bookkeeping("the line on how to go on"):
                self._print_line()
            raise
        finally:
            with self.bookkeeping("the handlers of signals from before"):
                self._restore()
        if self._signal == signal.SIGTERM and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            raise SystemExit(128 + signal.SIGTERM)  # as its default, but trackers and pushes come to their end
        if self._signal:
            signal.raise_signal(self._signal)

    def _take(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first is kept for the end of the step; a SIGINT that is none of its copies ends all."""
        if not self._signal:
            self._signal, self._since = number, time.monotonic()
            # Workers of a data loader have this handler too, and as part of the same terminal get its Ctrl-C.
            if self._state is not None and self._state.is_world_process_zero and os.getpid() == self._process:
                text = "A checkpoint is saved at the end of this step, then training ends; at once by another Ctrl-C."
                os.write(2, f"\n{text}\n".encode())  # not print, within which the signal may have come
            return
        again = number == signal.SIGINT and time.monotonic() - self._since > SAME_SECONDS
        if again and os.getpid() == self._process:
            self._signal = 0
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _print_line(self) -> None:
        state = self._state
        if state is None or state.is_hyper_param_search or not state.is_world_process_zero:
            return
        text = f"Interrupted at step {state.global_step}"
        if self._last is None:
            text += ", before the first checkpoint: nothing of it is kept."
            text += "" if self._saves else " With save_on_interrupt=True a checkpoint is saved."
        elif self._stops and state.global_step >= state.max_steps:
            text += f", the last one: {self._last} is whole."
        else:
            text += f'. To go on from {self._last}: trainer.train(resume_from_checkpoint="last")'
        print(text, flush=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._state = state
        if not self._saves or self._before:
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler is not None and handler != signal.SIG_IGN:  # what is ignored stays so, as under nohup
                signal.signal(number, self._take)
                self._before[number] = handler

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self._saves and (strongest := self._strongest(self._signal)):
            self._signal, self._stops = self._signal or strongest, True
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False  # who sends SIGTERM may wait for seconds only

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        self._last = str(Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if self._stops:
            self._print_line()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self._stops:
            control.should_save = control.should_evaluate = False
            # The best model would be loaded, and under save_total_limit=1 all checkpoints but its own removed.
            state.best_model_checkpoint = None
