"""Files of a teacher cache: safetensors shards of entries, one entry an example, found by its key.

Shapes: E entries of a shard, n rows of all its entries, 16 bytes of key an entry.

    key     (E, 16) uint8    digest of what the teacher reads of the example, and of which of its positions are rows
    rows    (E,)    int32    rows of the entry; entries lie one after the other
    crc     (E,)    uint32   CRC-32 of the entry's stored values
    others  (n, ...)         what the form of the cache stores of each row

A shard is written under another name, flushed and then renamed, so that it is whole or not there. Its header has the
fingerprint of the cache that it belongs to and the checksum of the first three columns, which are read and kept;
the values are memory-mapped, and each entry is checked whenever it is read.
"""

import os
import re
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from ...errors import CacheError

SUFFIX = ".safetensors"
_LEFTOVER = re.compile(r"\.([0-9a-f]{32}\.safetensors|\w+\.json)\.\d+\.tmp")  # as `write_flushed` names them
_ENTRY = ("key", "rows", "crc")
_FIX = "Remove it: what it held is made again when training starts, or by `build_teacher_cache`."


@dataclass(frozen=True)
class Entry:
    """What a cache has of one example: its key, and the stored values by name, (n, ...) each."""

    key: bytes
    values: dict[str, np.ndarray]

    @property
    def rows(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def size(self) -> int:
        """Bytes, without the key."""
        return sum(value.nbytes for value in self.values.values())


def write_shard(folder: Path, entries: list[Entry], fingerprint: str) -> Path:
    """Write entries as one more shard of a cache; on return it is whole, under its name, and flushed."""
    names = entries[0].values
    columns = {name: np.concatenate([entry.values[name] for entry in entries]) for name in names}
    columns["key"] = np.frombuffer(b"".join(entry.key for entry in entries), np.uint8).reshape(-1, 16)
    columns["rows"] = np.array([entry.rows for entry in entries], np.int32)
    columns["crc"] = np.array([_crc(entry.values) for entry in entries], np.uint32)
    header = {"fingerprint": fingerprint, "index": _index_checksum(columns)}
    path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
    write_flushed(path, save(columns, metadata=header))
    return path


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all, even if the machine stops.

    Raises:
        CacheError: the disk is full, or refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CacheError(
            "teacher_cache",
            str(path.parent),
            f"cannot be written ({error.strerror or error}).",
            "What is written so far is kept: make room and start again.",
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written; an hour is more than any file takes."""
    for path in folder.glob(".*.tmp"):
        if _LEFTOVER.fullmatch(path.name) and time.time() - path.stat().st_mtime > 3600:
            path.unlink(missing_ok=True)


def _crc(values: Mapping[str, np.ndarray]) -> int:
    checksum = 0
    for name in sorted(values):
        checksum = zlib.crc32(np.ascontiguousarray(values[name]).data, checksum)
    return checksum


def _index_checksum(columns: Mapping[str, np.ndarray]) -> str:
    return str(zlib.crc32(b"".join(np.ascontiguousarray(columns[name]).tobytes() for name in _ENTRY)))


class Shard:
    """One file, memory-mapped.

    Raises:
        CacheError: it is truncated, corrupted, or of another cache.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        try:
            file = safe_open(path, framework="numpy")
            metadata = file.metadata() or {}
            index = {name: file.get_tensor(name) for name in _ENTRY}
            # slices read the rows of an entry alone
            self.columns = {name: file.get_slice(name) for name in file.keys() if name not in _ENTRY}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise self._broken(f"is truncated or no cache file ({error}).") from error
        if metadata.get("fingerprint") != fingerprint:
            raise self._broken("belongs to another cache.", "Move it back, or remove it.")
        if metadata.get("index") != _index_checksum(index):
            raise self._broken("is corrupted: its index does not have its checksum.")
        self.keys, self.rows, self.crc = (index[name] for name in _ENTRY)
        self.starts = np.concatenate([[0], np.cumsum(self.rows)])
        if any(column.get_shape()[0] != self.starts[-1] for column in self.columns.values()):
            raise self._broken("is corrupted: its columns differ in length.")

    def read(self, number: int) -> dict[str, np.ndarray]:
        """The values of an entry, copied and checked."""
        values = self._rows_between(int(self.starts[number]), int(self.starts[number + 1]))
        if _crc(values) != self.crc[number]:
            raise self._broken("is corrupted: an entry does not have its checksum.")
        return values

    def empty(self) -> dict[str, np.ndarray]:
        """The values of no row."""
        return self._rows_between(0, 0)

    def _rows_between(self, first: int, last: int) -> dict[str, np.ndarray]:
        return {name: column[first:last] for name, column in self.columns.items()}

    def _broken(self, problem: str, fix: str = _FIX) -> CacheError:
        # The folder as the value, which an error shortens; the file's name is what must be read.
        return CacheError(
            "teacher_cache", str(self.path.parent), f"has a shard, {self.path.name}, that {problem}", fix
        )


class Store:
    """All shards of a folder, as a mapping from key to values.

    Args:
        folder: of the cache.
        fingerprint: of the cache; shards of another are refused.

    Raises:
        CacheError: a shard is truncated, corrupted, or of another cache.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.shards = [Shard(path, fingerprint) for path in shard_files(folder)]
        keys = [shard.keys for shard in self.shards] or [np.empty((0, 16), np.uint8)]
        joined = np.ascontiguousarray(np.concatenate(keys)).view("V16").reshape(-1)
        self._halves = joined.view("<u8").reshape(-1, 2)
        self._order = np.lexsort((self._halves[:, 1], self._halves[:, 0]))
        self._sorted = self._halves[self._order]
        self._ends = np.cumsum([0, *(len(shard.keys) for shard in self.shards)])

    def __len__(self) -> int:
        return len(self._order)

    @property
    def rows(self) -> int:
        """Rows of all entries."""
        return int(sum(shard.starts[-1] for shard in self.shards))

    def __contains__(self, key: bytes) -> bool:
        return self._find(key) is not None

    def get(self, key: bytes) -> dict[str, np.ndarray] | None:
        """The values of the example with that key, or None."""
        number = self._find(key)
        if number is None:
            return None
        shard = int(np.searchsorted(self._ends, number, side="right")) - 1
        return self.shards[shard].read(number - int(self._ends[shard]))

    def empty(self) -> dict[str, np.ndarray]:
        """The values of no row."""
        return self.shards[0].empty()

    def _find(self, key: bytes) -> int | None:
        first, second = np.frombuffer(key, "<u8")
        place = int(np.searchsorted(self._sorted[:, 0], first))
        while place < len(self._order) and self._sorted[place, 0] == first:
            if self._sorted[place, 1] == second:
                return int(self._order[place])
            place += 1
        return None


def shard_files(folder: Path) -> Iterator[Path]:
    """The shards of a folder, in an order that every process sees."""
    return iter(sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith(".")))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor of any device as an array that can be stored."""
    return tensor.detach().cpu().contiguous().numpy()


def to_tensor(values: list[np.ndarray], device: torch.device) -> Tensor:
    """Arrays of several entries, one after the other, on a device; ids as the int64 that torch indexes with."""
    joined = np.concatenate(values)
    if joined.dtype in (np.uint16, np.uint32, np.int32):
        joined = joined.astype(np.int64)
    return torch.from_numpy(joined).to(device, non_blocking=True)
