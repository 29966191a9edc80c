"""Examples of which some have other words, and the batches that a collator makes of them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batches.columns import places_of
from .checks import token_ids
from .drawing import Proposal


def last_places(places: list[int], count: int) -> list[int]:
    """The last of the places, that many at the most, which follow each other and have something before them."""
    kept = places[-count:]
    gaps = [index for index in range(1, len(kept)) if kept[index] != kept[index - 1] + 1]
    kept = kept[gaps[-1] :] if gaps else kept
    return kept[1:] if kept[0] == 0 else kept


def with_words(features: list[Any], proposals: list[Proposal], candidate: int) -> list[Any]:
    """Examples, some with the words of that candidate."""
    found = list(features)
    for proposal in proposals:
        feature = dict(features[proposal.example])
        ids = token_ids(feature, proposal.example)
        for place, word in zip(proposal.places, proposal.words[candidate], strict=True):
            ids[place] = word
        before = feature["input_ids"]
        feature["input_ids"] = (
            torch.tensor(ids, dtype=before.dtype)
            if isinstance(before, Tensor)
            else np.array(ids, before.dtype)
            if isinstance(before, np.ndarray)
            else ids
        )
        found[proposal.example] = feature
    return found


def is_of_examples(value: object, examples: int) -> bool:
    """Whether a value of a batch has an entry for each example."""
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == examples


def copy_example(source: Any, to: Any, example: int, examples: int) -> None:
    """Give a batch of that many examples one of them as another batch has it, in place."""
    for name, value in to.items():
        if source is not to and is_of_examples(value, examples):
            value[example] = source[name][example]


def truths(batch: Any, features: list[Any], proposals: list[Proposal]) -> Tensor:
    """(B, L) which labels are of the text, and not drawn."""
    places = places_of(batch, features)
    found = torch.ones(batch["input_ids"].shape, dtype=torch.bool)
    for proposal in proposals:
        found[proposal.example, places[proposal.example][proposal.places]] = False
    return found


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All that a model computes with, by name."""
    return {**{n: p.detach() for n, p in model.named_parameters()}, **dict(model.named_buffers())}
