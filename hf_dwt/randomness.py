"""Random numbers that belong to one purpose: those of evaluation and of collating disturb no others.

A data loader collates batches ahead of the step that uses them. Masks drawn from the global generator are therefore
drawn before a checkpoint keeps its state, and a resumed run draws others. Here each batch has a seed of its own.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def fixed_randomness(seed: int) -> Iterator[None]:
    """Within it the generators of the CPU start from `seed`; afterwards they go on from where they were.

    Generators of other devices are left alone: what is drawn here are masks and augmentations, made on the CPU.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the generators of all devices
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class SeededCollator:
    """A data collator that draws its random numbers from a seed made of the run's, the moment's and the batch's own.

    So what it draws for a batch does not depend on when, or in which process, the batch is collated.

    Args:
        collator: the data collator.
        seed: of the run.
        epoch: says the current epoch, by which the same batch gets other masks each time; None for a stream, where
            the number of batches collated so far serves: a resumed run collates those that it skips, too.
    """

    def __init__(self, collator: Callable[[list[Any]], Any], seed: int, epoch: Callable[[], int] | None) -> None:
        self.collator, self.seed, self.epoch, self.calls = collator, seed, epoch, 0

    def __call__(self, features: list[Any]) -> Any:
        moment = self.calls if self.epoch is None else self.epoch()
        self.calls += 1
        with fixed_randomness(batch_seed(self.seed, moment, features)):
            return self.collator(features)

    def __getstate__(self) -> dict[str, Any]:
        """For the workers of a data loader, which are made anew each epoch and cannot ask for it."""
        state = dict(self.__dict__)
        if self.epoch is not None:
            state["epoch"] = _Always(self.epoch())
        return state


class _Always:
    """A constant as a function that can be pickled."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __call__(self) -> int:
        return self.value


def batch_seed(seed: int, moment: int, features: list[Any]) -> int:
    """A 63-bit seed that is a function of its arguments alone."""
    digest = hashlib.blake2b(f"{seed}/{moment}".encode(), digest_size=8)
    for feature in features:
        for name, value in sorted(feature.items()) if isinstance(feature, Mapping) else (("", feature),):
            digest.update(str(name).encode())
            digest.update(_bytes(value))
    return int.from_bytes(digest.digest(), "little") >> 1


def _bytes(value: Any) -> bytes:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return repr(value).encode()
    return repr(value).encode() if array.dtype == object else array.tobytes()
