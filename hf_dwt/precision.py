"""Comparisons of models in full precision, whatever they train in."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

T = TypeVar("T")
logger = logging.getLogger(__name__)

Inputs = tuple[tuple[object, ...], dict[str, object]]
"""Positional and named inputs of a module."""
HALF = (torch.float16, torch.bfloat16)


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """In the block a model computes in its parameters' own type: no autocast, no TF32.

    On a GPU the rounding of a product in bf16 or TF32 changes with the number of its rows, and a comparison would take
    that for a difference between the computations. Autocast is often entered by the model's own forward, where
    accelerate has put it, so it is switched off before each module within.
    """
    kind = next(model.parameters()).device.type
    enabled = torch.is_autocast_enabled(kind)

    def switch_off(_module: nn.Module, _args: object) -> None:
        torch.set_autocast_enabled(kind, False)

    with ExitStack() as stack:
        stack.callback(torch.set_autocast_enabled, kind, enabled)
        for part in model.modules():  # all, for which of them is called first is not known (PeftModel calls no child)
            if part is not model:
                stack.callback(part.register_forward_pre_hook(switch_off).remove)
        stack.enter_context(without_tf32())
        yield


@contextmanager
def without_tf32() -> Iterator[None]:
    """In the block products and convolutions of fp32 on a GPU are not rounded to TF32."""
    backends: Any = torch.backends
    exact: Any
    if hasattr(backends, "fp32_precision"):  # torch 2.9 refuses to read the old switches where both were used
        switches, name, exact = (backends.cuda.matmul, backends.cudnn.conv), "fp32_precision", "ieee"
        # What is read may be that of the switch above, as which it must not be written back: it would not follow it.
        above = backends.cudnn.fp32_precision
        before = ["none" if (value := switch.fp32_precision) == above else value for switch in switches]
    else:
        switches, name, exact = (backends.cuda.matmul, backends.cudnn), "allow_tf32", False
        before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        setattr(switch, name, exact)
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)


def autocast_to(kind: str) -> torch.dtype | None:
    """What autocast computes in on that kind of device; None where it is off."""
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


EXACT, ROUNDED = 1e-4, 5e-2
"""What rounding is allowed to change, of the largest number, in fp32 and in half precision."""


def tolerance(model: nn.Module) -> float:
    """By the coarsest type of the model's parameters."""
    half = any(p.is_floating_point() and torch.finfo(p.dtype).bits < 32 for p in model.parameters())
    return ROUNDED if half else EXACT


def in_full_precision(trial: Callable[[float], T], model: nn.Module) -> T:
    """The result of a trial, which is given what rounding may change.

    Where a model cannot be run in full precision (attention that only half precision has, parameters of several types
    that autocast joins), the trial is made as the model runs.
    """
    try:
        with full_precision(model):
            return trial(tolerance(model))
    except Exception as error:  # each kernel has errors of its own
        logger.debug("%s does not run in full precision: %r", type(model).__name__, error)
    return trial(ROUNDED)


@contextmanager
def in_fp32(model: nn.Module) -> Iterator[None]:
    """In the block modules compute in fp32 with the weights that are stored, each cast while its module runs.

    Weights are put back as they were, and shared ones stay shared.
    """
    stored: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def enter(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Inputs:
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        stored[id(module)] = [(tensor, tensor.data) for tensor in own if tensor.dtype in HALF]
        for tensor, data in stored[id(module)]:
            tensor.data = data.float()
        return tuple(map(_wide, args)), {key: _wide(value) for key, value in kwargs.items()}

    def leave(module: nn.Module, *_: object) -> None:
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


def _wide(value: object) -> object:
    """`value` with its tensors of half precision in fp32, those in tuples, lists, dicts and outputs of models too.

    Any other object stays the same one: modules write to it for others to read, as to the keys and values that layers
    of Gemma 3n share.
    """
    if isinstance(value, Tensor):
        return value.float() if value.dtype in HALF else value
    if type(value) is list:
        return [_wide(one) for one in value]
    if type(value) is tuple:
        return tuple(_wide(one) for one in value)
    if type(value) is dict:
        return {key: _wide(one) for key, one in value.items()}
    if isinstance(value, ModelOutput):
        return type(value)(**{key: _wide(one) for key, one in value.items()})
    return value
