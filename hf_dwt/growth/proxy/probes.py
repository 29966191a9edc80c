"""What a module does to the values that it reads: found by calling it, past its hooks, with other values."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def normalises(module: nn.Module, given: Tensor, output: Tensor) -> bool:
    """Whether twice the input gives the same output: a norm does that, a layer scale does not."""
    try:
        return output.shape == given.shape and _same(module.forward(given * 2.0), output)
    except Exception:  # a module that takes more than one tensor is no plain norm
        return False


def subtracts_mean(module: nn.Module, given: Tensor) -> bool | None:
    """Whether a norm subtracts the mean; None of a module that is no norm."""
    try:
        out = module.forward(given)
        if not isinstance(out, Tensor) or not normalises(module, given, out):
            return None
        return _same(module.forward(given + given.abs().max()), out)
    except Exception:  # a module that takes more than one tensor is no plain norm
        return None


def divides_by_size(module: nn.Module, given: Tensor, output: object) -> bool:
    """Whether a module without parameters puts out its input divided by the input's size, or 1 divided by that."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    if output.shape != (*given.shape[:-1], 1):
        return normalises(module, given, output)
    return torch.allclose(module.forward(given * 2.0), output / 2.0, rtol=1e-2)


def is_odd(module: nn.Module, given: Tensor, output: Tensor) -> bool:
    """Whether the negative input gives the negative output; positions, which depend on a shape alone, do not."""
    return bool(output.any()) and torch.allclose(module.forward(-given), -output, atol=1e-3, rtol=1e-3)


def reads_no_values(module: nn.Module, given: Tensor) -> bool:
    """Whether zeros as input give the same output: positions often depend on a shape alone."""
    try:
        out, other = module.forward(given), module.forward(torch.zeros_like(given))
        return isinstance(out, Tensor) and bool(out.any()) and torch.equal(out, other)
    except Exception:  # it takes more than one tensor
        return False


def adds_one_to_weight(module: nn.Module) -> bool:
    """Whether a norm computes (1 + weight) x: at a weight of -1 it puts out its bias, or 0."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1:
        return False
    kept = weight.clone()
    weight.fill_(-1.0)
    try:
        out = module.forward(torch.randn(2, 3, len(weight), dtype=weight.dtype))
        return bool((out == (0.0 if bias is None else bias)).all())
    except Exception:  # a module that takes more than one tensor, or another shape, is no plain norm
        return False
    finally:
        weight.copy_(kept)


def is_layer_norm(module: nn.Module) -> bool:
    """Whether a module with a weight and perhaps a bias subtracts the mean and divides by the deviation."""
    return _computes(module, lambda probe: nn.functional.layer_norm(probe, probe.shape[-1:]), 1e-3)


def is_identity_at_one(module: nn.Module) -> bool:
    """Whether a module of one weight, and a bias perhaps, is the identity at a weight of 1 and a bias of 0."""
    return _computes(module, lambda probe: probe, 0.0)


def _computes(module: nn.Module, function: Callable[[Tensor], Tensor], tolerance: float) -> bool:
    """Whether a module of one weight vector, and a bias perhaps, is `function` at a weight of 1 and a bias of 0."""
    own = dict(module.named_parameters(recurse=False))
    if "weight" not in own or own["weight"].ndim != 1 or own.keys() - {"weight", "bias"}:
        return False
    saved = {name: parameter.clone() for name, parameter in own.items()}
    for name, parameter in own.items():
        parameter.fill_(float(name == "weight"))
    probe = torch.randn(2, 3, len(own["weight"]), dtype=own["weight"].dtype)
    try:
        return torch.allclose(module.forward(probe), function(probe), atol=tolerance, rtol=tolerance)
    except Exception:  # a module that takes more than one tensor, or another shape, is another function
        return False
    finally:
        for name, value in saved.items():
            own[name].copy_(value)


def scales(module: nn.Module) -> bool:
    """Whether a module multiplies each channel by a parameter."""
    parameters = list(module.parameters(recurse=False))
    if len(parameters) != 1 or parameters[0].ndim != 1:
        return False
    probe = torch.randn(2, 3, len(parameters[0]), dtype=parameters[0].dtype)
    return torch.allclose(module.forward(probe), probe * parameters[0])


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-2, rtol=1e-2)
