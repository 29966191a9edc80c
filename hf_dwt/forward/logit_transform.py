"""What a model does to the product of its last linear layer: a scale and a soft cap, found by measuring."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

_SMALL, _LARGE = 2.0**-20, 2.0**30


class LogitTransform(NamedTuple):
    """logits = cap * tanh(scale * product / cap), or scale * product where cap is None."""

    scale: float
    cap: float | None


@contextmanager
def run_as(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """In the block `forward` is the head's: every hook of the head runs around it, those of engines too."""
    vars(head)["forward"] = forward
    try:
        yield
    finally:
        del vars(head)["forward"]


def measure_transform(head: nn.Linear, logits: Callable[[], Tensor], shape: tuple[int, ...]) -> LogitTransform | None:
    """The logit scale and softcap of a model, or None if its logits are another function of the product.

    Args:
        head: its last linear layer.
        logits: calls the model, in evaluation mode, on a tiny batch.
        shape: (1, n, C) of those logits.

    A head that holds a part of the weight (tensor parallel) has none either. In place of its product the head returns
    known numbers of many sizes and either sign, so that the logits show any function of them: a scale at the smallest
    number, a cap at the largest, and the rest proves or refutes it. Parameters that the logits depend on
    behind the head are looked for in the graph, for one may still be zero.
    """
    probe: Tensor | None = None
    calls = []

    def replace(hidden: Tensor) -> Tensor:
        nonlocal probe
        torch.set_grad_enabled(True)  # from here on: for the layers before it an engine would await a backward pass
        probe = _probe(shape, hidden.device).requires_grad_()
        calls.append((*hidden.shape[:-1], *head.weight.shape[:1], type(head.weight.data)))
        return probe

    with run_as(head, replace), torch.no_grad():
        found = logits()
    if (
        probe is None
        or calls != [(*shape, Tensor)]
        or found.shape != shape
        or any(leaf is not probe for leaf in _leaves(found))
    ):
        return None
    given, found = probe.detach().double(), found.detach().double()
    scale = (found[0, 0, 0] / _SMALL).item()
    scale = 1.0 if math.isclose(scale, 1.0, rel_tol=1e-9) else scale
    largest = found[0, 0, 1].item()
    cap = None if math.isclose(largest, scale * _LARGE, rel_tol=1e-4) else largest
    expected = scale * given if cap is None else cap * torch.tanh(scale * given / cap)
    if not (scale > 0 and math.isfinite(scale) and torch.allclose(found, expected, rtol=1e-5, atol=1e-12)):
        return None
    return LogitTransform(scale, cap)


def _probe(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers of either sign from 1e-3 to 1e3, after the smallest and the largest; bf16 has them, as logits may be."""
    kind = torch.float32 if device.type == "mps" else torch.float64
    numbers = torch.logspace(-3, 3, math.prod(shape), dtype=kind, device=device).bfloat16().to(kind)
    numbers[::2].neg_()
    numbers[:2] = torch.tensor([_SMALL, _LARGE])
    return numbers.reshape(shape).clone()  # FSDP2 warns of modules that return a view


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    """The leaves of the graph that a tensor was computed by."""
    if tensor.grad_fn is None:
        yield from [tensor] if tensor.requires_grad else []
        return
    waiting, met = [tensor.grad_fn], set[Node]()
    while waiting:
        if (node := waiting.pop()) in met:
            continue
        met.add(node)
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            yield leaf
        waiting += [following for following, _ in node.next_functions if following is not None]
