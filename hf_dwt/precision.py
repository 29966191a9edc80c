"""Trials that compare a model with itself, in the full precision of its parameters."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from .tasks import plain_model


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """Within it a model computes in its parameters' own type: no autocast, no TF32.

    On a GPU the rounding of a product in bf16 or TF32 changes with the number of its rows, and a comparison would take
    that for a difference between the computations. Autocast is often entered by the model's own forward, where
    accelerate has put it, so it is switched off at the doors of the modules within; not at the head's, which is behind
    them and is looked at for hooks.
    """
    head = plain_model(model).get_output_embeddings()  # type: ignore[operator]
    kind = next(model.parameters()).device.type
    enabled = torch.is_autocast_enabled(kind)

    def switch_off(_module: nn.Module, _args: Any) -> None:
        torch.set_autocast_enabled(kind, False)

    with ExitStack() as stack:
        stack.callback(torch.set_autocast_enabled, kind, enabled)
        for part in model.children():
            if part is not head:
                stack.callback(part.register_forward_pre_hook(switch_off).remove)
        stack.enter_context(_without_tf32())
        yield


@contextmanager
def _without_tf32() -> Iterator[None]:
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
