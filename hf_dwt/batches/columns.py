"""Ragged columns of a data set, beside the batches of a collator that does not know them.

Shapes: B examples, N tokens of all of them together, L positions of a batch's row, K the most classes of a position.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .seeds import Collator

Feature: TypeAlias = Mapping[str, Any]

ABSENT = -1000.0
"""A log-probability below it stands for no class: axolotl pads with -1e9, vLLM's server writes -9999 for -inf."""
ROUNDING = 0.02
"""By how much probabilities that were stored as bf16 logarithms may sum to more than 1."""


@dataclass(frozen=True)
class TopKColumns:
    """The columns with some classes of each position and their log-probabilities.

    ids, logprobs, mask: names of columns: for each token a list of k classes, one of their log-probabilities, and one
        of 0 where an entry does not count (or None for no such column). k may differ; a token may have None.
    ahead: whether the entry of a token is the distribution that is predicted one position before it.
    classes: ids are below it.
    """

    ids: str
    logprobs: str
    mask: str | None
    ahead: bool
    classes: int

    @property
    def names(self) -> frozenset[str]:
        """Of the columns."""
        return frozenset({self.ids, self.logprobs, self.mask} - {None})  # type: ignore[arg-type]

    def read(self, features: Sequence[Feature]) -> tuple[np.ndarray, np.ndarray]:
        """(N, K) classes and log-probabilities, the most likely first; minus infinity where there is no class.

        Raises:
            DataError: what stands there is no such thing.
        """
        for number, feature in enumerate(features):
            self._require_lengths(number, feature)
        counts, ids = self._flat(features, self.ids, np.int64)
        log_probs = self._beside(features, self.logprobs, np.float32, counts)
        if self.mask is not None:
            log_probs = np.where(self._beside(features, self.mask, np.int64, counts) != 0, log_probs, -np.inf)
        taken = np.arange(max(1, counts.max(initial=0))) < counts[:, None]
        table, values = np.zeros(taken.shape, np.int64), np.full(taken.shape, -np.inf, np.float32)
        table[taken], values[taken] = ids, log_probs
        values[values < ABSENT] = -np.inf
        if (values[:, 1:] > values[:, :-1]).any():
            order = np.argsort(-values, axis=1, kind="stable")
            table, values = np.take_along_axis(table, order, 1), np.take_along_axis(values, order, 1)
        return self._checked(features, table, values)

    def _checked(
        self, features: Sequence[Feature], table: np.ndarray, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same, with sums that are at most 1."""
        there = ~np.isneginf(values)

        def require(right: Any, column: str, problem: str, fix: str) -> None:
            if (wrong := np.flatnonzero(~right)).size:
                self._refuse(features, wrong[0], column, problem, fix)

        numbers = ~np.isnan(values)
        require(
            numbers.all(1), self.logprobs, "has NaN.", "Drop such entries: None or an empty list stands for no entry."
        )
        known = ((table >= 0) & (table < self.classes)) | ~there
        problem = f"has an id that is none of the student's {self.classes} classes, 0 to {self.classes - 1}."
        require(known.all(1), self.ids, problem, "The teacher must have had the student's tokenizer.")
        table = np.where(there, table, -1)
        ordered = np.sort(table, axis=1)
        single = ((ordered[:, 1:] != ordered[:, :-1]) | (ordered[:, 1:] < 0)).all(1)
        require(single, self.ids, "has an id twice.", "Give each class once, and mark padding in a mask column.")
        with np.errstate(over="ignore"):
            total = np.exp(values.astype(np.float64)).sum(1, keepdims=True)
        problem = "has probabilities that sum to more than 1: these are no natural logarithms of probabilities."
        require(total[:, 0] <= 1.0 + ROUNDING, self.logprobs, problem, "Give log-probabilities at temperature 1.")
        over = np.log(np.maximum(total, 1.0)).astype(np.float32)
        return np.where(there, table, 0), values - over

    def _require_lengths(self, number: int, feature: Feature) -> None:
        tokens = len(feature["input_ids"])
        for name in (self.ids, self.logprobs, *([self.mask] if self.mask else [])):
            column = feature[name]
            if column is not None and len(column) != tokens:
                problem = f"has {len(column)} entries for the {tokens} tokens of {_named(number, feature)}."
                fix = "Give one for each token of input_ids, None where there is none: tokenize and cut both alike."
                raise DataError(name, f"{len(column)} entries", problem, fix)

    def _beside(self, features: Sequence[Feature], name: str, kind: type, counts: np.ndarray) -> np.ndarray:
        """The entries of a column in one row, as many of each token as there are ids."""
        own, values = self._flat(features, name, kind)
        if (wrong := np.flatnonzero(own != counts)).size:
            problem = f"has {own[wrong[0]]} numbers where {self.ids} has {counts[wrong[0]]}."
            self._refuse(features, wrong[0], name, problem, "Give one for each class.")
        return values

    def _flat(self, features: Sequence[Feature], name: str, kind: type) -> tuple[np.ndarray, np.ndarray]:
        """(N,) numbers of entries of each token, and the entries of all of them in one row."""
        counts: list[np.ndarray] = []
        values: list[np.ndarray] = []
        for number, feature in enumerate(features):
            column, tokens = feature[name], len(feature["input_ids"])
            try:
                own, flat = _entries(column, tokens, kind)
            except (TypeError, ValueError, OverflowError) as error:
                problem = f"of {_named(number, feature)} is no list of lists of numbers ({error})."
                raise DataError(name, column, problem, "Give a list of numbers for each token, or None.") from error
            counts.append(own)
            values.append(flat)
        return np.concatenate(counts), np.concatenate(values)

    def _refuse(self, features: Sequence[Feature], token: int, column: str, problem: str, fix: str) -> NoReturn:
        for number, feature in enumerate(features):
            if token < (tokens := len(feature["input_ids"])):
                value = None if feature[column] is None else feature[column][token]
                where = f"{column}[{int(token)}]"
                raise DataError(where, value, f"of {_named(number, feature)} {problem}", fix)
            token -= tokens
        raise AssertionError(token)


def _entries(column: Any, tokens: int, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """(tokens,) numbers of entries, and the entries in one row."""
    if column is None:
        return np.zeros(tokens, np.int64), np.zeros(0, kind)
    if isinstance(column, np.ndarray | Tensor) and column.ndim == 2:
        flat = np.asarray(column)
        return np.full(tokens, flat.shape[1], np.int64), flat.reshape(-1).astype(kind)
    counts = np.fromiter((0 if entry is None else len(entry) for entry in column), np.int64, tokens)
    every = chain.from_iterable(entry for entry in column if entry is not None)
    return counts, np.fromiter(every, kind, int(counts.sum()))


def _named(number: int, feature: Feature) -> str:
    first = ", ".join(str(int(token)) for token in feature["input_ids"][:4])
    return f"example {number} of a batch (input_ids {first}, ...)"


class ColumnCollator:
    """A data collator beside which the columns are laid into the batch.

    The collator gets examples without them. A batch gets `ids` (B, L, K) and `logprobs` (B, L, K), whose fp32 bits
    are those of an int32, at the positions at which they are predicted; a batch whose examples have no such columns
    stays as it is.

    Args:
        collator: from examples to a batch of one row each, padded on either side.
        columns: what is laid beside it.
    """

    def __init__(self, collator: Collator, columns: TopKColumns) -> None:
        self.collator, self.columns = collator, columns

    def __call__(self, features: list[Any]) -> Any:
        names = self.columns.names
        found = [names & feature.keys() if isinstance(feature, Mapping) else frozenset() for feature in features]
        if not any(found):
            return self.collator(features)
        for number, (own, feature) in enumerate(zip(found, features, strict=True)):
            if own != names or "input_ids" not in feature:
                missing = sorted(({"input_ids"} | names) - feature.keys())
                problem = f"is no column of example {number} of a batch, of which it has {', '.join(sorted(feature))}."
                raise DataError(missing[0], None, problem, "Give all examples the same columns; None for no entry.")
        batch = self.collator([{n: v for n, v in feature.items() if n not in names} for feature in features])
        places = places_of(batch, features)
        table, values = self.columns.read(features)
        shape = (*batch["input_ids"].shape, table.shape[1])
        ids, log_probs = np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32)
        start, ahead = 0, int(self.columns.ahead)
        for row, place in enumerate(places):
            to, end = place[: len(place) - ahead], start + len(place)
            ids[row, to], log_probs[row, to] = table[start + ahead : end], values[start + ahead : end]
            start = end
        batch[self.columns.ids] = torch.from_numpy(ids)
        # As integers: under DeepSpeed the Trainer casts whatever is floating point to the type of the model.
        batch[self.columns.logprobs] = torch.from_numpy(log_probs).view(torch.int32)
        return batch


def log_probs_of(batch: Mapping[str, Any], name: str) -> Tensor:
    """(B, L, K) log-probabilities of a batch of `ColumnCollator`."""
    bits: Tensor = batch[name]
    return bits.view(torch.float32)


def places_of(batch: Any, features: Sequence[Feature]) -> list[np.ndarray]:
    """Where in its row of the batch the tokens of each example stand, by the batch's attention mask.

    Raises:
        DataError: the batch has not a row for each example.
    """
    ids = batch.get("input_ids") if isinstance(batch, MutableMapping) else None
    if not isinstance(ids, Tensor) or ids.dim() != 2 or len(ids) != len(features):
        shape = tuple(ids.shape) if isinstance(ids, Tensor) else None
        problem = (
            f"is no batch with a row for each of {len(features)} examples, so their columns cannot be laid on it."
        )
        raise DataError("data_collator", f"input_ids of shape {shape}", problem, _PADDING)
    mask = batch.get("attention_mask")
    kept = mask.numpy(force=True) != 0 if isinstance(mask, Tensor) and mask.shape == ids.shape else None
    places = []
    for number, feature in enumerate(features):
        tokens, length = len(feature["input_ids"]), ids.shape[1]
        place = np.arange(length) if tokens == length or kept is None else np.flatnonzero(kept[number])
        if len(place) != tokens:
            problem = f"holds {len(place)} positions in place of the {tokens} tokens of {_named(number, feature)}."
            raise DataError(
                "data_collator", f"a row of the batch, attention_mask={mask is not None}", problem, _PADDING
            )
        places.append(place)
    return places


_PADDING = "Use one that pads each example to a row and gives an attention_mask; cut and pack examples before."
