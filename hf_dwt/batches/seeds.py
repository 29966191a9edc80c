"""Random numbers for one purpose each: those of evaluation and of collating do not change any others.

A data loader collates batches ahead of the step that uses them. Masks drawn from the global generator are therefore
drawn before a checkpoint keeps its state, and a resumed run draws others. Here each batch has a seed of its own; or,
where a cache must find an example again, each example, so that its masks are a function of (seed, epoch, example),
whatever batch, process or run it comes in.
"""

import hashlib
import random
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.utils.data
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .padding import laid_into, stacked

Collator: TypeAlias = Callable[[list[Any]], Any]
"""From examples to a batch, both of any kind."""


@contextmanager
def kept_random_state() -> Iterator[None]:
    """After the block the generators of the CPU go on from where they were before it."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def fixed_randomness(seed: int) -> Iterator[None]:
    """In the block the generators of the CPU start from `seed`; afterwards they go on from where they were.

    Generators of other devices are left alone: what is drawn here are masks and augmentations, made on the CPU.
    """
    with kept_random_state():
        seed_generators(seed)
        yield


def seed_generators(seed: int) -> None:
    """Let the generators of the CPU start from `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the generators of all devices


class SeededCollator:
    """A data collator that draws its random numbers from a seed of (run, moment, batch), or of (run, moment, example).

    So what it draws does not depend on when or in which process a batch is collated, and by example not on the other
    examples either. By example, a collator that draws is called for each example by itself, and the results are
    padded as the collator pads, which takes three to four times as long. A batch that is no batch of texts, or whose
    examples are packed into one, has one seed as a whole all the same.

    Args:
        collator: the data collator.
        seed: of the run.
        epoch: returns the current epoch, by which the same example gets other masks each time; None for a stream,
            where the number of batches collated so far serves: a resumed run collates those that it skips, too.
        by_example: whether to draw for each example alone.

    Attributes:
        draws: whether the collator has been seen to draw random numbers.
        by_example: whether all that it drew so far was drawn for single examples.
    """

    def __init__(
        self,
        collator: Collator,
        seed: int,
        epoch: Callable[[], int] | None,
        by_example: bool = False,
    ) -> None:
        self.collator, self.seed, self.epoch, self.calls = collator, seed, epoch, 0
        self.draws, self.by_example = False, by_example
        self._streams = epoch is None
        # Workers that outlive an epoch, or count their batches anew in each, read here which it is.
        self._announced = torch.zeros((), dtype=torch.long).share_memory_()

    def announce_epoch(self) -> None:
        """Let the workers of a data loader know that an epoch begins."""
        self._announced.fill_(int(self._announced) + 1 if self.epoch is None else self.epoch())

    def __call__(self, features: list[Any]) -> Any:
        moment = self._moment()
        self.calls += 1
        with kept_random_state():
            if not self.draws:
                whole = self._collate(features, moment, watch=True)
                if not self.draws:
                    return whole
            if self.by_example:
                alone = [self._collate([feature], moment) for feature in features]
                if (batch := stacked(alone)) is not None:
                    return batch
                batch = laid_into(self._collate(features, moment), alone)
                if batch is not None:
                    return batch
                self.by_example = False
            return self._collate(features, moment)

    def _collate(self, features: list[object], moment: int | str, watch: bool = False) -> object:
        seed_generators(batch_seed(self.seed, moment, features))
        before = random_state() if watch else ()
        batch = self.collator(features)
        if watch:
            self.draws = random_state() != before
        return batch

    def _moment(self) -> int | str:
        if torch.utils.data.get_worker_info() is not None:
            return f"{int(self._announced)}/{self.calls}" if self._streams else int(self._announced)
        return self.calls if self.epoch is None else self.epoch()

    def __getstate__(self) -> dict[str, object]:
        """For the workers of a data loader, which read the announced epoch and cannot ask for it."""
        return {**self.__dict__, "epoch": None}


class AnnounceEpochs(TrainerCallback):
    """Announces to a collator that an epoch begins, before a data loader collates for it.

    Args:
        collator: returns that of the data loader; None before there is one.
    """

    def __init__(self, collator: Callable[[], SeededCollator | None]) -> None:
        self._collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if isinstance(collator := self._collator(), SeededCollator):
            collator.announce_epoch()


def random_state() -> tuple[object, ...]:
    """The state of the generators of the CPU, to be compared."""
    _, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), bytes(keys), rest, bytes(torch.get_rng_state().numpy())  # type: ignore[arg-type]


def batch_seed(seed: int, moment: int | str, features: list[object]) -> int:
    """A 63-bit seed that is a function of its arguments alone: of an example's ids where it has any.

    Which other columns a data loader keeps depends on what the models of a run read, and masks must not.
    """
    digest = hashlib.blake2b(f"{seed}/{moment}".encode(), digest_size=8)
    for feature in features:
        if isinstance(feature, Mapping) and "input_ids" in feature:
            digest.update(b"input_ids" + _bytes(feature["input_ids"]))
        else:
            digest.update(feature_bytes(feature))
    return int.from_bytes(digest.digest(), "little") >> 1


def feature_bytes(feature: object) -> bytes:
    """An example before collating as bytes that differ from those of every other."""
    items = sorted(feature.items()) if isinstance(feature, Mapping) else [("", feature)]
    return b"".join(str(name).encode() + _bytes(value) for name, value in items)


def _bytes(value: object) -> bytes:
    if type(value) is list and value and type(value[0]) is int:
        try:
            return array("q", value).tobytes()  # what NumPy makes of them, in half the time
        except (TypeError, OverflowError):
            pass
    try:
        values = np.asarray(value)
    except ValueError:  # lists of different lengths
        return repr(value).encode()
    return repr(value).encode() if values.dtype == object else values.tobytes()
