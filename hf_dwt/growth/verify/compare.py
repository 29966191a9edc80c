"""Whether a student computes what its teacher does: the outputs of both on random batches."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import GrowthError, GrowthNotPreservedError, first_line
from ...modes import evaluation_mode
from ...precision import HALF, in_fp32, without_tf32
from ..config.rebuild import CONFIG_ERRORS
from ..paging import in_memory, pages_of
from ..proxy.activations import difference, main_output
from ..proxy.batches import Batch, on, random_batch
from ..proxy.model import FIX

TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""dtype of the weights -> largest difference of logits, relative to the largest logit or 1, all computed in fp32.

Measured on eighteen tiny types: rounding the grown weights gives 1.8e-3 at most in fp16 (ResNet) and 1.4e-2 in bf16
(Bamba); one matrix whose copies do not share its weight gives 0.036 (Gemma 3) and more. A mixture of experts in bf16
may send a token elsewhere (0.25 was seen) and is refused then: grow it in fp32."""
COARSE = {torch.float16: 5e-2, torch.bfloat16: 1e-1}
"""The same where a module reads the weights of another and has to be run as it is; exact growth gives up to 0.08."""
BATCHES = 2
CAST = 2**30
"""Bytes of the largest parameter of half precision that is cast to fp32 where models are on disk."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evidence:
    """What a comparison of teacher and student found.

    Args:
        difference: largest difference of the outputs, relative to the largest output or 1; NaN where these could not
            be compared.
        tolerance: up to which the student counts as the same function.
    """

    difference: float
    tolerance: float

    @property
    def preserved(self) -> bool | None:
        """Whether the student computes what the teacher does; None where they could not be compared."""
        return None if math.isnan(self.difference) else self.difference <= self.tolerance


def compare(teacher: PreTrainedModel, student: PreTrainedModel, seed: int = 0) -> Evidence:
    """The outputs of both in eval mode on random batches with padding; hidden states are compared as tiled.

    Of a model on disk a part is in memory while it runs. One that cannot be run so is not compared.
    """
    if all(pages_of(model) is None for model in (teacher, student)):
        return _compared(teacher, student, seed)
    for unit in (None, 0):  # some classes call the modules in a part without the part itself
        try:
            return _compared(teacher, student, seed, unit)
        except torch.OutOfMemoryError:
            raise
        except (GrowthError, RuntimeError) as error:
            problem = first_line(error)
    logger.warning("The student is not compared with its teacher on their own weights: %s", problem)
    return Evidence(math.nan, math.nan)


def _compared(teacher: PreTrainedModel, student: PreTrainedModel, seed: int, unit: int | None = None) -> Evidence:
    dtypes = teacher.dtype, student.dtype
    allowed = {**TOLERANCES, **dict.fromkeys({*dtypes} - TOLERANCES.keys(), 1e-1)}
    with evaluation_mode(teacher, student), torch.no_grad():
        try:
            if any(_too_large(model) for model in (teacher, student)):
                raise RuntimeError("fp32 would take more memory than it may")
            with (
                without_tf32(),
                in_memory(teacher, student, wide=True, unit=unit),
                in_fp32(teacher),
                in_fp32(student),
            ):
                worst = _worst(teacher, student, seed)
        except (GrowthError, RuntimeError) as error:
            if not {*dtypes} & COARSE.keys() or not isinstance(error.__cause__ or error, RuntimeError):
                raise
            allowed |= COARSE
            with in_memory(teacher, student, unit=unit):
                worst = _worst(teacher, student, seed)
    return Evidence(worst, max(allowed[dtype] for dtype in dtypes))


def _too_large(model: PreTrainedModel) -> bool:
    """Whether a parameter of half precision that is on disk is too large to be cast to fp32."""
    return pages_of(model) is not None and any(p.dtype in HALF and 2 * p.numel() > CAST for p in model.parameters())


def _worst(teacher: PreTrainedModel, student: PreTrainedModel, seed: int) -> float:
    worst = 0.0
    for n in range(BATCHES):
        batch = random_batch(teacher, seed=1000 * seed + n)
        theirs, ours = _run(teacher, batch), _run(student, batch)
        worst = max(worst, difference(ours, theirs))
    return worst


def _run(model: PreTrainedModel, batch: Batch) -> Tensor:
    """What a teacher or student puts out.

    Raises:
        GrowthError: its class builds it with these sizes, but cannot run it.
    """
    try:
        return main_output(model(**on(batch, model))).cpu()
    except CONFIG_ERRORS as error:
        problem = f"{type(model).__name__} cannot be run with these sizes: {first_line(error)}."
        raise GrowthError("config", type(model.config).__name__, problem, "Choose other sizes.") from error


def require_preserved(
    evidence: Evidence, strategy: str, fix: str = FIX, why: Callable[[], tuple[str, str] | None] = lambda: None
) -> None:
    """Raise unless the final comparison found the same function; `why` finds (where, a sentence) then."""
    if evidence.preserved is False:
        found, allowed = f"{evidence.difference:.2g}", f"{evidence.tolerance:g}"
        where, reason = why() or ("init", "")
        problem = f"{reason} The student's outputs differ by {found} of the largest; {allowed} is allowed.".strip()
        raise GrowthNotPreservedError(where, strategy, problem, fix)
