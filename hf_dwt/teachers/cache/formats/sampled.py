"""k draws from the teacher's distribution, and its entropy: see `hf_dwt.objective.sparse.Sampled`."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ....objective import Targets
from ....objective.sparse import Sampled
from ....parts import Reference
from ..store import to_numpy
from .record import CacheFormat
from .sparse import SparseCodec


class Draws(SparseCodec):
    """Ids (n, k) of the draws, the most likely class (n,) and the entropy (n,)."""

    def __init__(self, sample: Targets, k: int, temperature: float) -> None:
        super().__init__(sample, k, temperature)
        self.bytes_per_row = (k + 1) * self.id_type.itemsize + 8

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        log_probs, truth = self.distribution(targets, part, labels)
        probs = log_probs.exp()
        seed = int.from_bytes(key[:7], "little")  # the example's own, so that batches do not matter
        generator = torch.Generator(log_probs.device).manual_seed(seed)
        drawn = torch.multinomial(probs, self.k, replacement=True, generator=generator)
        entropy = -torch.xlogy(probs.double(), probs.double()).sum(-1).float()
        ids = {"ids": drawn, "top": probs.argmax(-1)}
        stored = {name: to_numpy(value).astype(self.id_type) for name, value in ids.items()}
        return {**stored, "entropy": to_numpy(entropy), "truth": truth}

    def decode(self, values: Mapping[str, Tensor]) -> Targets:
        stored = values["entropy"], values["top"]
        return Targets(Sampled(values["ids"], self.classes, values["truth"], *stored))


SAMPLED = CacheFormat(
    name="sampled",
    title="k draws from the teacher's distribution, and its entropy",
    function=Draws,
    promise="unbiased, also in its gradient, but noisy",
    references=(Reference("draws in place of the whole distribution", "Sparse Logit Sampling", "2503.16870"),),
    size="2 k + 10",
    unbiased=True,
    every_divergence=False,
    most_likely=False,
)
