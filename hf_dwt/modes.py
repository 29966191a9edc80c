"""A model that belongs to a user is run in evaluation mode, and left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Within it the models are in evaluation mode; afterwards each module is in the mode that it was in.

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
