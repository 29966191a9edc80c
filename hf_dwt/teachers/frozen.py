"""A frozen model as teacher."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from ..heads import RowLogits
from ..inputs import forward_arguments, model_inputs
from ..modes import evaluation_mode
from ..objective import LinearLogits, Targets
from ..rows import IGNORED, Rows
from ..tasks import Task


class KnownTokens(NamedTuple):
    """The token ids 0 to size - 1 that a teacher knows, and the one that it reads in place of any other."""

    size: int
    stand_in: int


class FrozenTeacher:
    """A model that speaks for the rows of a batch and never learns.

    It is no `nn.Module` and holds the model beside the student, so that the model is in no state dict, checkpoint,
    optimizer or wrapper of distributed training: each process has its own copy.

    Args:
        model: moved to `device`, and otherwise left as it is: it is run in evaluation mode and without gradients,
            and has its own mode and `requires_grad` when it is used for something else.
        task: its task.
        shared_classes: P, how many of its first classes are also the student's first classes.
        device: where the batches are.
        autocast: the context to run it in, that of mixed precision.
        known: the tokens that it knows, where the batches may hold others.

    Attributes:
        row_logits: how the model yields logits for rows, of all its classes.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        shared_classes: int,
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        known: KnownTokens | None = None,
    ) -> None:
        # A quantised or dispatched model has its place already, and refuses to be moved.
        if not getattr(model, "is_quantized", False) and getattr(model, "hf_device_map", None) is None:
            model = model.to(device)
        self.model = model
        self.shared_classes = shared_classes
        self.columns = forward_arguments(model)
        self.row_logits = RowLogits(model, task)
        self._task = task
        self._autocast, self.known = autocast, known

    @torch.no_grad()
    def targets(self, batch: Mapping[str, Any], rows: Rows) -> Targets:
        """Targets with logits (n, P), made slice by slice where the model's head is a linear map; see `Targets`."""
        inputs = self.readable(model_inputs(self.model, self._task, batch, self.columns))
        with evaluation_mode(self.model), self._autocast():
            logits = self.row_logits(self.model, inputs, rows)
        if isinstance(logits, LinearLogits):
            return Targets(logits.first(self.shared_classes).cast().detach())
        return Targets(logits[:, : self.shared_classes])

    def readable(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch with the stand-in for tokens that it does not know, and without the labels that are such tokens."""
        read = dict(batch)
        if self.known is None:
            return read
        fillers = {"input_ids": self.known.stand_in, "decoder_input_ids": self.known.stand_in}
        fillers |= {"labels": IGNORED} if self._task.vocabulary else {}
        for name, filler in fillers.items():
            if name in read:
                read[name] = read[name].masked_fill(read[name] >= self.known.size, filler)
        return read
