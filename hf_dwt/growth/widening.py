"""The plan of an exact growth by whole copies of channels and by identity layers, for the strategies that start so."""

from transformers import PreTrainedModel

from ..errors import GrowthNotPreservedError
from .checkpoint import Teacher
from .config.sizes import size
from .depth.rules import find_deepening
from .proxy.model import Proxies
from .width.layouts import named_sizes
from .width.mapping import Plan, make_plan
from .width.search import find_recipe


def plan_copies(
    student: PreTrainedModel, teacher: Teacher, *, depth: str = "append", proxies: Proxies, times: int | None = None
) -> Plan:
    """How every parameter is made where channels are copied whole; no weight is read.

    Args:
        student: of the larger config, on the meta device perhaps.
        depth: a key of `DEPTHS`; "append" and "interleave" are exact.
        proxies: tiny models on which the plan is proven.
        times: by how much these grow, where that is not the student's ratio.

    Raises:
        GrowthNotPreservedError: naming the axis or module for which this is not exact, and why.
    """
    deeper = find_deepening(teacher.skeleton, student, depth, proxies)
    try:
        recipe = find_recipe(proxies, times)
    except GrowthNotPreservedError as error:
        old, new = size(teacher.config, "hidden_size"), size(student.config, "hidden_size")
        if times or not old or not new or new % old == 0:
            raise
        problem = f"Copies of whole channels make multiples of the teacher's {old}."
        fix = f"Use {new // old * old + old}, or init='pad' if it is a pre-norm model, or 'remap', which is not exact."
        raise GrowthNotPreservedError("hidden_size", new, problem, fix) from error
    return make_plan(teacher.skeleton, student, recipe, named_sizes(teacher.config, student.config), deeper.origin)
