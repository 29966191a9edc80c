"""Collators that make text of their own with models: what whoever trains has to do for them."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from ..errors import DistillationError
from ..tasks import Task
from .seeds import Collator


@runtime_checkable
class ProposingCollator(Protocol):
    """A data collator of training that changes examples by what models say of them.

    plain: the collator without changes, for evaluations.
    proposes: whether it changes anything.
    hides_labels: whether its batches have rows without a truth.
    reads_student: whether it compares what it makes on the student.
    runs_on_gpu: whether a model of the user's that it runs is on a GPU.
    description, references: for run.json and the card; the latter are `hf_dwt.parts.Reference`s.
    seconds: how long models took for it since `begin`, over all processes of a data loader.
    """

    plain: Collator
    proposes: bool
    hides_labels: bool
    reads_student: bool
    runs_on_gpu: bool
    description: str
    references: tuple[Any, ...]
    seconds: float

    def __call__(self, features: list[Any]) -> Any: ...

    def problems(self, student: nn.Module, task: Task, tokenizer: object) -> list[DistillationError]:
        """Why it cannot make text for that student, whose tokenizer may be None."""
        ...

    def begin(self, device: torch.device) -> None:
        """A start of the training loop; models that are the collator's own are run on that device."""
        ...

    def refer_to(self, student: nn.Module, epoch: int) -> None:
        """From now on the student stands for itself as it is here, unless it already did so for that epoch."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep; empty for nothing."""
        ...

    def load(self, state: Mapping[str, Any], student: nn.Module) -> None:
        """Go on from a `state`."""
        ...


def plain_of(collator: Any) -> Any:
    """The collator of evaluations."""
    return collator.plain if isinstance(collator, ProposingCollator) else collator
