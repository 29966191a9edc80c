"""The adaptive schedule, `soft_weight_schedule="auto"`: weights that follow the teacher margin."""

import math
from collections import deque
from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..schedules.adaptive import OFF_BELOW, adaptive
from ..schedules.record import Factors

EVERY = 10
"""Steps over which the margin is averaged before the weights change; one wait for the device and one reduction."""
_KEPT = 1000  # changes that the log may still ask for


class AdaptiveState(TypedDict):
    """What a checkpoint keeps of the schedule.

    changes: (step, factor of soft_weight) since when it holds.
    new: how much of the teacher's knowledge was new to the student; None before the first step with rows.
    silent: whether the teacher is no longer run.
    sums: of the margin and of the steps with rows, since the last change.
    steps: in all since then.
    """

    changes: list[tuple[int, float]]
    new: float | None
    silent: bool
    sums: list[float] | None
    steps: int


class AdaptiveSchedule(TrainerCallback):
    """Weights by the teacher margin: `hf_dwt.schedules.adaptive` of what the run measures.

    The margin is the mean over the rows of the last steps, on which both losses were computed anyway. What is new to
    the student, margin / (log of the classes - CE_teacher), is measured once, at the first step.
    The first step has the soft term alone; once the student is clearly better the teacher is not run any more. A step
    without rows and a margin that is no number change nothing.

    Args:
        reduce: the mean over processes of a tensor.
    """

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        self._reduce = reduce
        self.reset()

    def reset(self) -> None:
        """Forget the run before."""
        self._changes: deque[tuple[int, float]] = deque([(0, 1.0)], maxlen=_KEPT)
        self._new: float | None = None
        self._stopped = False
        self._sum: Tensor | None = None
        self._known: Tensor | None = None
        self._counted: Tensor | None = None  # steps with rows, of those summed
        self._of_step: Tensor | None = None
        self._steps = 0

    def at(self, step: int) -> Factors:
        """(factor of hard_weight, factor of soft_weight) of a step that was taken or is the next."""
        soft = next((value for start, value in reversed(self._changes) if start <= step), self._changes[0][1])
        return 1.0 - soft, soft

    @property
    def runs_teacher(self) -> bool:
        """Whether the teacher is run, be it only to see whether its margin grows again."""
        return not self._stopped

    def add(self, margin: Tensor, known: Tensor, counted: Tensor, summed: bool = False) -> None:
        """A micro-batch's share of the step's means, scalars.

        Args:
            margin: of the teacher.
            known: the cross-entropy of a uniform guess minus the student's. The first step's is used.
            counted: whether the step has rows, a truth value; or, where rows have weights in the hard term, their sum
                as a share of the step's rows.
            summed: whether it is such a share.
        """
        before = self._of_step if summed else None
        self._of_step = counted.float() if before is None else before + counted.float()
        self._sum = margin.detach().float() if self._sum is None else self._sum + margin.detach().float()
        if self._new is None:
            self._known = known.detach().float() if self._known is None else self._known + known.detach().float()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Follow the margin, after the first step with rows and then every `EVERY`."""
        if self._stopped or self._sum is None or self._of_step is None:
            return
        self._steps += 1
        self._counted = self._of_step if self._counted is None else self._counted + self._of_step
        self._of_step = None
        if self._new is not None and self._steps < EVERY:
            return
        known = self._counted if self._known is None else self._known
        total, known_total, steps = self._reduce(torch.stack([self._sum, known, self._counted])).tolist()
        self._sum, self._known, self._counted, self._steps = None, None, None, 0
        if not (steps and math.isfinite(total)):
            return
        margin = total / steps
        self._stopped = margin <= OFF_BELOW
        if self._new is None:
            all_known = known_total / steps + margin  # by the teacher
            self._new = min(1.0, max(0.0, margin) / all_known) if all_known > 0 else 0.0
        _, soft = adaptive(state.global_step / state.max_steps, margin, self._new)
        self._changes.append((state.global_step, soft))

    def state(self) -> AdaptiveState:
        """What a checkpoint must keep."""
        sums: list[float] | None = None
        if self._sum is not None and self._counted is not None:
            sums = self._reduce(torch.stack([self._sum, self._counted])).tolist()
        return AdaptiveState(
            changes=list(self._changes), new=self._new, silent=self._stopped, sums=sums, steps=self._steps
        )

    def load(self, state: AdaptiveState, device: torch.device) -> None:
        """Go on from a `state`."""
        self._changes = deque(((step, value) for step, value in state["changes"]), maxlen=_KEPT)
        self._new, self._stopped, self._steps = state["new"], state["silent"], state["steps"]
        sums = state.get("sums")
        if isinstance(total := state.get("sum"), float):  # of an earlier version, for which every step counted
            sums = [total, float(state["steps"])]
        if sums is not None:
            self._sum, self._counted = torch.tensor(sums, device=device)
