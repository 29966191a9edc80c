"""Collators that make text with models, in a run: the student that they compare on, checkpoints and seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..batches.proposing import ProposingCollator
from ..errors import ArgumentError

FILE = "proposals_student.pt"
"""Of a checkpoint: the student as it was at the start of the epoch, on which candidates are compared."""


class ServeProposals(TrainerCallback):
    """Has a proposing collator refer to the student as it is at the start of each epoch; of any other it does nothing.

    Workers of a data loader collate on the CPU; otherwise models run on the device of training.

    Args:
        collator: returns that of training.
        student: returns the student, without wrappers.
    """

    def __init__(self, collator: Callable[[], object], student: Callable[[], nn.Module]) -> None:
        self._collator, self._student = collator, student
        self._restored: dict[str, Any] | None = None

    @property
    def own(self) -> ProposingCollator | None:
        """The collator, where it makes text."""
        found = self._collator()
        return found if isinstance(found, ProposingCollator) and found.proposes else None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        restored, self._restored = self._restored, None
        if self.own is not None:
            self.own.begin(torch.device("cpu") if args.dataloader_num_workers else args.device)
            if restored is not None:
                self.own.load(restored, self._student())

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self.own is not None:
            self.own.refer_to(self._student(), int(state.epoch or 0))

    # ---- checkpoints ----

    def save(self, folder: str, writes: bool) -> None:
        """Write the state into a checkpoint, on the process that writes."""
        if writes and self.own is not None and (state := self.own.state()):
            Path(folder).mkdir(parents=True, exist_ok=True)
            torch.save(state, Path(folder, FILE))

    def load(self, checkpoint: str) -> None:
        """Go on from a checkpoint at the next start of training.

        Raises:
            ArgumentError: the run of the checkpoint did not compare candidates, or it is of `save_only_model`.
        """
        self._restored = None
        if self.own is None or not self.own.reads_student:
            return
        if not Path(checkpoint, FILE).is_file():
            problem = f"has no {FILE}: its run compared no candidates, or it is of save_only_model=True."
            fix = "Resume with the data_collator of that run, or start without resume_from_checkpoint."
            raise ArgumentError("resume_from_checkpoint", checkpoint, problem, fix)
        self._restored = torch.load(Path(checkpoint, FILE), map_location="cpu", weights_only=True)
