"""How examples become batches: the part of the trainer that makes data loaders."""

import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import datasets
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..batches.collation import ExampleCollator
from ..batches.proposing import plain_of
from ..batches.seeds import AnnounceEpochs, Collator, SeededCollator
from ..errors import DataError
from ..forward.rows import require_examples
from ..teachers.columns import ColumnTeacher
from .proposing import ServeProposals
from .student import RunsStudent


class Loaders(RunsStudent):
    """The part of `DistillationTrainer` that makes data loaders, whose collators draw from seeds of their own."""

    seeded_collator: SeededCollator | None = None  # of training, once there is a data loader
    _example_collator: ExampleCollator | None = None

    def _set_up_loaders(self) -> None:
        self.add_callback(AnnounceEpochs(lambda: self.seeded_collator))
        self.proposals = ServeProposals(lambda: self.data_collator, lambda: self.model)
        self.add_callback(self.proposals)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As `Trainer.get_train_dataloader`; each batch, or each example, is collated under a seed of its own.

        Raises:
            DataError: there are no examples, or fewer than a batch of them and `dataloader_drop_last`.
        """
        require_examples("train_dataset", self.train_dataset)
        collator, dataset = self.data_collator, self.train_dataset
        stream = isinstance(dataset, IterableDataset | datasets.IterableDataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        cached = self.teacher is not None and bool(self.options.teacher_cache)
        repeat = self.options.teacher_cache_epochs if cached else sys.maxsize
        epoch = None if stream else lambda: int(self.state.epoch or 0) % repeat
        self.seeded_collator = SeededCollator(collator, seed, epoch, by_example=cached)
        self.data_collator = self._for_teacher(self.seeded_collator)
        try:
            loader = super().get_train_dataloader()
        finally:
            self.data_collator = collator
        if isinstance(dataset, Sized) and not stream and len(loader) == 0:
            size, fix = len(dataset), "Set dataloader_drop_last=False, or a smaller per_device_train_batch_size."
            raise DataError("dataloader_drop_last", True, f"leaves no batch of {size} examples.", fix)
        return loader

    def get_eval_dataloader(self, eval_dataset: str | Dataset[Any] | None = None) -> DataLoader[Any]:
        """As `Trainer.get_eval_dataloader`; what is drawn for an example depends on `args.seed` and on it alone.

        Raises:
            DataError: there are no examples.
        """
        if eval_dataset is None or isinstance(eval_dataset, str):
            self.require_eval_examples()
        else:
            require_examples("eval_dataset", eval_dataset)
        with self._collating_by_example():
            return super().get_eval_dataloader(eval_dataset)

    def require_eval_examples(self) -> None:
        """Raise a DataError for a set of `eval_dataset` without examples."""
        sets = self.eval_dataset
        for dataset in sets.values() if isinstance(sets, dict) else [sets]:
            require_examples("eval_dataset", dataset)

    def get_test_dataloader(self, test_dataset: Dataset[Any]) -> DataLoader[Any]:
        """As `Trainer.get_test_dataloader`, collated as for evaluation."""
        with self._collating_by_example():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _collating_by_example(self) -> Iterator[None]:
        collator, ours = self.data_collator, self._example_collator
        plain = plain_of(collator)
        if ours is None or ours.collator is not plain or ours.seed != self.args.seed:
            ours = ExampleCollator(plain, self.args.seed)
        self._example_collator, self.data_collator = ours, self._for_teacher(ours)
        try:
            yield
        finally:
            self.data_collator = collator

    def _for_teacher(self, collator: Collator) -> Collator:
        """That collator, and what the teacher reads of the data set beside its batches."""
        return self.teacher.collating(collator) if isinstance(self.teacher, ColumnTeacher) else collator
