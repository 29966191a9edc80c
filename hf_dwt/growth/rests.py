"""What a parameter of a student holds where the teacher has nothing to copy."""

from collections.abc import Callable

from torch import Tensor

from ..parts import Part, Reference, registry

Rest = Callable[[Tensor], None]
"""Sets a whole parameter of the student in place, before the teacher's values are copied over it."""


def keep_init(parameter: Tensor) -> None:
    """The rest keeps the student's own initialisation, so that every row and column gets a gradient."""


def zeros(parameter: Tensor) -> None:
    """The rest is 0, as in FNA's code. New units that are 0 on both sides get no gradient."""
    parameter.zero_()


_FNA = Reference("zeros beside the copied values", "Fast Neural Network Adaptation", "2001.02525")

RESTS: dict[str, Part[[Tensor], None]] = registry(
    Part("init", "the student's own initialisation", keep_init, "every row and column gets a gradient"),
    Part("zeros", "0, as in the code of FNA", zeros, "units that are 0 on both sides get no gradient", (_FNA,)),
)
"""Name -> what stands where the teacher has nothing to copy."""
