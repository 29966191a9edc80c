"""The hidden states in front of the teacher's head, which makes the logits again."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ....objective import Targets
from ....objective.logits import LinearLogits
from ..store import to_numpy
from .record import CacheFormat, Codec

_LARGEST = 2.0**15  # of fp16's 65,504


class Hidden:
    """Hidden states (n, H).

    fp16 keeps 11 bits; a row with values beyond its range is divided by a power of two, kept in one byte.
    """

    def __init__(self, sample: Targets, dtype: str = "float16") -> None:
        assert isinstance(sample.logits, LinearLogits)  # `linear_head` of the record
        self._head, self._dtype = sample.logits, np.dtype(dtype)
        self.settings: Mapping[str, object] = {"dtype": dtype}
        self.bytes_per_row = sample.logits.hidden.shape[-1] * self._dtype.itemsize + 1

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        assert isinstance(targets.logits, LinearLogits)
        hidden = targets.logits.hidden[part].float()
        largest = hidden.abs().amax(-1) if self._dtype.itemsize == 2 else hidden.new_zeros(len(hidden))
        exponent = (largest / _LARGEST).clamp(min=1.0).log2().ceil()
        scaled = to_numpy(hidden * torch.exp2(-exponent).unsqueeze(-1))
        return {"hidden": scaled.astype(self._dtype), "exponent": to_numpy(exponent).astype(np.int8)}

    def decode(self, values: Mapping[str, Tensor]) -> Targets:
        hidden = values["hidden"].float() * torch.exp2(values["exponent"].float()).unsqueeze(-1)
        return Targets(replace(self._head, hidden=hidden))


def _half(sample: Targets, k: int, temperature: float) -> Codec:
    return Hidden(sample)


def _full(sample: Targets, k: int, temperature: float) -> Codec:
    return Hidden(sample, "float32")


HIDDEN = CacheFormat(
    name="hidden",
    title="the hidden states in front of the teacher's linear head, in fp16",
    function=_half,
    promise="the soft term of the live teacher within the rounding of fp16",
    size="2 H + 1",
    unbiased=True,
    every_divergence=True,
    linear_head=True,
)
HIDDEN_FP32 = CacheFormat(
    name="hidden_fp32",
    title="the same in fp32",
    function=_full,
    promise="the soft term of the live teacher within 1e-5",
    size="4 H + 1",
    unbiased=True,
    every_divergence=True,
    linear_head=True,
)
