"""A model that belongs to a user is run in evaluation mode, and left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """In the block the models are in evaluation mode; afterwards each module is in the mode that it was in.

    `model.train(mode)` would put all modules into the mode of the outermost, parts that were in another one too.
    """
    training = [module for model in models for module in model.modules() if module.training]
    try:
        if training:
            for model in models:
                model.eval()
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def trial_mode(model: nn.Module) -> Iterator[None]:
    """As `evaluation_mode`; afterwards the numbers that modules keep between batches are those of before, too.

    An evaluation sets the capacity of NLLB-MoE's experts, for example, and training goes on with it.
    """
    modules = [vars(module) for module in model.modules()]
    before = [{name: value for name, value in kept.items() if isinstance(value, int | float)} for kept in modules]
    try:
        with evaluation_mode(model):
            yield
    finally:
        for kept, numbers in zip(modules, before, strict=True):
            kept.update((name, value) for name, value in numbers.items() if kept.get(name) is not value)
