"""Exact widening by an integer ratio: channels are copied, and copies share what reads them
(HyperCloning, arXiv 2409.12903; Net2Net); and exact depth."""

from transformers import PreTrainedModel

from ...parts import Reference
from ..building import complete
from ..checkpoint import Teacher
from ..depth.rules import find_deepening, way_out
from ..proxy.model import FIX, Proxies
from ..report import Outcome, Source
from ..strategy import EXACT, NET2NET, PROVEN, TILED, Strategy
from ..verify.compare import compare, require_preserved
from ..verify.diagnosis import why_not_deeper
from ..widening import plan_copies
from ..width.mapping import Plan, apply_plan, unproven


def copy_channels(
    student: PreTrainedModel,
    teacher: Teacher,
    *,
    depth: str = "append",
    symmetry: float = 0.5,
    seed: int = 0,
    proxies: Proxies,
    steps: Plan,
) -> Outcome:
    """Make `student` compute what the teacher does, in place.

    Args:
        student: of the larger config; every parameter is overwritten.
        depth: a key of `DEPTHS`; "append" and "interleave" are exact.
        symmetry: 0 for copies that share equally, which stay equal for ever; above 0 they can part in training.
        seed: of the unequal shares.
        proxies: as of `plan_copies`.
        steps: of `plan_copies`.

    Raises:
        GrowthNotPreservedError: naming the axis or module, and why.
    """
    apply_plan(steps, teacher.model, student, symmetry, seed, progress=True)
    complete(student, steps)
    evidence = compare(teacher.model, student, seed)

    def why() -> tuple[str, str] | None:
        deeper = find_deepening(teacher.skeleton, student, depth, proxies)
        return why_not_deeper(teacher.model, student, deeper, seed)

    require_preserved(evidence, "clone", way_out(depth, teacher.skeleton, student, FIX), why)
    sources = {name: Source(steps[name].source, p.numel(), 0) for name, p in student.named_parameters()}
    return Outcome(sources, evidence.preserved, evidence.difference, unproven=unproven(steps))


STRATEGY = Strategy(
    "clone",
    "widths grow to whole multiples by copies of channels, depth by identity layers",
    copy_channels,
    promise=EXACT,
    references=(
        NET2NET,
        Reference("widening by integer ratios", "HyperCloning", "2409.12903"),
        Reference("identity layers", "LEMON", "2310.07999"),
        PROVEN,
    ),
    plan=plan_copies,
    verb="tiled",
    meaning=TILED,
    exact=True,
    writes_all=True,
    by_parts=True,
)
