"""The logits themselves: what the few classes of a classification need."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ....objective import Targets
from ..store import to_numpy
from .record import CacheFormat, made_logits


class ClassLogits:
    """Logits (n, P) in fp32."""

    def __init__(self, sample: Targets, k: int, temperature: float) -> None:
        self.settings: Mapping[str, object] = {"classes": sample.logits.shape[-1]}
        self.bytes_per_row = 4 * sample.logits.shape[-1]

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        return {"logits": to_numpy(made_logits(targets, part))}

    def decode(self, values: Mapping[str, Tensor]) -> Targets:
        return Targets(values["logits"])


LOGITS = CacheFormat(
    name="logits",
    title="the logits in fp32, of a classification",
    function=ClassLogits,
    promise="the soft term of the live teacher",
    size="4 P",
    unbiased=True,
    every_divergence=True,
    vocabulary=False,
)
