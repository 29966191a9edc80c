"""What every cache format is: a record for the user, and a codec that stores rows and makes targets of them again.

Shapes: n rows, H the width in front of the teacher's head, P classes shared with the student, k stored classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ....objective import Targets
from ....parts import Part


class Codec(Protocol):
    """How the rows of one teacher are stored.

    settings: what two caches of this format must have in common.
    bytes_per_row: what a row takes on disk.
    """

    settings: Mapping[str, object]
    bytes_per_row: int

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        """The values to store of the rows `part` with their labels, those of the example `key`; each (n, ...)."""
        ...

    def decode(self, values: Mapping[str, Tensor]) -> Targets:
        """The targets of n rows from their values."""
        ...


@dataclass(frozen=True, kw_only=True)
class CacheFormat(Part[[Targets, int, float], Codec]):
    """The record of a cache format.

    Its function makes the codec from a sample of the teacher's targets (for their kind and shape), k and the
    temperature of the run.

    Args:
        size: bytes a row, as a formula in H, k and P.
        unbiased: whether the mean of the soft term and of its gradient is that of the live teacher, so that "auto"
            may choose the format.
        every_divergence: whether the whole distribution is made again, as soft terms other than forward KL need it.
        most_likely: whether the most likely class and its probability are kept.
        linear_head: whether the teacher's logits must be a linear map of its last hidden states.
        vocabulary: whether the format is for the classes of a vocabulary; one that is not is used for every
            classification, whatever the user chose.
    """

    size: str
    unbiased: bool
    every_divergence: bool
    most_likely: bool = True
    linear_head: bool = False
    vocabulary: bool = True


def made_logits(targets: Targets, part: slice) -> Tensor:
    """The logits of those rows, (n, P), in fp32."""
    logits = targets.logits[part]
    assert isinstance(logits, Tensor)  # a live teacher's
    return logits.float()
