"""The rows of all examples of a data set, in batches: each example with the same labels, whatever is beside it."""

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..batches.collation import ExampleCollator
from ..batches.examples import Examples, fetched
from ..batches.seeds import Collator
from ..errors import DataError, DistillationError, first_line
from ..tasks import IGNORED, Task
from .calls import Batch
from .rows import Rows, select_rows


class Part(NamedTuple):
    """A batch, its rows, and which examples of the data set it is made of, in its order."""

    batch: Batch
    rows: Rows
    indices: list[int]


class Batches:
    """The batches of a data set, in the order of the examples' lengths, which takes the least padding.

    What a collator draws for an example depends on the seed and the example alone, so that masks are the same in
    every pass and whatever the size of batches.

    Args:
        dataset: of known length.
        collator: of training.
        task: of the model.
        columns: those that models read; others do not get to the collator. None keeps all.
        batch_size: examples of a batch.
        seed: of what the collator draws.
        argument: the name of `dataset` for errors.
        labelled: whether labels that examples have beside their tokens are taken as they are, without the collator.

    Raises:
        DataError: some examples have such labels, and others have not, or as many as there are no tokens.

    Attributes:
        count: of the examples.
        counts: (count,) rows of each example, once its batch was made.
    """

    def __init__(
        self,
        dataset: Examples,
        collator: Collator,
        task: Task,
        columns: frozenset[str] | None,
        batch_size: int,
        seed: int,
        argument: str,
        labelled: bool = False,
    ) -> None:
        self.count, self.counts = len(dataset), np.zeros(len(dataset), dtype=np.int64)
        self._dataset, self._collator = dataset, ExampleCollator(collator, seed)
        self._task, self._columns, self._size = task, columns, batch_size
        self._argument = argument
        lengths, has_labels = [], []
        for number, example in enumerate(fetched(dataset, range(self.count))):
            if labelled and task.by_position and task.auto_class != "AutoModelForSeq2SeqLM":
                _require_beside(example, number, argument)
            lengths.append(_length(example))
            has_labels.append(labelled and _has_labels(example))
        if any(has_labels) and not all(has_labels):
            problem = f"has no labels at {has_labels.index(False)}, and others have their own."
            raise DataError(argument, f"{self.count} examples", problem, "Give all of them labels, or none.")
        self._labelled = any(has_labels)
        self._order = sorted(range(self.count), key=lambda index: (lengths[index], index))

    def on(self, device: torch.device) -> Iterator[Part]:
        """Each batch, on that device.

        Raises:
            DataError: batches without labels, or without a row for each example.
        """
        for start in range(0, self.count, self._size):
            indices = self._order[start : start + self._size]
            batch = self._collated([self._kept(one) for one in fetched(self._dataset, indices)])
            if not isinstance(batch, Mapping) or not isinstance(batch.get("labels"), Tensor):
                names = ", ".join(sorted(batch)) if isinstance(batch, Mapping) else type(batch).__name__
                problem = f"has no labels: its batches have {names}."
                raise DataError(self._argument, f"{self.count} examples", problem, "Add labels, or a data_collator.")
            if len(batch["labels"]) != len(indices):
                problem = (
                    f"makes {len(batch['labels'])} rows of {len(indices)} examples, so that none can be told apart."
                )
                fix = "Use a collator that makes one row of each, as DataCollatorForLanguageModeling does."
                raise DataError("data_collator", type(self._collator.collator).__name__, problem, fix)
            placed = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
            rows = select_rows(placed["labels"], self._task.shifts)
            self.counts[indices] = torch.bincount(rows.examples, minlength=len(indices)).cpu().numpy()
            yield Part(placed, rows, indices)

    def _kept(self, example: object) -> object:
        if self._columns is None or not isinstance(example, Mapping):
            return example
        return {name: value for name, value in example.items() if name in self._columns}

    def _collated(self, examples: list[Any]) -> Any:
        try:
            return padded(examples) if self._labelled else self._collator(examples)
        except DistillationError:
            raise
        except Exception as error:
            raise self._no_batch(examples, error) from error

    def _no_batch(self, examples: Sequence[object], error: Exception) -> DataError:
        names = sorted({name for one in examples if isinstance(one, Mapping) for name in one})
        kind = "no column that models read" if isinstance(examples[0], Mapping) else type(examples[0]).__name__
        by = "" if self._labelled else f" by {type(self._collator.collator).__name__}"
        why = f"{type(error).__name__}: {first_line(error).rstrip('.')}."
        problem = f"cannot be made a batch{by} from {', '.join(names) or kind}: {why}"
        fix = "Give tokenized examples, whose columns are lists of numbers."
        return DataError(self._argument, f"{self.count} examples", problem, fix)


def padded(examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """(B, L) columns of examples whose labels stand beside their tokens, padded on the right."""
    longest = max(len(example["input_ids"]) for example in examples)
    masked = [{"attention_mask": [1] * len(one["input_ids"]), **one} for one in examples]
    names = [name for name in masked[0] if all(_beside(one, name) for one in masked)]

    def column(name: str) -> Tensor:
        filler = IGNORED if name == "labels" else 0
        return torch.tensor([[*one[name], *[filler] * (longest - len(one[name]))] for one in masked])

    return {name: column(name) for name in names}


def _beside(example: Mapping[str, Any], name: str) -> bool:
    """Whether a column has an entry for each token."""
    return _size(example.get(name)) == _size(example["input_ids"]) is not None


def _has_labels(example: object) -> bool:
    return isinstance(example, Mapping) and "input_ids" in example and _beside(example, "labels")


def _require_beside(example: object, number: int, argument: str) -> None:
    """Raise a DataError for labels that are not as many as tokens: a collator may make others of its own instead."""
    read = example.get if isinstance(example, Mapping) else lambda _: None
    tokens, labels = _size(read("input_ids")), _size(read("labels"))
    if tokens is not None and labels not in (None, tokens):
        problem = f"has {labels} labels for {tokens} tokens at {number}."
        fix = "Give a label for each token, -100 where a token is no answer."
        raise DataError(argument, f"example {number}", problem, fix)


def _length(example: object) -> int:
    return (_size(example.get("input_ids")) if isinstance(example, Mapping) else None) or 0


def _size(value: object) -> int | None:
    """How many entries a column of an example has; None for a number."""
    try:
        return len(value) if isinstance(value, Sized) else None
    except TypeError:  # a tensor of no dimension
        return None
