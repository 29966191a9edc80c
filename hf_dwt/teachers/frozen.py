"""A frozen model as teacher."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ..heads import RowLogits
from ..inputs import forward_arguments, model_inputs
from ..modes import evaluation_mode
from ..objective import LinearLogits, Targets
from ..rows import Rows
from ..tasks import Task


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
    ) -> None:
        # A quantised or dispatched model has its place already, and refuses to be moved.
        if not getattr(model, "is_quantized", False) and getattr(model, "hf_device_map", None) is None:
            model = model.to(device)
        self.model = model
        self.shared_classes = shared_classes
        self.columns = forward_arguments(model)
        self.row_logits = RowLogits(model, task)
        self._task = task
        self._autocast = autocast

    @torch.no_grad()
    def targets(self, batch: Mapping[str, Any], rows: Rows) -> Targets:
        """Targets with logits (n, P), made slice by slice where the model's head is a linear map; see `Targets`."""
        inputs = model_inputs(self.model, self._task, batch, self.columns)
        with evaluation_mode(self.model), self._autocast():
            logits = self.row_logits(self.model, inputs, rows)
        if isinstance(logits, LinearLogits):
            return Targets(logits.first(self.shared_classes).cast())
        return Targets(logits[:, : self.shared_classes])
