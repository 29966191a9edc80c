"""From a batch to what a model is called with."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from .errors import DataError
from .tasks import Task, plain_model


def forward_arguments(model: nn.Module) -> frozenset[str]:
    """The names that a model's forward declares."""
    return frozenset(inspect.signature(plain_model(model).forward).parameters) - {"args", "kwargs"}


def model_inputs(model: nn.Module, task: Task, batch: Mapping[str, Any], columns: frozenset[str]) -> dict[str, Any]:
    """The entries of a batch that a model reads, to be run without a loss and without a cache of keys and values.

    Args:
        model: of that task.
        batch: with labels, as far as the decoder's inputs have to be made from them.
        columns: what its forward declares, by `forward_arguments`.

    Raises:
        DataError: the decoder's inputs are missing, and the model cannot make them.
    """
    whole = with_decoder_inputs(model, task, batch)
    inputs = {name: value for name, value in whole.items() if name in columns and name != "labels"}
    if "use_cache" in columns:
        inputs["use_cache"] = False
    return inputs


def with_decoder_inputs(model: nn.Module, task: Task, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch with the decoder's inputs, which a model makes by itself only where it is given the labels.

    Raises:
        DataError: they are missing, and the model does not say how to make them.
    """
    given = "decoder_input_ids" in batch or "decoder_inputs_embeds" in batch
    if given or task.auto_class != "AutoModelForSeq2SeqLM":
        return dict(batch)
    maker: Any = plain_model(model)
    if not hasattr(maker, "prepare_decoder_input_ids_from_labels"):
        raise DataError(
            "decoder_input_ids",
            sorted(batch),
            f"are missing, and {type(maker).__name__} does not say how to make them from labels.",
            "Give them in the batch.",
        )
    return {**batch, "decoder_input_ids": maker.prepare_decoder_input_ids_from_labels(labels=batch["labels"])}
