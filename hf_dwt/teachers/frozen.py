"""A frozen model as teacher."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import TeacherError
from ..forward.calls import Batch, forward_arguments, model_inputs
from ..forward.row_logits import RowLogits
from ..forward.rows import Rows
from ..modes import evaluation_mode
from ..objective import Targets
from ..objective.logits import LinearLogits, Logits
from ..tasks import IGNORED, Task, plain_model
from .placement.layers import is_offloaded, is_shared


class KnownTokens(NamedTuple):
    """The token ids 0 to size - 1 that a teacher knows, and the one that it reads in place of any other."""

    size: int
    stand_in: int


def most_positions(model: nn.Module) -> int | None:
    """The positions that a model's config allows, or None where it has no such entry."""
    config = plain_model(model).config
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def has_position_table(model: nn.Module) -> bool:
    """Whether a model keeps a vector for each position, so that there are no others; as far as sizes show it."""
    rows = [part.num_embeddings for part in model.modules() if isinstance(part, nn.Embedding)]
    most = most_positions(model)
    return most is not None and (most in rows or most + 2 in rows)  # two more rows in the family of BART


def usable_positions(model: nn.Module) -> int | None:
    """The most tokens that a model's config allows in a row, or None where it has no such entry."""
    most = most_positions(model)
    for part in model.modules():  # as in RoBERTa, where positions are counted from the id of padding on
        if isinstance(part, nn.Embedding) and part.num_embeddings == most and part.padding_idx is not None:
            return int(most - part.padding_idx - 1)
    return most


class FrozenTeacher:
    """A model that gives targets for the rows of a batch and never learns.

    It is no `nn.Module` and holds the model beside the student, so that the model is in no state dict, checkpoint,
    optimizer or wrapper of distributed training.

    Args:
        model: where it is to run (see `placement`), and left as it is: it is run in evaluation mode and without
            gradients, and has its own mode and `requires_grad` when it is used for something else.
        task: its task.
        shared_classes: P, how many of its first classes are also the student's first classes; 0 where all are, and
            batches differ in how many there are.
        autocast: the context to run it in, that of mixed precision.
        known: the tokens that it knows, where the batches may hold others.

    Attributes:
        row_logits: how the model yields logits for rows, of all its classes.
        is_shared: whether processes hold parts of it, so that all of them must run it, equally often.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        shared_classes: int,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        known: KnownTokens | None = None,
    ) -> None:
        self.model = model
        self.is_shared = is_shared(model)
        self.shared_classes = shared_classes
        self.columns = forward_arguments(model)
        self.row_logits = RowLogits(model, task)
        if is_offloaded(model):  # the trial of the last layer differentiates, and keeps all layers on the device
            self.row_logits.last_modules = ()
        self.task = task
        self.autocast, self.known = autocast, known

    @torch.no_grad()
    def targets(self, batch: Batch, rows: Rows) -> Targets:
        """Targets with logits (n, P), made slice by slice where the model's head is a linear map; see `Targets`.

        Raises:
            TeacherError: the batch is longer than the model has positions for.
        """
        return Targets(self.logits(batch, rows).detach())

    def logits(self, batch: Batch, rows: Rows) -> Logits:
        """(n, P) logits, in evaluation mode; with a gradient of what learns in the model, where gradients are enabled.

        Raises:
            TeacherError: the batch is longer than the model has positions for.
        """
        inputs = self.readable(model_inputs(self.model, self.task, batch, self.columns))
        with evaluation_mode(self.model), self.autocast(), self._within_positions(inputs):
            logits = self.row_logits(self.model, inputs, rows)
        if isinstance(logits, LinearLogits):
            return logits.first(self.shared_classes).cast()
        return logits[:, : self.shared_classes or None]

    @contextmanager
    def _within_positions(self, inputs: Batch) -> Iterator[None]:
        """Within it the model's error names the teacher where the batch has more positions than its config allows."""
        lengths = [value.shape[-1] for name, value in inputs.items() if name.endswith("input_ids")]
        positions = inputs.get("position_ids")
        longest = max(lengths, default=0) if positions is None else positions.shape[-1]
        most = most_positions(self.model)

        def problem() -> TeacherError:
            return TeacherError(
                "teacher_model.config.max_position_embeddings",
                most,
                f"are fewer positions than a batch with {longest} tokens in a row needs.",
                f"Truncate the examples to max_length={most}, or take a teacher that reads longer ones.",
            )

        # On a GPU an index beyond a table ends the process, so that it is not tried.
        is_gpu = next(self.model.parameters()).device.type != "cpu"
        if positions is None and is_gpu and has_position_table(self.model) and longest > (most or longest):
            raise problem()
        try:
            yield
        except (IndexError, RuntimeError, ValueError) as error:
            offset = 3  # that some tables have, for the id of padding
            if isinstance(error, torch.OutOfMemoryError) or most is None or longest <= most - offset:
                raise
            raise problem() from error

    def readable(self, batch: Batch) -> dict[str, Any]:
        """A batch with the stand-in for tokens that it does not know, and without the labels that are such tokens."""
        read = dict(batch)
        if self.known is None:
            return read
        fillers = {"input_ids": self.known.stand_in, "decoder_input_ids": self.known.stand_in}
        fillers |= {"labels": IGNORED} if self.task.vocabulary else {}
        for name, filler in fillers.items():
            if name in read:
                read[name] = read[name].masked_fill(read[name] >= self.known.size, filler)
        return read
