"""Fingerprints: of examples as a teacher reads them, of teachers, data and collators.

An example's key is a digest of what the teacher reads of it, of which positions are rows, and of their labels. Two
batches, epochs or runs that show the teacher the same thing find the same entry, and no other: a lookup cannot be out
of step.
"""

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ...adapters import adapter_configs
from ...batches.seeds import feature_bytes
from ...forward.calls import Batch
from ...forward.rows import Rows
from ...tasks import model_class, plain_model
from ..frozen import KnownTokens
from ..placement.layers import every_weight

# Entries of a config about where a model comes from and how it is run, not about what it computes.
_IRRELEVANT = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "use_cache",
        "gradient_checkpointing",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "id2label",
        "label2id",
        "task_specific_params",
        "finetuning_task",
    }
)
_OF_ADAPTERS = frozenset({"base_model_name_or_path", "inference_mode", "peft_version", "revision"})
_LABELS = frozenset({"labels", "label", "label_ids"})
MASK, DECODER = "attention_mask", "decoder_"


def example_keys(batch: Batch, columns: frozenset[str], rows: Rows) -> list[tuple[bytes, int]]:
    """The key of each example that has rows, in order, and how many rows it has.

    Padding outside an example, by its attention mask, is not part of it; a decoder's input ends at the last row.

    Args:
        batch: entries of B examples.
        columns: names of the entries that the teacher reads.
        rows: of the batch.
    """
    read = {
        name: _array(value)
        for name in sorted(columns & batch.keys() - _LABELS)
        if isinstance(value := batch[name], Tensor)
    }
    mask = read.get(MASK)
    if mask is None or mask.ndim != 2:
        mask = None
    decodes = any(name.startswith(DECODER) for name in read)
    positions, labels = rows.positions.cpu().numpy(), rows.labels.cpu().numpy()
    examples, places = np.divmod(positions, rows.length)
    keys = []
    for number in np.unique(examples):
        own = places[examples == number]
        first, last = (0, None) if mask is None else _extent(mask[number])
        digest = hashlib.blake2b(digest_size=16)
        for name, value in read.items():
            if value.ndim == 0 or number >= len(value):
                content = value  # an entry of the batch as a whole
            elif name.startswith(DECODER):
                content = value[number, : own[-1] + 1]
            elif mask is not None and value.shape[:2] == mask.shape:
                content = value[number, first:last]
            else:
                content = value[number]
            digest.update(f"{name}{content.shape}".encode() + np.ascontiguousarray(content).tobytes())
        shift = 0 if decodes or rows.length == 1 else first
        for content in (own - shift, labels[examples == number]):
            digest.update(content.astype("<i8").tobytes())
        keys.append((digest.digest(), len(own)))
    return keys


def _array(tensor: Tensor) -> np.ndarray:
    """As an array; integers of every width and truth values as one type, so that they compare."""
    plain = tensor.detach().cpu()
    return (plain.float() if plain.is_floating_point() else plain.long()).numpy()


def _extent(mask: np.ndarray) -> tuple[int, int]:
    """Where an example begins and ends in its padding."""
    (inside,) = np.nonzero(mask)
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)


def teacher_fingerprint(model: nn.Module, known: KnownTokens | None = None) -> str:
    """A digest of what a model computes: its config and those of its adapters as far as they matter, and its weights
    in their type.

    known: the tokens that it knows, and which it reads in place of others, where there are others.
    """
    config = plain_model(model).config
    relevant = {name: value for name, value in config.to_dict().items() if name not in _IRRELEVANT}
    digest = hashlib.blake2b(model_class(model).__name__.encode(), digest_size=16)
    digest.update(json.dumps(relevant, sort_keys=True, default=str).encode())
    digest.update(b"" if known is None else f"{tuple(known)}".encode())
    for name, adapter in adapter_configs(model).items():  # its scale is in no weight
        relevant = {key: value for key, value in adapter.to_dict().items() if key not in _OF_ADAPTERS}
        digest.update(json.dumps([name, relevant], sort_keys=True, default=_plain).encode())
    for name, tensor in every_weight(model):
        digest.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(value: object) -> object:
    """For JSON: a set is written in the same order each time."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def data_fingerprint(features: Iterable[object], columns: frozenset[str], some: int) -> tuple[str, list[int]]:
    """A digest of a data set that does not depend on the order of its examples, and the indices of some of them.

    Args:
        features: the examples, before collating.
        columns: names that the teacher reads; other entries of an example do not matter.
        some: how many indices: the same examples in whatever order the data set is.
    """
    total, digests = 0, []
    for feature in features:
        if isinstance(feature, Mapping) and (known := feature.keys() & (columns | _LABELS)):
            feature = {name: feature[name] for name in known}
        digests.append(hashlib.blake2b(feature_bytes(feature), digest_size=16).digest())
        total += int.from_bytes(digests[-1], "little")
    chosen = heapq.nsmallest(some, range(len(digests)), key=digests.__getitem__)
    return f"{len(digests)}-{total % 2**128:032x}", chosen
