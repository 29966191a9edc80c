"""The hidden states in front of the teacher's head, which makes the logits again."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ....objective import Targets
from ....objective.logits import LinearLogits
from ..store import to_numpy
from .record import CacheFormat

_LARGEST = 2.0**15  # of fp16's 65,504


class Hidden:
    """Hidden states (n, H).

    fp16 keeps 11 bits; a row with values beyond its range is divided by a power of two, kept in one byte.
    """

    def __init__(self, sample: Targets, k: int, temperature: float) -> None:
        assert isinstance(sample.logits, LinearLogits)  # `linear_head` of the record
        self._head = sample.logits
        self.settings: Mapping[str, object] = {"dtype": "float16"}
        self.bytes_per_row = 2 * sample.logits.hidden.shape[-1] + 1

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        assert isinstance(targets.logits, LinearLogits)
        hidden = targets.logits.hidden[part].float()
        exponent = (hidden.abs().amax(-1) / _LARGEST).clamp(min=1.0).log2().ceil()
        scaled = to_numpy(hidden * torch.exp2(-exponent).unsqueeze(-1))
        return {"hidden": scaled.astype(np.float16), "exponent": to_numpy(exponent).astype(np.int8)}

    def decode(self, values: Mapping[str, Tensor]) -> Targets:
        hidden = values["hidden"].float() * torch.exp2(values["exponent"].float()).unsqueeze(-1)
        return Targets(replace(self._head, hidden=hidden))


HIDDEN = CacheFormat(
    name="hidden",
    title="the hidden states in front of the teacher's linear head, in fp16",
    function=Hidden,
    promise="the soft term of the live teacher within the rounding of fp16",
    size="2 H + 1",
    unbiased=True,
    every_divergence=True,
    linear_head=True,
)
