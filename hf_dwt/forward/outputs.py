"""What a model returns: a dict by name or a tuple, as its config has it."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..tasks import config_parts, plain_model
from .rows import Rows

Outputs: TypeAlias = Mapping[str, Any] | tuple[Any, ...]
"""A `ModelOutput`, or a tuple of its values."""


def logits_of_outputs(outputs: Outputs) -> Tensor:
    """The logits of a model's outputs, in either form."""
    return outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]


def logits_at(outputs: Outputs, rows: Rows) -> Tensor:
    """(n, C) logits at the rows; virtual tokens of an adapter stand before the text."""
    logits = logits_of_outputs(outputs)
    return rows.take(logits[:, -rows.length :] if logits.dim() == 3 else logits)


def with_loss(outputs: Outputs, loss: Tensor, model: nn.Module) -> Outputs:
    """The outputs as the model gives them with labels: the loss first, in a tuple if its config asks for one."""
    if not isinstance(outputs, Mapping):
        return (loss, *outputs)
    named = type(outputs)(**{**outputs, "loss": loss})
    return named if getattr(plain_model(model).config, "return_dict", True) else tuple(named.values())


@contextmanager
def called_for_logits(model: nn.Module) -> Iterator[None]:
    """In the block a model names its outputs and keeps no keys and values, whatever its config has.

    In a tuple logits may come second. With a cache a model attends across examples that
    `DataCollatorWithFlattening` laid one behind the other: transformers looks for their bounds only without one.
    """
    with ExitStack() as stack:
        for config in config_parts(getattr(plain_model(model), "config", PreTrainedConfig())):
            for name, wanted in (("return_dict", True), ("use_cache", False)):
                if (before := vars(config).get(name, wanted)) is not wanted:
                    setattr(config, name, wanted)
                    stack.callback(setattr, config, name, before)
        yield
