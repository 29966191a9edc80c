"""The record of a support."""

from dataclasses import dataclass
from typing import Concatenate

from torch import Generator, Tensor

from ...parts import Part


@dataclass(frozen=True)
class Support(Part[Concatenate[Tensor, int, Generator, ...], Tensor]):
    """At which entries of a matrix its sparse residual is.

    Its function gets W (m, n), a count and a generator on the CPU, and returns (count,) places in the flattened W, the
    most wanted first.
    """
