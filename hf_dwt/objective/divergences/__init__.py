"""Divergences between teacher and student, row by row."""

import torch
from torch import Tensor

from ...errors import ArgumentError, first_line, unknown_name
from ...parts import registry
from ..terms import SoftTerm
from .forward_kl import FORWARD_KL
from .record import Divergence

SOFT_TERMS: dict[str, Divergence] = registry(FORWARD_KL)
"""Name -> divergence that `soft_term` may name; it is called with student and teacher log-probabilities (n, P)."""


def is_forward_kl(soft_term: object) -> bool:
    """Whether `soft_term` is the forward KL, by name or as its record: few classes suffice for it alone."""
    return soft_term in (FORWARD_KL.name, FORWARD_KL)


def get_soft_term(soft_term: str | SoftTerm) -> SoftTerm:
    """The divergence of that name, or the callable itself.

    Raises:
        ArgumentError: there is no such divergence.
    """
    if callable(soft_term):
        return soft_term
    if not isinstance(soft_term, str) or soft_term not in SOFT_TERMS:
        otherwise = "a function of two (rows, classes) log-probabilities"
        raise unknown_name("soft_term", soft_term, SOFT_TERMS, otherwise)
    return SOFT_TERMS[soft_term]


def require_divergence(soft_term: SoftTerm, classes: int = 5, device: torch.device | str = "cpu") -> None:
    """Raise an ArgumentError unless two (3, `classes`) log-probabilities give (3,) finite numbers with a gradient."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 3, classes, generator=generator).log_softmax(-1).to(device)
    cause = None
    try:
        with torch.enable_grad():
            rows: object = soft_term(drawn[0].requires_grad_(), drawn[1])
    except Exception as error:
        cause, problem = error, f"raised {type(error).__name__}: {first_line(error)}"
    else:
        if not isinstance(rows, Tensor) or rows.shape != (3,):
            shape = (
                f"a tensor of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else f"a {type(rows).__name__}"
            )
            problem = f"returned {shape}"
        elif not torch.isfinite(rows).all():
            problem = f"returned {rows.tolist()}"
        elif not rows.requires_grad:
            problem = "returned numbers without a gradient"
        else:
            return
    fix = "Give a function of student and teacher log-probabilities (n, P) to (n,): a sum over the classes alone."
    raise ArgumentError("soft_term", soft_term, f"{problem} for 3 rows of {classes} classes.", fix) from cause


def clear_of_rounding(divergence: float) -> float:
    """A mean divergence for the log: one that rounding alone has put below 0 is 0. A sampled one may be below it."""
    return 0.0 if -1e-6 < divergence < 0.0 else divergence
