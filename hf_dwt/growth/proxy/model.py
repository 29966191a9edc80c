"""Proxies: tiny models of the teacher's class, with every parameter moved off its initial value."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import GrowthError, GrowthNotPreservedError, first_line
from ..building import build, own_randomness
from ..config.rebuild import CONFIG_ERRORS
from .batches import Batch, random_batch
from .scale import scaled
from .shrink import shrink

Answer = TypeVar("Answer")

FIX = "Declare its layout (hf_dwt.growth.declare), or use init='remap', which promises nothing."
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Proxies:
    """The tiny models of one growth: of the teacher, and of the student at any ratio.

    What is made and found is kept: the plan of a growth, its application and all strategies that "auto" tries use
    one object, so that no search runs twice.

    Args:
        teacher: may lie on the meta device.
        student: the larger config.
        seed: of parameters and of the batch.
    """

    def __init__(self, teacher: PreTrainedModel, student: PreTrainedConfig, seed: int = 0) -> None:
        self.model_class, self.old, self.new, self.seed = type(teacher), teacher.config, student, seed
        self._found: dict[Hashable, Any] = {}

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The config of `teacher`."""
        return shrink(self.old)

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """The teacher's proxy; whatever changes it restores it."""
        return proxy(self.model_class, self.config, self.seed)

    @cached_property
    def batch(self) -> Batch:
        """Inputs of all proxies."""
        return random_batch(self.teacher, self.seed)

    def larger(self, times: int | None = None) -> PreTrainedConfig:
        """The config of `student`.

        Args:
            times: what grows is multiplied by this, instead of by the student's ratio.
        """
        return scaled(self.config, self.old, self.new, times)

    def student(self, times: int | None = None) -> PreTrainedModel:
        """A new proxy of the student, with its own initialisation, for parameters to be written over."""
        with own_randomness(self.seed):
            student: PreTrainedModel = build(self.model_class, self.larger(times), "cpu").float().eval()
        return student

    def once(self, question: Hashable, answer: Callable[[], Answer]) -> Answer:
        """What `answer` returns; it is called once for each `question`."""
        if question not in self._found:
            self._found[question] = answer()
        found: Answer = self._found[question]
        return found


@contextmanager
def typed_errors(model_class: type[PreTrainedModel]) -> Iterator[None]:
    """In the block, an error of a tiny model's classes becomes a GrowthNotPreservedError that names it."""
    try:
        yield
    except GrowthError:
        raise
    except CONFIG_ERRORS as error:
        problem = f"No tiny proxy of it can be built and run ({type(error).__name__}: {first_line(error)})."
        raise GrowthNotPreservedError("teacher", model_class.__name__, problem, FIX) from error


def proxy(model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A tiny model with all parameters off their initial values, which hide wrong maps (a norm of weight 1)."""
    with own_randomness(seed):
        model: PreTrainedModel = build(model_class, config, "cpu").float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            _set_running_statistics(model, seed)
    return model


def _set_running_statistics(model: PreTrainedModel, seed: int) -> None:
    """Set those of batch norms by one pass: with their first ones a deep network's output forgets its input."""
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    if not norms:
        return
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    model(**random_batch(model, seed))
    for norm in norms:  # a channel that hardly varies would make rounding large
        if norm.running_var is not None:
            norm.running_var.clamp_(min=0.3 * norm.running_var.mean().item())
    model.eval()
