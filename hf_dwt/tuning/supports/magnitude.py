"""The largest entries of a matrix."""

from torch import Generator, Tensor

from ...parts import Reference
from .record import Support


def magnitude(weight: Tensor, count: int, generator: Generator) -> Tensor:
    """The places of the `count` largest |W|.

    Args:
        weight: (m, n).
        count: of places.
        generator: not read.
    """
    return weight.flatten().abs().topk(count).indices


MAGNITUDE = Support(
    "magnitude",
    "the largest entries of the matrix",
    magnitude,
    promise="the same for the same matrix",
    references=(Reference("the largest weights, an option of its code", "DSEE", "2111.00160"),),
)
