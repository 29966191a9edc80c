"""A proxy: a tiny model of the teacher's class, with every parameter moved off its initial value."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import GrowthError, GrowthNotPreservedError, first_line
from ..checkpoint import build
from ..config.rebuild import CONFIG_ERRORS
from .batches import random_batch

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextmanager
def typed_errors(model_class: Any) -> Iterator[None]:
    """In the block, an error of a tiny model's classes becomes a GrowthNotPreservedError that names it."""
    try:
        yield
    except GrowthError:
        raise
    except CONFIG_ERRORS as error:
        problem = f"No tiny proxy of it can be built and run ({type(error).__name__}: {first_line(error)})."
        raise GrowthNotPreservedError("teacher", model_class.__name__, problem, FIX) from error


FIX = "Declare its layout (hf_dwt.growth.declare), or use init='remap', which promises nothing."


def proxy(model_class: Any, config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A tiny model with all parameters off their initial values, which hide wrong maps (a norm of weight 1)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build(model_class, config, "cpu").float().eval()
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
