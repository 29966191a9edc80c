"""The record of a divergence."""

from dataclasses import dataclass

from torch import Tensor

from ...parts import Part
from ..terms import ChunkLoss


@dataclass(frozen=True)
class Divergence(Part[[Tensor, Tensor], Tensor]):
    """From student and teacher log-probabilities (n, P) to a divergence per row (n,), in nats.

    Args:
        chunk_loss: the loss of a chunk of rows and its gradient in closed form, where that is known; the gradient is
            otherwise found by automatic differentiation.
    """

    chunk_loss: ChunkLoss | None = None
