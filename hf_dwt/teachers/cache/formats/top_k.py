"""The k most likely classes and the probability left over: see `hf_dwt.objective.sparse.TopK`."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ....objective import Targets
from ....objective.sparse import TopK
from ..store import to_numpy
from .record import CacheFormat
from .sparse import SparseCodec


class MostLikely(SparseCodec):
    """Ids (n, k) and log-probabilities (n, k) in fp16, and the probability left over (n,)."""

    def __init__(self, sample: Targets, k: int, temperature: float) -> None:
        super().__init__(sample, min(k, sample.logits.shape[-1]), temperature)
        self.bytes_per_row = self.k * (self.id_type.itemsize + 2) + 8

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        every, truth = self.distribution(targets, part, labels)
        log_probs, ids = every.double().topk(self.k)
        stored = to_numpy(log_probs).astype(np.float16)
        rest = 1.0 - np.exp(stored.astype(np.float64)).sum(-1)  # of what is stored, so that all of it sums to 1
        if self.k == self.classes:
            rest = np.zeros_like(rest)
        return {
            "ids": to_numpy(ids).astype(self.id_type),
            "log_probs": stored,
            "rest": rest.clip(0.0, 1.0).astype(np.float32),
            "truth": truth,
        }

    def decode(self, values: Mapping[str, Tensor]) -> Targets:
        stored = values["log_probs"].float(), values["rest"]
        return Targets(TopK(values["ids"], self.classes, values["truth"], *stored))


TOP_K = CacheFormat(
    name="top_k",
    title="the k most likely classes and the probability left over",
    function=MostLikely,
    promise="a lower bound of the soft term: all other classes count as one",
    size="4 k + 8",
    unbiased=False,
    every_divergence=False,
)
