"""Comparisons of models in full precision, whatever they train in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

HALF = (torch.float16, torch.bfloat16)


@contextmanager
def full_precision(model: nn.Module, apart_from: nn.Module | None = None) -> Iterator[None]:
    """Within it a model computes in its parameters' own type: no autocast, no TF32.

    On a GPU the rounding of a product in bf16 or TF32 changes with the number of its rows, and a comparison would take
    that for a difference between the computations. Autocast is often entered by the model's own forward, where
    accelerate has put it, so it is switched off at the doors of the modules within.

    Args:
        apart_from: a module behind others that gets no hook for it, since it is looked at for hooks.
    """
    kind = next(model.parameters()).device.type
    enabled = torch.is_autocast_enabled(kind)

    def switch_off(_module: nn.Module, _args: Any) -> None:
        torch.set_autocast_enabled(kind, False)

    with ExitStack() as stack:
        stack.callback(torch.set_autocast_enabled, kind, enabled)
        for part in model.children():
            if part is not apart_from:
                stack.callback(part.register_forward_pre_hook(switch_off).remove)
        stack.enter_context(without_tf32())
        yield


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within it products of fp32 on a GPU are not rounded to TF32."""
    matmul: Any = torch.backends.cuda.matmul
    # torch 2.9 has a switch of its own, and refuses to read the old one where both were used.
    name, exact = ("fp32_precision", "ieee") if hasattr(torch.backends, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, before)


def tolerance(model: nn.Module) -> float:
    """What rounding is allowed to change, of the largest number: by the coarsest type of the model's parameters."""
    coarsest = min((torch.finfo(p.dtype).bits for p in model.parameters() if p.is_floating_point()), default=32)
    return 1e-4 if coarsest >= 32 else 5e-2


@contextmanager
def in_fp32(model: nn.Module) -> Iterator[None]:
    """In the block modules compute in fp32 with the weights that are stored, each cast while its module runs.

    Weights are put back as they were, and shared ones stay shared.
    """
    stored: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def enter(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        stored[id(module)] = [(tensor, tensor.data) for tensor in own if tensor.dtype in HALF]
        for tensor, data in stored[id(module)]:
            tensor.data = data.float()
        return tree_map(_wide, (args, kwargs))

    def leave(module: nn.Module, *_: Any) -> None:
        for tensor, data in stored.pop(id(module), []):
            tensor.data = data

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for tensors in stored.values():
            for tensor, data in tensors:
                tensor.data = data


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value
