"""What the formats that store a few classes of the distribution have in common."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ....objective import Targets
from ..store import to_numpy
from .record import made_logits


class SparseCodec:
    """Some classes of the distribution at the temperature of the run.

    Args:
        sample: for P, the number of classes.
        k: stored classes a row.
        temperature: of the run.
    """

    def __init__(self, sample: Targets, k: int, temperature: float) -> None:
        self.classes, self.k, self.temperature = sample.logits.shape[-1], k, temperature
        self.id_type = np.dtype(np.uint16 if self.classes <= 2**16 else np.int32)
        self.settings: Mapping[str, object] = {"k": k, "classes": self.classes, "temperature": temperature}

    def distribution(self, targets: Targets, part: slice, labels: Tensor) -> tuple[Tensor, np.ndarray]:
        """Log-probabilities (n, P) at the temperature of the run, and those of the labels at 1, (n,)."""
        logits = made_logits(targets, part)
        places = labels.clamp(max=logits.shape[-1] - 1).unsqueeze(1)
        truth = torch.log_softmax(logits, -1).gather(1, places).squeeze(1)
        return torch.log_softmax(logits / self.temperature, -1), to_numpy(truth)
