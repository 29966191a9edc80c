"""The loss of a chunk and its gradient, compiled by `torch.compile`: the same in fewer passes over the logits.

It makes the passes between the products one loop where the device's compiler can. What it costs is the compilation,
before the first step and again for a new shape, and what it saves depends on the device: it is chosen, never assumed.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, first_line
from .chunked import SLOPES, ChunkLoss, Slope
from .terms import Form, SoftTerm, Targets, Weights


def compiled_slope(soft_term: SoftTerm) -> ChunkLoss:
    """The closed form of a soft term, compiled.

    Raises:
        ArgumentError: there is none, and what is traced by automatic differentiation is not compiled.
    """
    if soft_term not in SLOPES:
        raise ArgumentError(
            "loss_kernel",
            "compile",
            f"compiles a gradient in closed form, and that of soft_term={soft_term!r} is not known.",
            "Use 'auto', or soft_term='forward_kl'.",
        )
    return _compiled(SLOPES[soft_term])


@cache
def _compiled(loss: ChunkLoss) -> ChunkLoss:
    function: Any = torch.compile(loss)

    def slope(
        logits: Tensor, labels: Tensor, targets: Targets | None, weights: Weights, form: Form, wanted: bool
    ) -> Slope:
        # As tensors: numbers that change from step to step are not followed everywhere (torch 2.13, a fill value).
        moving: Any = [torch.tensor(weight, dtype=logits.dtype) for weight in weights]
        return function(logits, labels, targets, Weights(*moving), form, wanted)  # type: ignore[no-any-return]

    return slope


def require_compiler(device: torch.device) -> None:
    """Compile something small, so that what is missing is said before the first step.

    Raises:
        ArgumentError: nothing can be compiled for this device.
    """
    try:
        from torch._inductor import config

        with config.patch(force_disable_caches=True):  # type: ignore[attr-defined]
            torch.compile(lambda x: x * 2 + 1)(torch.zeros(3, device=device))
    except Exception as error:  # each part of the compiler has errors of its own
        raise ArgumentError(
            "loss_kernel",
            "compile",
            f"cannot be compiled for {device}: {first_line(error)}.",
            "Install what torch.compile needs (a C++ compiler; on a GPU Triton as well), or use 'auto'.",
        ) from error
