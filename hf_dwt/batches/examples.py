"""Data sets of known length, and their examples."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Examples(Protocol):
    """A data set of known length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


def fetched(dataset: Examples, indices: Sequence[int], size: int = 1000) -> Iterator[object]:
    """Examples by index, many at a time where the data set can."""
    for start in range(0, len(indices), size):
        wanted = list(indices[start : start + size])
        yield from (
            dataset.__getitems__(wanted) if hasattr(dataset, "__getitems__") else map(dataset.__getitem__, wanted)
        )
