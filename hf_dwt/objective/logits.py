"""Logits that are not made before they are needed."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LinearLogits:
    """(n, C) logits of n rows, kept as the hidden states in front of a linear head.

        logits = cap * tanh(scale * (hidden @ weight.T + bias) / cap)        (cap None: without the tanh)

    A slice of rows makes their logits, so that `logits[part]` and `logits.shape` read the same as of a tensor, and
    `logits[:]` are all of them. n x H numbers stay in memory in place of n x C.

    Args:
        hidden: (n, H).
        weight: (C, H).
        bias: (C,) or None.
        scale: factor of the product (Cohere, Granite).
        cap: soft bound of the logits (Gemma 2, arXiv 2408.00118, section 2), or None.
        dtype: what the product is computed in, that of autocast; by default the weight's.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    dtype: torch.dtype | None = None

    @property
    def shape(self) -> torch.Size:
        """(n, C)."""
        return torch.Size((self.hidden.shape[0], self.weight.shape[0]))

    @property
    def made_of(self) -> Tensor:
        """What they are computed from: on its device, and at least in its type."""
        return self.hidden

    def __getitem__(self, part: slice) -> Tensor:
        """The logits of those rows, in at least fp32."""
        own = self.cast()
        logits = at_least_fp32(F.linear(own.hidden[part], own.weight, own.bias))
        if own.scale != 1.0:
            logits = logits * own.scale
        return logits if own.cap is None else own.cap * torch.tanh(logits / own.cap)

    def first(self, classes: int) -> "LinearLogits":
        """The logits of the first classes alone."""
        bias = None if self.bias is None else self.bias[:classes]
        return replace(self, weight=self.weight[:classes], bias=bias)

    def detach(self) -> "LinearLogits":
        """Without gradients, of the weight either: logits that are made later are constants."""
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, hidden=self.hidden.detach(), weight=self.weight.detach(), bias=bias)

    def cast(self) -> "LinearLogits":
        """With every tensor in the type of the product: worth doing once before many slices."""
        dtype = self.dtype or self.weight.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, hidden=self.hidden.to(dtype), weight=self.weight.to(dtype), bias=bias, dtype=dtype)


Logits = Tensor | LinearLogits
"""(n, C) logits, there already or made slice by slice."""


def cast(logits: Logits) -> Logits:
    """Before many slices are taken: every one of them would cast the whole weight."""
    return logits.cast() if isinstance(logits, LinearLogits) else logits


def at_least_fp32(logits: Tensor) -> Tensor:
    """Half-precision logits as fp32: a sum over a vocabulary in bf16 can turn a divergence negative."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
