"""A teacher that is run on the student's batches in its own tokens."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import TeacherError
from ...forward.calls import Batch
from ...forward.rows import Rows
from ...objective import Targets
from ...objective.logits import LinearLogits
from ...objective.mapped import MappedLogits, SharedClasses
from ...tasks import Task
from ..protocol import Teacher
from .examples import Crossed, examples_of
from .reading import Reader

_TYPES = "token_type_ids"


class Limits(NamedTuple):
    """What the teacher's text is made of.

    positions: the most tokens that it reads at once, or None.
    mask_id: of its tokenizer, for a masked language model.
    pad_id: of its tokenizer.
    """

    positions: int | None = None
    mask_id: int | None = None
    pad_id: int = 0


class CrossingTeacher:
    """Targets of a teacher of another tokenizer; see `OtherTokenizer`.

    Args:
        teacher: to be run on batches in its own tokens.
        reader: reads the student's tokens as text.
        task: of both.
        classes: what both have in common.
        size: C, the student's classes.
        limits: of the teacher.
    """

    columns = frozenset({"input_ids", "attention_mask", _TYPES})

    def __init__(
        self, teacher: Teacher, reader: Reader, task: Task, classes: SharedClasses, size: int, limits: Limits
    ) -> None:
        self.teacher, self.reader, self.classes = teacher, reader, classes
        self._task, self._size, self._limits = task, size, limits

    def targets(self, batch: Batch, rows: Rows) -> Targets:
        """Targets with log-probabilities (n, C), for the rows that have a counterpart in the teacher's tokens.

        Those of a classifier of texts are the teacher's own.

        Raises:
            DataError: a batch of packed examples, or without token ids.
        """
        examples = [example.read(self.reader) for example in examples_of(batch, self._task)]
        device = rows.labels.device
        read = self._batch(examples, device)
        if self._task.name == "text-classification":
            return self.teacher.targets(read, rows)
        has, own_rows = self._matched(examples, rows, read["input_ids"].shape[1])
        logits = self.teacher.targets(read, own_rows).logits
        if not isinstance(logits, Tensor | LinearLogits):
            problem = f"gives {type(logits).__name__} in place of logits."
            raise TeacherError("teacher", type(self.teacher).__name__, problem, "Give OtherTokenizer a model.")
        self.classes = self.classes.to(device)
        mapped = MappedLogits(logits, has, self.classes, self._size)
        return Targets(mapped, has.to(torch.float32), known=has, divergence=self.classes.kl)

    def _matched(self, examples: list[Crossed], rows: Rows, length: int) -> tuple[Tensor, Rows]:
        """Which of the n rows have a counterpart, and the teacher's rows, m of them, in the same order.

        Args:
            examples: of the batch.
            rows: the student's.
            length: of the teacher's batch, which is as long as the longest: what lies beyond it was cut off.
        """
        known = [not self._task.vocabulary or label in self.reader.shared for label in rows.labels.tolist()]
        row_at = {place: row for row, place in enumerate(rows.positions.tolist()) if known[row]}
        found = [
            (row, number * length + other)
            for number, example in enumerate(examples)
            for own, other in example.pairs(self._task)
            if other < length and (row := row_at.get(number * rows.length + own)) is not None
        ]
        pairs = torch.tensor(found, dtype=torch.long, device=rows.labels.device).reshape(-1, 2)
        has = torch.zeros_like(rows.labels, dtype=torch.bool)
        has[pairs[:, 0]] = True
        return has, Rows(pairs[:, 1], rows.labels[pairs[:, 0]], length)

    def _batch(self, examples: list[Crossed], device: torch.device) -> dict[str, Any]:
        """The examples as a batch of the teacher's, padded behind."""
        limits = self._limits
        ids = [example.ids(limits.mask_id, limits.positions) for example in examples]
        length = max(1, *map(len, ids))

        def padded(values: list[list[int]], filler: int) -> Tensor:
            return torch.tensor([row + [filler] * (length - len(row)) for row in values], device=device)

        batch = {
            "input_ids": padded(ids, limits.pad_id),
            "attention_mask": padded([[1] * len(row) for row in ids], 0),
        }
        types = [example.reading.types[: len(row)] for example, row in zip(examples, ids, strict=True)]
        if any(map(any, types)):
            batch[_TYPES] = padded(types, 0)
        return batch
