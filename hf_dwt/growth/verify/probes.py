"""What a module does to what it reads, found by calling it."""

import torch
from torch import Tensor, nn


def reads_no_values(module: nn.Module, given: Tensor) -> bool:
    """Whether what a module puts out is the same for other values: positions are often asked for by a shape."""
    try:
        out, other = module(given), module(torch.zeros_like(given))
        return isinstance(out, Tensor) and bool(out.any()) and torch.equal(out, other)
    except Exception:  # it takes more than one tensor
        return False


def centred(module: nn.Module, given: Tensor) -> bool | None:
    """Whether a norm subtracts the mean; None of what is no norm."""
    try:
        out = module(given)
        if not isinstance(out, Tensor) or out.shape != given.shape or not same(module(given * 2.0), out):
            return None
        return same(module(given + given.abs().max()), out)
    except Exception:  # a module that takes more than one tensor is no plain norm
        return None


def scales(module: nn.Module) -> bool:
    """Whether a module multiplies each channel by a parameter."""
    parameters = list(module.parameters(recurse=False))
    if len(parameters) != 1 or parameters[0].ndim != 1:
        return False
    probe = torch.randn(2, 3, len(parameters[0]), dtype=parameters[0].dtype)
    return torch.allclose(module(probe), probe * parameters[0])


def same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, atol=1e-2, rtol=1e-2))
