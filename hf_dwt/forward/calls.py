"""How a model is called: what it reads of a batch, and what it returns."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import DataError
from ..tasks import Outcome, Task, config_parts, plain_model
from .rows import Rows

Batch: TypeAlias = Mapping[str, Any]
"""What a data collator returns: mostly tensors by the name of the argument that they are."""

Outputs: TypeAlias = Mapping[str, Any] | tuple[Any, ...]
"""A `ModelOutput`, or a tuple of its values, as a model's config has it."""


def forward_arguments(model: nn.Module) -> frozenset[str]:
    """The names that a model's forward declares."""
    return frozenset(inspect.signature(plain_model(model).forward).parameters) - {"args", "kwargs"}


def without_cache(columns: frozenset[str]) -> dict[str, bool]:
    """The argument by which a model keeps no keys and values, where its forward declares one."""
    return {"use_cache": False} if "use_cache" in columns else {}


def model_inputs(model: nn.Module, task: Task, batch: Batch, columns: frozenset[str]) -> dict[str, Any]:
    """The entries of a batch that a model reads, to be run without a loss and without a cache of keys and values.

    Args:
        model: of that task.
        batch: with labels, as far as the decoder's inputs have to be made from them.
        columns: what its forward declares, by `forward_arguments`.

    Raises:
        DataError: the decoder's inputs are missing, and the model cannot make them.
    """
    whole = with_decoder_inputs(model, task, batch)
    return {
        name: value for name, value in whole.items() if name in columns - {"labels", *task.labels}
    } | without_cache(columns)


def with_decoder_inputs(model: nn.Module, task: Task, batch: Batch) -> dict[str, Any]:
    """A batch with the decoder's inputs, which a model makes by itself only where it is given the labels.

    Raises:
        DataError: they are missing, and the model has no function that makes them.
    """
    given = "decoder_input_ids" in batch or "decoder_inputs_embeds" in batch
    if given or task.auto_class != "AutoModelForSeq2SeqLM" or task.shifts:
        return dict(batch)
    return {**batch, "decoder_input_ids": _shifted(plain_model(model), batch["labels"], sorted(batch))}


def _shifted(model: PreTrainedModel, labels: Tensor, names: list[str]) -> Tensor:
    """The decoder's inputs (B, L) for labels (B, L), made by the model or, as in its forward, by its module."""
    if (make := getattr(model, "prepare_decoder_input_ids_from_labels", None)) is not None:
        made: Tensor = make(labels=labels)
        return made
    modules = (sys.modules.get(cls.__module__) for cls in type(model).__mro__)
    shift = next(filter(None, (getattr(module, "shift_tokens_right", None) for module in modules)), None)
    if shift is None:
        raise DataError(
            "decoder_input_ids",
            names,
            f"are missing, and {type(model).__name__} does not say how to make them from labels.",
            "Give them in the batch.",
        )
    shifted: Tensor = shift(labels, model.config.pad_token_id, model.config.decoder_start_token_id)
    return shifted


def logits_of_outputs(outputs: Outputs) -> Tensor:
    """The logits of a model's outputs, in either form."""
    logits: Tensor = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
    return logits


def logits_at(outputs: Outputs, rows: Rows, task: Task | None = None) -> Tensor:
    """(n, C) logits at the rows; virtual tokens of an adapter stand before the text.

    A row of independent labels has the logits 0 and z of two classes: their softmax is the sigmoid of z. A row of
    numbers has its prediction, C = 1; a row of answers in a text the logits of its positions.

    Raises:
        DataError: an example has not as many labels or numbers as the model.
    """
    if task is not None and task.labels != ("labels",):
        sides = [outputs["start_logits"], outputs["end_logits"]] if isinstance(outputs, Mapping) else list(outputs[:2])
        return rows.take(torch.stack(sides, 1))
    logits = logits_of_outputs(outputs)
    if task is None or task.outcome not in (Outcome.LABEL, Outcome.NUMBER):
        return rows.take(logits[:, -rows.length :] if logits.dim() == 3 else logits)
    if logits.dim() != 2 or logits.shape[1] != rows.length:
        problem = f"are {rows.length} an example, and the model has {logits.shape[-1]} outputs."
        raise DataError(
            "labels", f"{len(rows.labels)} in the batch", problem, "Give as many, or set config.num_labels."
        )
    own = logits.reshape(-1, 1).index_select(0, rows.positions)
    return own if task.outcome is Outcome.NUMBER else torch.cat([torch.zeros_like(own), own], 1)


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
