"""The time that a step's arithmetic takes by itself: its products counted, each timed alone on this machine.

Every matrix product and attention of one step (teacher, forward, backward) is recorded with its shapes; each distinct
one is then run alone on tensors of the same shapes and strides. The sum is the floor: no reading of batches, no
element-wise operation, no norm, no softmax of a vocabulary, no optimiser.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .loop import synchronize

REPEATS = 5
_ATEN = torch.ops.aten
FORMULAS = {
    **flop_registry,
    # Attention on a CPU, which torch counts on a GPU alone.
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
    # torch's own takes the type of the sum, which comes behind both factors, for a shape.
    _ATEN.addmm: lambda _total, *factors, out_val, **_: flop_registry[_ATEN.mm](*factors[:2], out_val=out_val),
}
"""Operator -> operations of a call."""


class Shape(NamedTuple):
    """A tensor's size, stride and type, in a product's arguments."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Products(TorchDispatchMode):
    """Counts the products made within it, by operator and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[Any, Any, Any]] = Counter()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if (count := FORMULAS.get(func.overloadpacket)) is not None:
            attends = "attention" in func.overloadpacket.__name__
            self.flops += count(*(_ungrouped(args) if attends else args), **kwargs, out_val=out)
            self.seen[(func, *_frozen((args, sorted(kwargs.items()))))] += 1
        return out


def _ungrouped(args: Any) -> Any:
    """Attention's arguments with as many heads of keys as of queries: as they are counted, and torch 2.11 insists."""
    heads = max((value.shape[1] for value in args if isinstance(value, Tensor) and value.dim() == 4), default=0)

    def repeated(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() != 4 or value.shape[1] == heads:
            return value
        return torch.empty(value.shape[0], heads, *value.shape[2:], device="meta")

    return tuple(repeated(value) for value in args)


def products_of(step: Callable[[], object]) -> Products:
    """The products of one call of `step`."""
    with Products() as products:
        step()
    return products


def seconds(products: Products, device: str) -> float:
    """What the products take, each timed alone; the fastest of some runs."""
    return sum(count * _alone(func, args, dict(named), device) for (func, args, named), count in products.seen.items())


def _alone(func: Any, args: Any, named: dict[str, Any], device: str) -> float:
    def make(value: Any) -> Any:
        if not isinstance(value, Shape):
            return value
        room = 1 + sum((n - 1) * step for n, step in zip(value.size, value.stride, strict=True))
        numbers = torch.rand(room, device=device).to(value.dtype)  # of integers, such as a generator's seed: zeros
        return numbers.as_strided(value.size, value.stride)

    args = [make(value) for value in args]
    named = {name: make(value) for name, value in named.items()}
    best = float("inf")
    with torch.no_grad():
        for _ in range(REPEATS):
            synchronize()
            began = time.perf_counter()
            func(*args, **named)
            synchronize()
            best = min(best, time.perf_counter() - began)
    return best


def _frozen(value: Any) -> Any:
    """Arguments that a Counter can hold: tensors by their shapes, lists as tuples."""
    if isinstance(value, Tensor):
        return Shape(tuple(value.shape), tuple(value.stride()), value.dtype)
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
