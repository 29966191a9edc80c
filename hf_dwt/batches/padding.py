"""Batches of texts from examples that were collated by themselves."""

from collections.abc import Mapping, MutableMapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..tasks import IGNORED


def differ_in_length(features: list[Any]) -> bool:
    """Whether padding is likely: also of examples that do not show how long they are."""
    try:
        return len({len(feature["input_ids"]) for feature in features}) > 1
    except (TypeError, KeyError, IndexError):
        return True


def equal(one: object, other: object) -> bool:
    """Whether two batches are the same tensors."""
    return (
        isinstance(one, Mapping)
        and isinstance(other, Mapping)
        and one.keys() == other.keys()
        and all(_same(value, other[name]) for name, value in one.items())
    )


def _is_text(batch: object, examples: int) -> TypeGuard[MutableMapping[str, object]]:
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    return isinstance(ids, Tensor) and ids.dim() == 2 and len(ids) == examples


def stacked(alone: list[object]) -> MutableMapping[str, object] | None:
    """The batch of examples of one length, or None: nothing has to be padded."""
    batches = [one for one in alone if _is_text(one, 1)]
    first = batches[0] if len(batches) == len(alone) else {}
    if not first or not all(one.keys() == first.keys() for one in batches):
        return None
    columns = {name: [value for one in batches if isinstance(value := one[name], Tensor)] for name in first}
    for values in columns.values():
        if len(values) < len(batches) or not all(
            v.dim() and len(v) == 1 and v.shape == values[0].shape for v in values
        ):
            return None
    first.update({name: torch.cat(values) for name, values in columns.items()})
    return first


def laid_into(whole: object, alone: list[object]) -> MutableMapping[str, object] | None:
    """The padded batch `whole` with each example's own results laid over it, or None where they do not fit."""
    batches = [one for one in alone if _is_text(one, 1)]
    if not _is_text(whole, len(alone)) or len(batches) < len(alone):
        return None
    if not all(one.keys() == whole.keys() for one in batches):
        return None
    mask = whole.get("attention_mask")
    for name, padded in whole.items():
        if not isinstance(padded, Tensor):
            return None
        values = [value for one in batches if _fits(value := one[name], padded, len(batches))]
        if len(values) < len(batches):
            return None
        if name == "labels" and padded.dim() > 1:
            padded.fill_(IGNORED)  # what was drawn for padding belongs to no example
        for number, value in enumerate(values):
            left = isinstance(mask, Tensor) and not mask[number, 0]
            place = padded[number]
            for dimension, size in enumerate(value.shape[1:]):
                place = place.narrow(dimension, place.shape[dimension] - size if left else 0, size)
            place.copy_(value[0])
    return whole


def _fits(value: object, padded: Tensor, examples: int) -> TypeGuard[Tensor]:
    """Whether a value of one example is a part of the batch's."""
    return (
        isinstance(value, Tensor)
        and 0 < value.dim() == padded.dim()
        and (len(value), len(padded)) == (1, examples)
        and all(0 < size <= most for size, most in zip(value.shape[1:], padded.shape[1:], strict=True))
    )


def _same(one: object, other: object) -> bool:
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    )
