"""Making a teacher cache: once, before the first step, by all processes together."""

import hashlib
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from tqdm.auto import tqdm

from ...batches.examples import Examples, fetched
from ...batches.seeds import SeededCollator
from ...errors import CacheError, TeacherError
from ...forward.calls import Batch
from ...forward.rows import Rows
from ...objective import Targets
from ..frozen import FrozenTeacher
from .formats import AUTO, FORMATS, Codec, choose_format, format_names
from .keys import data_fingerprint, example_keys, teacher_fingerprint
from .read import CachedTeacher, Folder
from .request import CacheSettings, Surroundings
from .store import Entry, Store, shard_files, write_shard

logger = logging.getLogger(__name__)

SHARD_BYTES = 64 << 20
_PROBED = 64  # examples collated to see what the collator does


class CacheBuilder:
    """What a cache is made of and how.

    Args:
        teacher: whose targets are stored.
        dataset: the training data.
        collator: the collator of training, which draws masks for each example by itself.
        batch_of: from examples to the batch that the teacher would be given in training, and its rows.
        settings: what the user has set.
        run: the run that it is made in.

    Raises:
        CacheError: data or collator cannot be cached.
    """

    def __init__(
        self,
        teacher: FrozenTeacher,
        dataset: object,
        collator: SeededCollator,
        batch_of: Callable[[list[object]], tuple[Batch, Rows]],
        settings: CacheSettings,
        run: Surroundings,
    ) -> None:
        if not isinstance(dataset, Examples):
            raise CacheError(
                "train_dataset",
                type(dataset).__name__,
                "is a stream, of which no example comes twice.",
                "Train without teacher_cache, or on a data set of known length.",
            )
        self._teacher, self._dataset, self._collator, self._batch_of = teacher, dataset, collator, batch_of
        self._settings, self._run = settings, run
        with self._drawing(0, 0):
            self._probe()
        self._made_of["seed"] = collator.seed if collator.draws else None

    @property
    def draws(self) -> bool:
        """Whether the collator draws masks, so that an example differs between epochs."""
        return self._collator.draws

    def ready(self, epochs: set[int]) -> CachedTeacher:
        """The cache with those epochs of masks, made as far as it lacks them.

        Raises:
            CacheError: the folder has a cache of something else or a broken one, or the disk has no room.
            TeacherError: the teacher gives NaN or infinite values.
        """
        settings, run = self._settings, self._run
        path = settings.folder
        name = Folder(path, {}).form if settings.form == AUTO else None
        name = name if name in FORMATS else settings.form
        chosen, codec = choose_format(name, run.vocabulary, self._sample, settings.k, settings.temperature)
        folder = Folder(path, {**self._made_of, "form": chosen.name, **codec.settings})
        folder.check()
        missing = epochs - folder.epochs
        run.wait()  # all have seen the folder as it was
        if missing:
            self._fill(folder, codec, missing)
        store = Store(path, folder.fingerprint)
        if missing and run.rank == 0:
            logger.info("The teacher's cache %s has %d rows of %d examples.", path, store.rows, len(store))
        return CachedTeacher(store, codec, self._teacher.columns, run.device)

    # ---- what it is made of ----

    def _probe(self) -> None:
        """Fingerprint data and collator, and see that they give an example the same content each time."""
        columns = self._teacher.columns
        length = len(self._dataset)
        quiet = self._run.quiet
        features = tqdm(fetched(self._dataset, range(length)), "Reading the data", length, delay=5, disable=quiet)
        data, chosen = data_fingerprint(features, columns, _PROBED)
        some = list(fetched(self._dataset, chosen))
        batch, rows = self._batch_of(some)
        keys = example_keys(batch, columns, rows)
        again = self._keys(some)
        alone = [key for feature in some[:8] for key in self._keys([feature])]
        if self._collator.draws and not self._collator.by_example:
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
                type(self._collator.collator).__name__,
                problem + " What is cached would not be met again.",
                "Use one that draws from the global generators (without seed=) and returns an attention_mask; "
                "or train without teacher_cache.",
            )
        self._rows_per_example = sum(count for _, count in keys) / max(1, len(some))
        self._sample: Targets = self._teacher.targets(batch, rows)
        self._made_of: dict[str, object] = {
            "teacher": teacher_fingerprint(self._teacher.model, self._teacher.known),
            "data": data,
            "precision": self._run.precision,
            "collator": hashlib.blake2b(b"".join(key for key, _ in keys), digest_size=16).hexdigest(),
        }

    def _keys(self, features: list[object]) -> list[tuple[bytes, int]]:
        batch, rows = self._batch_of(features)
        return example_keys(batch, self._teacher.columns, rows)

    @contextmanager
    def _drawing(self, seed: int, epoch: int) -> Iterator[None]:
        """Within it the collator draws the masks of that seed and epoch."""
        before = self._collator.seed, self._collator.epoch
        self._collator.seed, self._collator.epoch = seed, lambda: epoch
        try:
            yield
        finally:
            self._collator.seed, self._collator.epoch = before

    # ---- making it ----

    def _fill(self, folder: Folder, codec: Codec, epochs: set[int]) -> None:
        """Make those epochs of masks, by all processes together."""
        first, wait = self._run.rank == 0, self._run.wait
        if first:
            folder.begin()
        wait()
        self._check_room(folder, codec, epochs)
        self._store_share(folder, codec, epochs)
        wait()
        if first:
            folder.complete(epochs)
        wait()

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
                f"Use another teacher_cache_form ({', '.join(format_names())}), fewer teacher_cache_epochs, or "
                "another disk.",
            )

    def _store_share(self, folder: Folder, codec: Codec, epochs: set[int]) -> None:
        """Store this process's share of the examples, but for those that are stored already."""
        run = self._run
        store = Store(folder.path, folder.fingerprint)
        mine = range(run.rank, len(self._dataset), run.processes)
        # Processes that share a teacher run it equally often.
        length = math.ceil(len(self._dataset) / run.processes) if self._teacher.is_shared else len(mine)
        total = len(mine) * len(epochs)
        with tqdm(desc="Caching the teacher", total=total, unit=" examples", disable=run.quiet) as bar:
            fresh = _Fresh(folder)
            for epoch in sorted(epochs):
                with self._drawing(self._collator.seed, epoch):
                    for start in range(0, length, run.batch_size):
                        own = mine[start : start + run.batch_size]
                        self._store(list(fetched(self._dataset, own or mine[:1] or [0])), codec, store, fresh)
                        bar.update(len(own))
            fresh.flush()

    def _store(self, features: list[object], codec: Codec, store: Store, fresh: "_Fresh") -> None:
        batch, rows = self._batch_of(features)
        keys = example_keys(batch, self._teacher.columns, rows)
        lacks = any(key not in store and key not in fresh.keys for key, _ in keys)
        if not (self._run.any_process(lacks) if self._teacher.is_shared else lacks):
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
