"""The largest entries of the sparse part of a matrix, beside its low-rank part."""

import torch
from torch import Generator, Tensor

from ...kinds import Bounds
from ...parts import OWN, Reference
from .record import Support


def decomposed(
    weight: Tensor, count: int, generator: Generator, *, rounds: int = 10, step: int = 5, threshold: float = 0.01
) -> Tensor:
    """The places of the `count` largest |S| where W = U V + S + a rest, U V of low rank and S sparse.

    As in the code of DSEE: U is the Q of the QR decomposition of (W - S) V^T and V = U^T (W - S), twice in a round; S
    is what is left of W, without entries below `threshold`; then the rank grows by `step`, by the Q of what is left.
    Ours: 10 rounds and not 100, which take minutes for BERT-base; the rank ends at half of that of the matrix, where
    otherwise nothing would be left of a small one; and all entries of W - U V are ranked, of which S are the largest,
    so that there are enough.

    Args:
        weight: (m, n).
        count: of places.
        generator: draws the first V.
        rounds: how often the rank grows.
        step: by how much.
        threshold: below which an entry is none of S.
    """
    w = weight.float()
    most = max(1, min(w.shape) // 2)
    u = w.new_zeros(w.shape[0], 0)
    v = torch.randn(min(step, most), w.shape[1], generator=generator).to(w)
    sparse, rest = torch.zeros_like(w), w
    for _ in range(rounds):
        for _ in range(2):
            u = torch.linalg.qr((w - sparse) @ v.T).Q
            v = u.T @ (w - sparse)
        rest = w - u @ v
        sparse = torch.where(rest.abs() < threshold, 0.0, rest)
        if len(v) == most:
            break
        more = min(step, most - len(v))
        # Random sums of the rows of what is left lie mostly along its largest directions.
        left = (rest - sparse).T @ torch.randn(w.shape[0], more, generator=generator).to(w)
        v = torch.cat([v, torch.linalg.qr(left).Q.T])
    return rest.flatten().abs().topk(count).indices


DECOMPOSED = Support(
    "decomposed",
    "the sparse part of the matrix beside its low-rank part",
    decomposed,
    promise="the same for the same matrix and seed",
    references=(
        Reference("a low-rank and a sparse part in turns", "DSEE", "2111.00160"),
        Reference("ten rounds, half of the rank at most", OWN),
    ),
    bounds={"rounds": Bounds(1), "step": Bounds(1), "threshold": Bounds()},
)
