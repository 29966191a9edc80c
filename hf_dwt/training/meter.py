"""The terms of the loss between two logs."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TypedDict

import torch
from accelerate import Accelerator
from torch import Tensor

from ..errors import TeacherError
from ..objective import Weights
from ..objective.divergences import clear_of_rounding

_FINITE, _TEACHER_FAILED = "finite", "teacher_faults"  # micro-batches, counted beside the terms
_OF_THE_TEACHER = ("soft_loss", "agreement", "teacher_")  # these, and all that begin so
# Steps with rows: all, those on which the teacher was run, and those with a term on hidden states.
_STEPS, _TAUGHT, _COMPARED = "steps", "steps of the teacher", "steps of the hidden term"
_HIDDEN = "hidden_loss"


class Stopwatch:
    """Adds up the seconds spent within `with stopwatch:`, on the device that does the work."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._began = 0.0
        self._event: torch.cuda.Event | None = None
        self._unread: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def __enter__(self) -> None:
        self._began, self._event = time.perf_counter(), _recorded_event() if self._cuda else None

    def __exit__(self, *_: object) -> None:
        if self._event is None:
            self._seconds += time.perf_counter() - self._began
        else:
            self._unread.append((self._event, _recorded_event()))
            self._read(wait=False)  # `seconds` may never be read

    @property
    def seconds(self) -> float:
        """So far; on a GPU this waits for what was begun."""
        self._read(wait=True)
        return self._seconds

    def _read(self, wait: bool) -> None:
        while self._unread and (wait or self._unread[0][1].query()):
            began, ended = self._unread.popleft()
            ended.synchronize()
            self._seconds += began.elapsed_time(ended) / 1000


def _recorded_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class TermState(TypedDict):
    """The step at which the window since the last log starts, and the sums of its terms."""

    start: int | None
    sums: dict[str, float]


class TermMeter:
    """Sums the named terms of micro-batches on their device; reads them only when they are logged."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._start: int | None = None
        self._last: dict[str, int] = {}

    def add(
        self, terms: Mapping[str, Tensor], share: Tensor, step: int, counted: Tensor, nan_inf_filter: bool = False
    ) -> None:
        """Add a micro-batch.

        Args:
            terms: scalar sums over its rows.
            share: of one row in the optimiser step, as the loss has it.
            step: the optimiser steps taken before.
            counted: whether the optimiser step has rows, a truth value: means are over steps with rows.
            nan_inf_filter: as `logging_nan_inf_filter` of the Trainer: where the loss is not finite, the mean of the
                micro-batches before takes the place of each term, as it takes the place of the loss.
        """
        self._start = step if self._start is None else self._start
        for name, term in {_STEPS: "loss", _TAUGHT: "soft_loss", _COMPARED: _HIDDEN}.items():
            if term in terms and self._last.get(name) != step:
                self._last[name] = step
                self._count(name, counted)
        finite = {name: torch.isfinite(value.detach()) for name, value in terms.items()}
        for name, value in terms.items():
            if name != "loss":
                sum_before = self._sums.get(name, torch.zeros_like(value))
                value = value.detach() * share
                if nan_inf_filter:
                    value = torch.where(finite["loss"], value, sum_before / (1 + step - self._start))
                self._sums[name] = sum_before + value
        self._count(_FINITE, finite["loss"])
        if "soft_loss" in terms:
            self._count(_TEACHER_FAILED, finite["hard_loss"] & ~finite["soft_loss"])

    def _count(self, name: str, which: Tensor) -> None:
        self._sums[name] = self._sums[name] + which if name in self._sums else which.float()

    def drain(self, step: int, weights: Callable[[int], Weights], accelerator: Accelerator) -> dict[str, float]:
        """The mean of each term over the steps with rows since the last drain, and over processes; then start again.

        Args:
            step: the optimiser steps taken so far.
            weights: of a step. Figures of the teacher are averaged over the steps on which it was run.
            accelerator: of the Trainer, to average over processes.

        Raises:
            TeacherError: a soft term was not finite although the hard term was.
        """
        if self._start is None:
            return {}
        window = [weights(past) for past in range(self._start, step)]
        means = self._means(accelerator)
        self._sums, self._start = {}, None
        finite, failed = means.pop(_FINITE, 1.0), means.pop(_TEACHER_FAILED, 0.0)
        steps, taught, compared = means.pop(_STEPS), means.pop(_TAUGHT, None), means.pop(_COMPARED, None)
        counts = {name: steps if taught is None or not name.startswith(_OF_THE_TEACHER) else taught for name in means}
        counts |= {} if compared is None else {_HIDDEN: compared}
        logs = {name: mean / counts[name] if finite else math.nan for name, mean in means.items() if counts[name]}
        logs |= {name: clear_of_rounding(logs[name]) for name in ("soft_loss", _HIDDEN) if name in logs}
        if taught is not None:
            logs["hard_weight"] = sum(past.hard for past in window) / len(window)
            logs["soft_weight"] = sum(past.soft for past in window) / len(window)
        if compared is not None:
            logs["hidden_weight"] = sum(past.hidden for past in window) / len(window)
        if failed:
            raise TeacherError(
                "teacher_model",
                f"steps {step - len(window)} to {step}",
                "made a soft term that is not finite, while the hard term is.",
                "Go back to the last checkpoint, and load the teacher in a wider type: "
                "teacher_model_init_kwargs={'dtype': 'float32'}.",
            )
        return logs

    def state(self, accelerator: Accelerator) -> TermState:
        """What a checkpoint must keep: the start of the window and the sums, as means over processes."""
        return TermState(start=self._start, sums=self._means(accelerator))

    def load(self, state: TermState, device: torch.device) -> None:
        """Go on from a `state`; one of an earlier version, which did not count steps with rows, is passed over."""
        if state["sums"] and _STEPS not in state["sums"]:
            return
        self._start = state["start"]
        self._sums = {name: torch.tensor(value, device=device) for name, value in state["sums"].items()}

    def _means(self, accelerator: Accelerator) -> dict[str, float]:
        names = sorted(self._sums)
        if not names:
            return {}
        stacked = torch.stack([self._sums[name].float() for name in names])
        return dict(zip(names, accelerator.reduce(stacked, reduction="mean").tolist(), strict=True))
