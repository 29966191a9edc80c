"""Collating for evaluation: what is drawn for an example does not depend on what is beside it."""

import copy
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase

from ..tasks import Task
from .padding import differ_in_length, equal, laid_into, stacked
from .proposing import plain_of
from .row_draws import RowDraws
from .seeds import Collator, batch_seed, kept_random_state, random_state, seed_generators

logger = logging.getLogger(__name__)


class ExampleCollator:
    """A data collator that draws for each example from a seed of (run, example), for about what it costs anyway.

    It is called for the batch as a whole, while torch draws each row from the stream of its example (`RowDraws`). That
    this gives what the collator gives for each example alone is tried: on the first batch, on the first whose examples
    differ in length, and whenever the number of draws changes. Where it does not, or where something else is drawn
    from (numpy, `random`), each example is collated by itself from then on, which takes three to four times as long.
    A batch that is no batch of texts, or whose examples are packed into one, then has one seed as a whole.

    Args:
        collator: the data collator; of one that makes text of its own, the plain one.
        seed: of the run.
    """

    def __init__(self, collator: Collator, seed: int) -> None:
        self.collator, self.seed = plain_of(collator), seed
        self._at_once, self._by_example, self._calls = True, True, 0
        self._tried: dict[bool, int] = {}  # whether lengths differ -> tensors that were drawn

    def __call__(self, features: list[Any]) -> Any:
        if self._at_once:
            return self._rows_at_once(features)
        with kept_random_state():
            return self._one_by_one(features)

    def _rows_at_once(self, features: list[object]) -> object:
        self._calls += 1
        rare = self._calls & (self._calls - 1) == 0  # reading the generators takes a fifth of a small batch's time
        draws = RowDraws(len(features), lambda: [self._seed_of(feature) for feature in features])
        with kept_random_state() if rare else nullcontext():
            before = random_state() if rare else ()
            with draws:
                batch = self._collated(features)
            self._at_once = not rare or random_state() == before
        ragged = differ_in_length(features)
        if self._at_once and (len(features) == 1 or draws.count in (0, self._tried.get(ragged))):
            return batch
        with kept_random_state():
            alone = self._one_by_one(features)
        self._at_once = self._at_once and equal(batch, alone)
        self._tried[ragged] = draws.count
        return alone

    def _one_by_one(self, features: list[object]) -> object:
        if self._by_example:
            alone = [self._alone(feature) for feature in features]
            if len(alone) == 1:
                return alone[0]
            if (batch := stacked(alone)) is not None:
                return batch
            if (batch := laid_into(self._collated(features), alone)) is not None:
                return batch
            self._by_example = False
            logger.warning(
                "data_collator=%s draws for a batch as a whole: figures depend on per_device_eval_batch_size.",
                type(self.collator).__name__,
            )
        seed_generators(batch_seed(self.seed, 0, features))
        return self._collated(features)

    def _alone(self, feature: object) -> object:
        seed = self._seed_of(feature)
        seed_generators(seed)
        with RowDraws(1, lambda: [seed]):
            return self._collated([feature])

    def _collated(self, features: list[object]) -> object:
        # A collator may take columns out of its examples, and is called for some of them twice.
        return self.collator([_copied(feature) for feature in features])

    def _seed_of(self, feature: object) -> int:
        return batch_seed(self.seed, 0, [feature])


def _copied(feature: object) -> object:
    if type(feature) is dict:
        return dict(feature)  # many times faster than copy.copy
    return copy.copy(feature) if isinstance(feature, Mapping) else feature


def default_collator(task: Task, tokenizer: PreTrainedTokenizerBase | None) -> Collator:
    """The collator of transformers for the task."""
    if tokenizer is None:
        return transformers.default_data_collator
    if task.auto_class in ("AutoModelForMaskedLM", "AutoModelForCausalLM"):
        return transformers.DataCollatorForLanguageModeling(tokenizer, mlm=task.auto_class == "AutoModelForMaskedLM")
    kinds = {
        "AutoModelForSeq2SeqLM": transformers.DataCollatorForSeq2Seq,
        "AutoModelForTokenClassification": transformers.DataCollatorForTokenClassification,
    }
    collator: Collator = kinds.get(task.auto_class, transformers.DataCollatorWithPadding)(tokenizer)
    return collator
