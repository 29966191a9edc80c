"""What a teacher cache stores of each row, and how targets are made from it again.

Shapes: n rows, H the width in front of the teacher's head, P classes shared with the student, k stored classes.
A form is an object with the members of `Form`; the forms are the entries of `FORMS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import CacheError
from ...objective import LinearLogits, Sampled, SparseTargets, Targets, TopK
from .store import to_numpy

_LARGEST = 2.0**15  # of fp16's 65,504


class Form(Protocol):
    """One form of storage.

    settings: what two caches of this form must have in common.
    bytes_per_row: what a row takes on disk.
    """

    settings: dict[str, Any]
    bytes_per_row: int

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        """The values to store of the rows `part` with their labels, those of the example `key`; each (n, ...)."""
        ...

    def decode(self, values: Mapping[str, Tensor]) -> Targets:
        """The targets of n rows from their values."""
        ...


def _made(targets: Targets, part: slice) -> Tensor:
    """The logits of those rows, in fp32."""
    logits = targets.logits[part]
    assert isinstance(logits, Tensor)  # a live teacher's
    return logits.float()


class Hidden:
    """The hidden states in front of the teacher's head, which makes the logits again: 2 H + 1 bytes a row in fp16.

    fp16 keeps 11 bits; a row with values beyond its range is divided by a power of two, kept in one byte.
    """

    def __init__(self, sample: Targets, dtype: str = "float16") -> None:
        if not isinstance(sample.logits, LinearLogits):
            raise CacheError(
                "teacher_cache_form",
                "hidden",
                "needs a teacher whose logits are a linear map of its last hidden states, which this one's are not.",
                "Use teacher_cache_form='sampled' or 'top_k'.",
            )
        self._head, self._dtype = sample.logits, np.dtype(dtype)
        width = sample.logits.hidden.shape[-1]
        self.settings: dict[str, Any] = {"dtype": dtype}
        self.bytes_per_row = width * self._dtype.itemsize + 1

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


class ClassLogits:
    """The logits themselves, in fp32: what the few classes of a classification need."""

    def __init__(self, sample: Targets) -> None:
        self.settings: dict[str, Any] = {"classes": sample.logits.shape[-1]}
        self.bytes_per_row = 4 * sample.logits.shape[-1]

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        return {"logits": to_numpy(_made(targets, part))}

    def decode(self, values: Mapping[str, Tensor]) -> Targets:
        return Targets(values["logits"])


class _Sparse:
    """Some classes of the distribution at the run's temperature."""

    def __init__(self, sample: Targets, k: int, temperature: float) -> None:
        classes = sample.logits.shape[-1]
        self._ids = np.dtype(np.uint16 if classes <= 2**16 else np.int32)
        self._k, self._temperature = k, temperature
        self.settings: dict[str, Any] = {"k": k, "classes": classes, "temperature": temperature}

    def _said(self, targets: Targets, part: slice, labels: Tensor) -> tuple[Tensor, np.ndarray]:
        """Log-probabilities (n, P) at the run's temperature, and those of the labels at 1."""
        logits = _made(targets, part)
        places = labels.clamp(max=logits.shape[-1] - 1).unsqueeze(1)
        truth = torch.log_softmax(logits, -1).gather(1, places).squeeze(1)
        return torch.log_softmax(logits / self._temperature, -1), to_numpy(truth)

    def decode(self, values: Mapping[str, Tensor]) -> Targets:
        return Targets(self._sparse(values))

    def _sparse(self, values: Mapping[str, Tensor]) -> SparseTargets:
        raise NotImplementedError


class MostLikely(_Sparse):
    """The k most likely classes and the probability left over: see `TopK`."""

    def __init__(self, sample: Targets, k: int, temperature: float) -> None:
        super().__init__(sample, min(k, sample.logits.shape[-1]), temperature)
        self.bytes_per_row = self._k * (self._ids.itemsize + 2) + 8

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        every, truth = self._said(targets, part, labels)
        log_probs, ids = every.double().topk(self._k)
        stored = to_numpy(log_probs).astype(np.float16)
        rest = 1.0 - np.exp(stored.astype(np.float64)).sum(-1)  # of what is stored, so that all of it sums to 1
        if self._k == self.settings["classes"]:
            rest = np.zeros_like(rest)
        return {
            "ids": to_numpy(ids).astype(self._ids),
            "log_probs": stored,
            "rest": rest.clip(0.0, 1.0).astype(np.float32),
            "truth": truth,
        }

    def _sparse(self, values: Mapping[str, Tensor]) -> SparseTargets:
        said = values["log_probs"].float(), values["rest"]
        return TopK(values["ids"], self.settings["classes"], values["truth"], *said)


class Draws(_Sparse):
    """k draws from the distribution, and its entropy: see `Sampled`."""

    def __init__(self, sample: Targets, k: int, temperature: float) -> None:
        super().__init__(sample, k, temperature)
        self.bytes_per_row = (k + 1) * self._ids.itemsize + 8

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        log_probs, truth = self._said(targets, part, labels)
        probs = log_probs.exp()
        seed = int.from_bytes(key[:7], "little")  # the example's own, so that batches do not matter
        generator = torch.Generator(log_probs.device).manual_seed(seed)
        drawn = torch.multinomial(probs, self._k, replacement=True, generator=generator)
        entropy = -torch.xlogy(probs.double(), probs.double()).sum(-1).float()
        ids = {"ids": drawn, "top": probs.argmax(-1)}
        stored = {name: to_numpy(value).astype(self._ids) for name, value in ids.items()}
        return {**stored, "entropy": to_numpy(entropy), "truth": truth}

    def _sparse(self, values: Mapping[str, Tensor]) -> SparseTargets:
        said = values["entropy"], values["top"]
        return Sampled(values["ids"], self.settings["classes"], values["truth"], *said)


# name -> the form, from a sample of the teacher's targets, k and the temperature
FORMS: dict[str, Callable[[Targets, int, float], Form]] = {
    "hidden": lambda sample, k, temperature: Hidden(sample),
    "hidden_fp32": lambda sample, k, temperature: Hidden(sample, "float32"),
    "top_k": MostLikely,
    "sampled": Draws,
}


def choose_form(name: str, vocabulary: bool, sample: Targets, k: int, temperature: float) -> tuple[str, Form]:
    """The form of that name, and its name; "auto" is the smaller of "hidden" and "sampled" in bytes a row.

    Args:
        name: a name of `FORMS`, or "auto".
        vocabulary: whether the classes are a vocabulary; the few of a classification are stored as they are.
        sample: targets of the teacher, for their kind and shape.
        k: classes stored by the sparse forms.
        temperature: at which those are stored.

    Raises:
        CacheError: the teacher has no hidden states in front of a linear head to store.
    """
    if not vocabulary:
        return "logits", ClassLogits(sample)
    if name != "auto":
        return name, FORMS[name](sample, k, temperature)
    names = ["hidden", "sampled"] if isinstance(sample.logits, LinearLogits) else ["sampled"]
    found = [(each, FORMS[each](sample, k, temperature)) for each in names]
    return min(found, key=lambda pair: pair[1].bytes_per_row)
