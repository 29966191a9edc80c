"""Batches of texts from examples that were collated by themselves."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..tasks import IGNORED


def differ_in_length(features: list[Any]) -> bool:
    """Whether padding is likely: also of examples that do not show how long they are."""
    try:
        return len({len(feature["input_ids"]) for feature in features}) > 1
    except (TypeError, KeyError, IndexError):
        return True


def equal(one: Any, other: Any) -> bool:
    """Whether two batches are the same tensors."""
    return (
        isinstance(one, Mapping)
        and one.keys() == other.keys()
        and all(_same(value, other[name]) for name, value in one.items())
    )


def _is_text(batch: Any, examples: int) -> bool:
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    return isinstance(ids, Tensor) and ids.dim() == 2 and len(ids) == examples


def stacked(alone: list[Any]) -> Any:
    """The batch of examples of one length, or None: nothing has to be padded."""
    first = alone[0]
    if not all(_is_text(one, 1) and one.keys() == first.keys() for one in alone):
        return None
    for name in first:
        values = [one[name] for one in alone]
        if not all(isinstance(v, Tensor) and v.dim() and len(v) == 1 and v.shape == values[0].shape for v in values):
            return None
    for name in list(first):
        first[name] = torch.cat([one[name] for one in alone])
    return first


def laid_into(whole: Any, alone: list[Any]) -> Any:
    """The padded batch `whole` with each example's own results laid over it, or None where they do not fit."""
    if not _is_text(whole, len(alone)) or not all(_is_text(one, 1) and one.keys() == whole.keys() for one in alone):
        return None
    mask = whole.get("attention_mask")
    for name, padded in whole.items():
        values = [one[name] for one in alone]
        if not isinstance(padded, Tensor) or not all(_fits(value, padded, len(alone)) for value in values):
            return None
        if name == "labels" and padded.dim() > 1:
            padded.fill_(IGNORED)  # what was drawn for padding belongs to no example
        for number, value in enumerate(values):
            left = mask is not None and not mask[number, 0]
            room = padded[number]
            for dimension, size in enumerate(value.shape[1:]):
                room = room.narrow(dimension, room.shape[dimension] - size if left else 0, size)
            room.copy_(value[0])
    return whole


def _fits(value: Any, padded: Tensor, examples: int) -> bool:
    """Whether a value of one example is a part of the batch's."""
    return (
        isinstance(value, Tensor)
        and 0 < value.dim() == padded.dim()
        and (len(value), len(padded)) == (1, examples)
        and all(0 < size <= room for size, room in zip(value.shape[1:], padded.shape[1:], strict=True))
    )


def _same(one: Any, other: Any) -> bool:
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    )
