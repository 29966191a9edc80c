"""Random tensors of a batch of which each row has a random stream of its own."""

import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Args: TypeAlias = tuple[Any, ...]  # of a function of torch

_GOLDEN = 0x9E3779B97F4A7C15
_UNDERSTOOD = frozenset({"generator", "dtype", "device"})
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_TO_24_BITS, _OF_24_BITS = np.uint64(40), np.float32(2.0**-24)
_HALF = np.uint64(32)


class RowDraws(TorchFunctionMode):
    """In the block `torch.bernoulli`, `rand`, `rand_like` and `randint` draw tensors of B rows from B streams.

    An entry is a function of the seed of its row, of how many such tensors were drawn before, and of its place in the
    row: not of the other rows, nor of how far rows are padded behind it. Tensors of another first dimension, and what
    any other function draws, come from the generators that they come from anyway.

    Args:
        rows: B.
        seeds: returns a seed of each row, 64 bits; asked at the first draw, since most collators draw nothing.

    Attributes:
        count: how many tensors were drawn so far.
    """

    def __init__(self, rows: int, seeds: Callable[[], Sequence[int]]) -> None:
        super().__init__()
        self._rows, self._ask, self.count = rows, seeds, 0
        self._noise: dict[int, np.ndarray] = {}  # places of a row -> (B, places) numbers of 64 random bits

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: Collection[type],
        args: Args = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        named = kwargs or {}
        if function not in _DRAWS:
            return function(*args, **named)
        shape = _shape(function, args)
        if not shape or shape[0] != self._rows or not named.keys() <= _UNDERSTOOD:
            return function(*args, **named)
        drawn = _DRAWS[function](self, shape, args, named.get("dtype"))
        if drawn is None:
            return function(*args, **named)
        like = args[0] if isinstance(args[0], Tensor) else None
        device = named.get("device", None if like is None else like.device)
        return drawn if device is None else drawn.to(device)

    def bits(self, shape: Sequence[int]) -> np.ndarray:
        """(B, ...) numbers of 64 bits, of which the upper half is random."""
        places = math.prod(shape[1:])
        if (noise := self._noise.get(places)) is None:
            seeds = np.array(self._ask(), dtype=np.uint64)
            noise = self._noise[places] = _mixed(_mixed(seeds)[:, None] + _places(places))
        self.count += 1
        bits = noise * _factor(self.count)
        return bits if len(shape) == 2 else bits.reshape(shape)

    def uniform(self, shape: Sequence[int]) -> np.ndarray:
        """(B, ...) in float32, from 0 to below 1."""
        return (self.bits(shape) >> _TO_24_BITS).astype(np.float32) * _OF_24_BITS


@functools.lru_cache(maxsize=64)
def _places(count: int) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)


@functools.lru_cache(maxsize=64)
def _factor(count: int) -> np.uint64:
    """An odd number that has nothing to do with that of another count."""
    return np.uint64(int(_mixed(np.array([count], dtype=np.uint64))[0]) | 1)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al., 2014), in place."""
    for shift, factor in _ROUNDS:
        bits ^= bits >> shift
        bits *= factor
    bits ^= bits >> np.uint64(31)
    return bits


def _shape(function: Callable[..., object], args: Args) -> Sequence[int] | None:
    """Of the tensor that a call draws, or None where the call is of a form that is not understood."""
    if function in (torch.bernoulli, torch.rand_like):
        return args[0].shape if len(args) == 1 else None
    sizes = args[-1:] if function is torch.randint else args
    shape = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    return shape if len(shape) and all(isinstance(size, int) for size in shape) else None


# NumPy takes a quarter of torch's time for tensors as small as these.
def _bernoulli(rows: RowDraws, shape: Sequence[int], args: Args, dtype: torch.dtype | None) -> Tensor | None:
    if args[0].dtype not in (torch.float32, torch.float64):
        return None
    chance = args[0].numpy(force=True)
    return torch.from_numpy((rows.uniform(shape) < chance).astype(chance.dtype))


def _rand(rows: RowDraws, shape: Sequence[int], args: Args, dtype: torch.dtype | None) -> Tensor | None:
    wanted = dtype or torch.get_default_dtype()
    return torch.from_numpy(rows.uniform(shape)) if wanted == torch.float32 else None


def _rand_like(rows: RowDraws, shape: Sequence[int], args: Args, dtype: torch.dtype | None) -> Tensor | None:
    return _rand(rows, shape, args, dtype or args[0].dtype)


def _randint(rows: RowDraws, shape: Sequence[int], args: Args, dtype: torch.dtype | None) -> Tensor | None:
    if not 2 <= len(args) <= 3 or not all(isinstance(bound, int) for bound in args[:-1]):
        return None
    low, high = (0, args[0]) if len(args) == 2 else args[:2]
    if not 0 < high - low < 2**32:
        return None
    drawn = ((rows.bits(shape) >> _HALF) * np.uint64(high - low)) >> _HALF
    return torch.from_numpy(drawn.astype(np.int64) + low).to(dtype or torch.int64)


Draw: TypeAlias = Callable[[RowDraws, Sequence[int], Args, torch.dtype | None], Tensor | None]
_DRAWS: dict[Callable[..., object], Draw] = {
    torch.bernoulli: _bernoulli,
    torch.rand: _rand,
    torch.rand_like: _rand_like,
    torch.randint: _randint,
}
