"""Exact widening by an integer ratio: channels are copied, and copies share what reads them
(HyperCloning, arXiv 2409.12903; Net2Net); and exact depth."""

from transformers import PreTrainedModel

from ...errors import GrowthNotPreservedError
from ..checkpoint import Teacher, complete
from ..config.sizes import size
from ..depth.deepening import find_deepening
from ..depth.rules import way_out
from ..proxy.model import FIX
from ..report import Outcome, Source
from ..verify.compare import compare, require_preserved
from ..verify.diagnosis import why_not_deeper
from ..width.layouts import named_sizes
from ..width.mapping import Plan, apply_plan, make_plan, unproven
from ..width.recipe import find_recipe
from .remap import Rest


def clone_init(
    student: PreTrainedModel,
    teacher: Teacher,
    rest: Rest,
    *,
    depth: str = "append",
    symmetry: float = 0.5,
    seed: int = 0,
    steps: Plan | None = None,
) -> Outcome:
    """Make `student` compute what the teacher does, in place.

    Args:
        student: of the larger config, `teacher.blank` perhaps; every parameter is overwritten, so `rest` has nothing
            to fill.
        teacher: the smaller model.
        rest: unused.
        depth: a key of `depth.DEPTHS`; "append" and "interleave" are exact.
        symmetry: 0 for copies that share equally, which stay equal for ever; above 0 they can part in training.
        seed: of the unequal shares.
        steps: of `plan_clone`, if it was asked before.

    Raises:
        GrowthNotPreservedError: naming the axis or module, and why.
    """
    plan = plan_clone(student, teacher, depth, seed) if steps is None else steps
    apply_plan(plan, teacher.model, student, symmetry, seed, progress=True)
    complete(student, plan)
    evidence = compare(teacher.model, student, seed)
    require_preserved(
        evidence, "clone", way_out(depth, teacher.skeleton, student, FIX), lambda: _why(teacher, student, depth, seed)
    )
    sources = {name: Source(plan[name].source, p.numel(), 0) for name, p in student.named_parameters()}
    return Outcome(sources, evidence.preserved, evidence.difference, unproven=unproven(plan))


def _why(teacher: Teacher, student: PreTrainedModel, depth: str, seed: int) -> tuple[str, str] | None:
    return why_not_deeper(teacher.model, student, find_deepening(teacher.skeleton, student, depth, seed), seed)


def plan_clone(
    student: PreTrainedModel, teacher: Teacher, depth: str = "append", seed: int = 0, times: int | None = None
) -> Plan:
    """What `clone_init` will do with every parameter; no weight is read or moved.

    Args:
        times: by how much the proxies grow, where that is not the student's ratio.

    Raises:
        GrowthNotPreservedError: as `clone_init`.
    """
    deeper = find_deepening(teacher.skeleton, student, depth, seed)
    try:
        recipe = find_recipe(type(teacher.skeleton), teacher.config, student.config, seed, times)
    except GrowthNotPreservedError as error:
        old, new = size(teacher.config, "hidden_size"), size(student.config, "hidden_size")
        if times or not old or not new or new % old == 0:
            raise
        problem = f"Copies of whole channels make multiples of the teacher's {old}."
        fix = f"Use {new // old * old + old}, or init='pad' if it is a pre-norm model, or 'remap', which is not exact."
        raise GrowthNotPreservedError("hidden_size", new, problem, fix) from error
    return make_plan(teacher.skeleton, student, recipe, named_sizes(teacher.config, student.config), deeper.origin)
