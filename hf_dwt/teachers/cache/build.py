"""Making a teacher cache: once, before the first step, by all processes together."""

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerCallback

from ...data.seeds import SeededCollator
from ...errors import CacheError, DistillationError, TeacherError, raise_all
from ...forward.rows import Rows
from ...objective import Targets
from ..frozen import FrozenTeacher
from .formats import AUTO, FORMATS, Codec, choose_format, format_names
from .keys import data_fingerprint, example_keys, fetched, teacher_fingerprint
from .read import CachedTeacher, Folder
from .store import Entry, Store, shard_files, write_shard

logger = logging.getLogger(__name__)

SHARD_BYTES = 64 << 20
_PROBED = 64  # examples collated to see what the collator does


class CacheBuilt(SystemExit):
    """Raised in place of the first step where only the cache was wanted."""


class UseCache(TrainerCallback):
    """Opens the teacher's cache when training starts, makes what it lacks, and hands it to the trainer.

    Args:
        trainer: with the cache's settings in `options`, its teacher, and the collator of training.

    Attributes:
        only: training ends with `CacheBuilt` as soon as the cache is there.

    Raises:
        CacheError: data or collator cannot be cached, or the cache does not fit the run or the disk.
    """

    only = False

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, loader = self._trainer, kwargs["train_dataloader"]
        trainer.cached_teacher = None
        raise_all(cache_problems(trainer.teacher, trainer.options.teacher_cache))
        if trainer.options.soft_weight > 0:
            builder = Builder(trainer, loader)
            heard = _heard_epochs(trainer, len(loader), trainer.options.teacher_cache_epochs if builder.draws else 1)
            trainer.cached_teacher = builder.ready(heard) if heard else None
        if self.only:
            raise CacheBuilt(0)


def cache_problems(teacher: Any, folder: str | None) -> list[DistillationError]:
    """A cache that is wanted without a folder, or of a teacher that is no model, loaded or not."""
    if not folder and UseCache.only:
        fix = "Add --teacher_cache DIR to the script's flags, or teacher_cache=DIR to its arguments."
        return [CacheError("teacher_cache", folder, "names no folder, so no cache can be made.", fix)]
    if folder and not isinstance(teacher, str | os.PathLike | nn.Module | FrozenTeacher):
        problem = f"cannot keep what a {type(teacher).__name__} answers: only a model can be fingerprinted."
        return [CacheError("teacher_cache", folder, problem, "Give a model, its id or path, or no teacher_cache.")]
    return []


def _heard_epochs(trainer: Any, batches: int, repeat: int) -> set[int]:
    """The epochs of masks, which repeat after `repeat`, in which the teacher is heard from here on."""
    state, of_epoch = trainer.state, max(1, math.ceil(batches / trainer.args.gradient_accumulation_steps))
    heard: set[int] = set()
    for step in range(state.global_step, state.max_steps):
        epoch = step // of_epoch % repeat
        if epoch not in heard and trainer._weights(step).soft > 0:
            heard.add(epoch)
        if len(heard) == repeat:
            break
    return heard


class Builder:
    """What a cache is made of and how.

    Args:
        trainer: whose data, collator and teacher.
        loader: the data loader of training.
    """

    def __init__(self, trainer: Any, loader: Any) -> None:
        self._trainer, self._collate, self._dataset = trainer, loader.collate_fn, loader.dataset
        self._teacher: FrozenTeacher = trainer.teacher
        self._seeded: SeededCollator = trainer.seeded_collator
        if not hasattr(self._dataset, "__len__") or not hasattr(self._dataset, "__getitem__"):
            raise CacheError(
                "train_dataset",
                type(self._dataset).__name__,
                "is a stream, of which no example comes twice.",
                "Train without teacher_cache, or on a data set of known length.",
            )
        with self._drawing(0, 0):
            self._probe()
        self._made_of["seed"] = self._seeded.seed if self._seeded.draws else None

    @property
    def draws(self) -> bool:
        """Whether the collator draws masks, so that an example differs between epochs."""
        return self._seeded.draws

    def ready(self, epochs: set[int]) -> CachedTeacher:
        """The cache with those epochs of masks, made as far as it lacks them."""
        trainer, options = self._trainer, self._trainer.options
        wait = trainer.accelerator.wait_for_everyone
        path = Path(options.teacher_cache)
        name = Folder(path, {}).form if options.teacher_cache_form == AUTO else None
        settings = options.teacher_cache_k, options.temperature
        name = name if name in FORMATS else options.teacher_cache_form
        chosen, codec = choose_format(name, trainer.task.vocabulary, self._sample, *settings)
        folder = Folder(path, {**self._made_of, "form": chosen.name, **codec.settings})
        folder.check()
        missing = epochs - folder.epochs
        wait()  # all have seen the folder as it was
        if missing:
            if trainer.is_world_process_zero():
                folder.begin()
            wait()
            self._check_room(folder, codec, missing)
            self._make(folder, codec, missing)
            wait()
            if trainer.is_world_process_zero():
                folder.finish(missing)
            wait()
        store = Store(path, folder.fingerprint)
        if missing and trainer.is_world_process_zero():
            logger.info("The teacher's cache %s has %d rows of %d examples.", path, store.rows, len(store))
        return CachedTeacher(store, codec, self._teacher.columns, trainer.args.device)

    # ---- what it is made of ----

    def _probe(self) -> None:
        """Fingerprint data and collator, and see that they give an example the same content each time."""
        columns = self._teacher.columns
        length = len(self._dataset)
        features = tqdm(
            fetched(self._dataset, range(length)), "Reading the data", length, delay=5, disable=self._quiet
        )
        data, chosen = data_fingerprint(features, columns, _PROBED)
        some = list(fetched(self._dataset, chosen))
        batch, rows = self._batch(some)
        keys = example_keys(batch, columns, rows)
        again = example_keys(*self._arguments(some))
        alone = [key for feature in some[:8] for key in example_keys(*self._arguments([feature]))]
        if self._seeded.draws and not self._seeded.by_example:
            problem = "draws for a batch as a whole and not for each example."
        elif keys != again:
            problem = "gives the same examples another content the second time, from a generator of its own."
        elif alone != keys[: len(alone)]:
            problem = "gives an example another content beside others than alone."
        else:
            problem = ""
        if problem:
            raise CacheError(
                "data_collator",
                type(self._seeded.collator).__name__,
                problem + " What is cached would not be met again.",
                "Use one that draws from the global generators (without seed=) and returns an attention_mask; "
                "or train without teacher_cache.",
            )
        self._rows_per_example = sum(count for _, count in keys) / max(1, len(some))
        self._sample: Targets = self._teacher.targets(batch, rows)
        self._made_of: dict[str, Any] = {
            "teacher": teacher_fingerprint(self._teacher.model, self._teacher.known),
            "data": data,
            "precision": self._trainer.accelerator.mixed_precision,
            "collator": hashlib.blake2b(b"".join(key for key, _ in keys), digest_size=16).hexdigest(),
        }

    def _arguments(self, features: list[Any]) -> tuple[dict[str, Any], frozenset[str], Rows]:
        batch, rows = self._batch(features)
        return batch, self._teacher.columns, rows

    def _batch(self, features: list[Any]) -> tuple[dict[str, Any], Rows]:
        """Examples as the trainer would hand them to the teacher."""
        batch = self._trainer._prepare_inputs(self._collate(features))
        return self._trainer._with_decoder_inputs(batch), self._trainer._rows(batch)

    @contextmanager
    def _drawing(self, seed: int, epoch: int) -> Iterator[None]:
        """Within it the collator draws the masks of that seed and epoch."""
        before = self._seeded.seed, self._seeded.epoch
        self._seeded.seed, self._seeded.epoch = seed, lambda: epoch
        try:
            yield
        finally:
            self._seeded.seed, self._seeded.epoch = before

    @property
    def _quiet(self) -> bool:
        return self._trainer.args.disable_tqdm or not self._trainer.is_world_process_zero()

    # ---- making it ----

    def _check_room(self, folder: Folder, codec: Codec, epochs: set[int]) -> None:
        """Raise a CacheError if the disk cannot hold those epochs beside what is there."""
        examples = len(self._dataset) * len(epochs | folder.epochs)
        needed = examples * (self._rows_per_example * codec.bytes_per_row + 24)
        room = shutil.disk_usage(folder.path).free + sum(path.stat().st_size for path in shard_files(folder.path))
        if needed > room:
            raise CacheError(
                "teacher_cache",
                str(folder.path),
                f"needs about {needed / 1e9:.3g} GB, and there is room for {room / 1e9:.3g} GB.",
                f"Use another teacher_cache_form ({', '.join(format_names())}), "
                "fewer teacher_cache_epochs, or another disk.",
            )

    def _make(self, folder: Folder, codec: Codec, epochs: set[int]) -> None:
        """Store this process's share of the examples, but for those that are stored already."""
        args = self._trainer.args
        store = Store(folder.path, folder.fingerprint)
        mine = range(args.process_index, len(self._dataset), args.world_size)
        size = max(args.per_device_train_batch_size, args.per_device_eval_batch_size)
        total = len(mine) * len(epochs)
        with tqdm(desc="Caching the teacher", total=total, unit=" examples", disable=self._quiet) as bar:
            fresh = _Fresh(folder)
            for epoch in sorted(epochs):
                with self._drawing(self._seeded.seed, epoch):
                    for start in range(0, len(mine), size):
                        features = list(fetched(self._dataset, mine[start : start + size]))
                        self._store(features, codec, store, fresh)
                        bar.update(len(features))
            fresh.flush()

    def _store(self, features: list[Any], codec: Codec, store: Store, fresh: "_Fresh") -> None:
        batch, rows = self._batch(features)
        keys = example_keys(batch, self._teacher.columns, rows)
        if all(key in store or key in fresh.keys for key, _ in keys):
            return
        targets, start = self._teacher.targets(batch, rows), 0
        for key, count in keys:
            part = slice(start, start := start + count)
            if key not in store and key not in fresh.keys:
                entry = Entry(key, codec.encode(targets, part, rows.labels[part], key))
                if not all(np.isfinite(value).all() for value in entry.values.values()):
                    raise TeacherError(
                        "teacher_model",
                        type(self._teacher.model).__name__,
                        "gives NaN or infinite values for an example of the training data: nothing to learn from.",
                        "Check its weights, or load it with teacher_model_init_kwargs={'dtype': 'float32'}.",
                    )
                fresh.add(entry)


class _Fresh:
    """Entries that are not on disk yet."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._entries, self._bytes = folder, list[Entry](), 0
        self.keys: set[bytes] = set()

    def add(self, entry: Entry) -> None:
        self.keys.add(entry.key)
        self._entries.append(entry)
        self._bytes += entry.size
        if self._bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._entries:
            write_shard(self._folder.path, self._entries, self._folder.fingerprint)
        self._entries, self._bytes = [], 0
