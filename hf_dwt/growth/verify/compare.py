"""Whether a student computes what its teacher does: the outputs of both on random batches."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import GrowthError, GrowthNotPreservedError, first_line
from ...modes import evaluation_mode
from ...precision import in_fp32, without_tf32
from ..config.rebuild import CONFIG_ERRORS
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


@dataclass(frozen=True)
class Evidence:
    """What a comparison of teacher and student found.

    Args:
        difference: largest difference of the outputs, relative to the largest output or 1.
        tolerance: up to which the student counts as the same function.
    """

    difference: float
    tolerance: float

    @property
    def preserved(self) -> bool:
        """Whether the student computes what the teacher does."""
        return self.difference <= self.tolerance


def compare(teacher: PreTrainedModel, student: PreTrainedModel, seed: int = 0) -> Evidence:
    """The outputs of both in eval mode on random batches with padding; hidden states are compared as tiled."""
    dtypes = teacher.dtype, student.dtype
    allowed = {**TOLERANCES, **dict.fromkeys({*dtypes} - TOLERANCES.keys(), 1e-1)}
    with evaluation_mode(teacher, student), torch.no_grad():
        try:
            with without_tf32(), in_fp32(teacher), in_fp32(student):
                worst = _worst(teacher, student, seed)
        except (GrowthError, RuntimeError) as error:
            if not {*dtypes} & COARSE.keys() or not isinstance(error.__cause__ or error, RuntimeError):
                raise
            allowed |= COARSE
            worst = _worst(teacher, student, seed)
    return Evidence(worst, max(allowed[dtype] for dtype in dtypes))


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
    if not evidence.preserved:
        found, allowed = f"{evidence.difference:.2g}", f"{evidence.tolerance:g}"
        where, reason = why() or ("init", "")
        problem = f"{reason} The student's outputs differ by {found} of the largest; {allowed} is allowed.".strip()
        raise GrowthNotPreservedError(where, strategy, problem, fix)
