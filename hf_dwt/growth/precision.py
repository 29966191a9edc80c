"""Running a model of half precision in fp32, one module at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

HALF = (torch.float16, torch.bfloat16)


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
