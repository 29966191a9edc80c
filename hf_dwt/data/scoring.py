"""Scores of the examples of a data set by what models predict at their rows, kept as `datasets` keeps results."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher
from torch import Tensor, nn

from ..batches.proposing import plain_of
from ..batches.seeds import Collator
from ..errors import TeacherError, VocabularyError
from ..forward.calls import forward_arguments
from ..forward.example_rows import Batches
from ..forward.rows import Rows
from ..objective.chunked import chunks
from ..objective.logits import LinearLogits, Logits, at_least_fp32, cast
from ..tasks import Task, model_class
from ..teachers.cache.keys import teacher_fingerprint
from ..teachers.frozen import FrozenTeacher
from ..teachers.vocabulary import class_count, vocabulary_size
from .criteria import BoundCriterion

SCORE = "score"
AT_ONCE = 1024
"""Examples that are put in order of their length, to be run in batches of about one length."""


def scores_of(dataset: datasets.Dataset, scorer: "Scorer") -> np.ndarray:
    """(n,) scores of the examples, in their order; minus infinity of one without a row that counts."""
    found = dataset.with_format(None).map(
        scorer,
        batched=True,
        batch_size=AT_ONCE,
        remove_columns=dataset.column_names,
        features=datasets.Features({SCORE: datasets.Value("float64")}),
        desc=f"Scoring by {scorer.criterion.record.name}",
    )
    return np.asarray(found[SCORE], dtype=np.float64)


class Scorer:
    """From many examples to their scores, as `datasets.Dataset.map` calls it.

    `datasets` finds earlier results by a digest of what it pickles of the function: here the digests of the models'
    weights, the criterion, the collator and the seed.

    Args:
        criterion: by which rows are scored, and examples by their rows.
        task: of the models.
        teacher: whose predictions are scored.
        student: beside the teacher's, where the criterion needs it; else None.
        collator: of training.
        batch_size: examples that a model takes at a time.
        seed: of what the collator draws, for each example alone.
    """

    def __init__(
        self,
        criterion: BoundCriterion,
        task: Task,
        teacher: nn.Module,
        student: nn.Module | None,
        collator: Collator,
        batch_size: int,
        seed: int,
    ) -> None:
        models = [teacher, *([student] if student is not None else [])]
        self._classes = min(class_count(model, task) for model in models)
        self._models = [FrozenTeacher(model, task, self._classes) for model in models]
        self._devices = [next(model.parameters()).device for model in models]
        read = frozenset({"labels", "label", "label_ids"}).union(*map(forward_arguments, models))
        self.criterion, self._task, self._collator, self._read = criterion, task, collator, read
        self._batch_size, self._seed = batch_size, seed
        parameters = sorted(getattr(criterion.rows, "keywords", {}).items())
        own = [criterion.record.name, parameters, seed, Hasher.hash(plain_of(collator))]
        self._digest = str(Hasher.hash([*own, *(teacher_fingerprint(model) for model in models)]))

    def __getstate__(self) -> str:
        return self._digest

    @torch.no_grad()
    def __call__(self, columns: Mapping[str, list[Any]]) -> dict[str, list[float]]:
        """The scores of examples.

        Raises:
            DataError: they make no batch with labels.
            VocabularyError: a token that a model does not know.
            TeacherError: a model that predicts NaN.
        """
        count = len(next(iter(columns.values())))
        examples = [{name: values[index] for name, values in columns.items()} for index in range(count)]
        batches = Batches(
            examples, self._collator, self._task, self._read, self._batch_size, self._seed, argument="dataset"
        )
        found = [-np.inf] * count
        for batch, rows, indices in batches.on(self._devices[0]):
            self._require_known(batch.get("input_ids"))
            values, owners = self._row_scores(batch, rows).double().cpu().numpy(), rows.examples.cpu().numpy()
            for number, index in enumerate(indices):
                own = values[owners == number]
                if (own := own[~np.isnan(own)]).size:
                    found[index] = float(self.criterion.record.over(own))
        return {SCORE: found}

    def _row_scores(self, batch: Mapping[str, Any], rows: Rows) -> Tensor:
        """(n,) of all rows; NaN where the label is no class of both models."""
        logits = [self._logits(number, batch, rows) for number in range(len(self._models))]
        found = torch.full(rows.labels.shape, torch.nan, device=rows.labels.device)
        for part in chunks(logits[0]) if rows.labels.numel() else []:
            known = rows.labels[part] < self._classes
            labels = rows.labels[part][known]
            both = [at_least_fp32(one[part]).log_softmax(-1).to(labels.device)[known] for one in logits]
            for number, one in enumerate(both):
                if one[:, :1].isnan().any():
                    problem, fix = "predicts NaN, so that nothing can be scored.", "Look for NaN in its weights."
                    raise TeacherError(*self._named(number), problem, fix)
            scores = self.criterion.rows(labels, both[0], both[1] if len(both) > 1 else None)
            found[part] = found[part].masked_scatter(known, scores.to(found.dtype))
        return found

    def _require_known(self, ids: object) -> None:
        for number, model in enumerate(self._models):
            if isinstance(ids, Tensor) and ids.numel() and int(ids.max()) >= (size := vocabulary_size(model.model)):
                problem = f"knows {size} tokens, and dataset has one with the id {int(ids.max())}."
                raise VocabularyError(*self._named(number), problem, "Give a model of the tokenizer of dataset.")

    def _named(self, number: int) -> tuple[str, str]:
        return ("teacher", "student")[number], model_class(self._models[number].model).__name__

    def _logits(self, number: int, batch: Mapping[str, Any], rows: Rows) -> Logits:
        device = self._devices[number]
        placed = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        there = rows._replace(positions=rows.positions.to(device), labels=rows.labels.to(device))
        logits = self._models[number].targets(placed, there).logits
        assert isinstance(logits, Tensor | LinearLogits)  # of a model
        return cast(logits)
