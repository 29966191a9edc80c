"""Advanced knowledge initialisation (AKI): new neurons are taken from the layer above
(bert2BERT, Chen et al., ACL 2022, arXiv 2110.07143, section 3.2.2).

Every matrix is first widened along its inputs as in cloning: copies of an input share its weight. Its old outputs are
those of the same layer, its new ones those of the layer above; the last layer, norms and embeddings are copied as in
cloning. Not exact, by intent: the layer above breaks the symmetry of copies, and the paper trains faster from it.

Two differences from the paper, both because the plan is the generic one: a new output j is a copy of output j mod old
instead of a random one, so that heads stay whole and the residual stream and the heads share one map; and any
architecture that the plan knows is widened, not BERT alone.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...parts import Reference
from ..building import complete
from ..checkpoint import Teacher
from ..config.sizes import stream_width
from ..origins import tensors
from ..paging import fill, weights
from ..proxy.model import Proxies
from ..report import Outcome, Source
from ..strategy import NET2NET, PROVEN, TILED, Strategy
from ..verify.compare import compare
from ..widening import plan_copies
from ..width.mapping import Plan, Step, make_tensor


@torch.no_grad()
def take_from_above(student: PreTrainedModel, teacher: Teacher, *, seed: int = 0, steps: Plan) -> Outcome:
    """Fill `student` in place; the outcome says by how much it differs from its teacher.

    Args:
        student: of the larger config, at any ratio; every parameter is overwritten.
        seed: of the comparison.
        steps: of `plan_from_above`.
    """
    theirs = weights(teacher.model)

    def make(name: str, tensor: Tensor) -> None:
        step = steps[name]
        make_tensor(name, step, theirs[step.source], 0.0, seed, tensor)
        if step.above is not None:
            take_upper_outputs(step, tensor, make_tensor(name, step, theirs[step.above], 0.0, seed))

    fill(student, make)
    complete(student, steps)
    evidence = compare(teacher.model, student, seed)
    parameters = {name: Source(steps[name].source, p.numel(), 0) for name, p in student.named_parameters()}
    above = sum(steps[name].above is not None for name in parameters)
    note = f"aki: the new outputs of {above} parameters are from the layer above"
    return Outcome(parameters, evidence.preserved, evidence.difference, (note,))


def plan_from_above(student: PreTrainedModel, teacher: Teacher, *, depth: str = "stack", proxies: Proxies) -> Plan:
    """What `take_from_above` does with every parameter; no weight is read or moved.

    Raises:
        GrowthNotPreservedError: a parameter that the plan cannot explain, naming the axis or module, and why.
    """
    ratio = stream_width(student.config) / stream_width(teacher.config)
    plan = plan_copies(student, teacher, depth=depth, proxies=proxies, times=2)
    above = layers_above(teacher.skeleton, plan)
    return {name: replace(_scaled(step, ratio), above=above.get(name)) for name, step in plan.items()}


def layers_above(teacher: torch.nn.Module, plan: Plan) -> dict[str, str]:
    """Student's parameter -> the same parameter of the layer above its source, for matrices and their biases.

    The layer above is the next of its list, where that has such a parameter of the same shape.
    """
    theirs = tensors(teacher)
    matrices = {step.source.rpartition(".")[0] for step in plan.values() if step.summed}
    found = {}
    for name, step in plan.items():
        module = step.source.rpartition(".")[0]
        upper = _above(step.source, teacher)
        same = upper in theirs and theirs[upper].shape == theirs[step.source].shape
        if module in matrices and step.constant is None and same:
            found[name] = upper
    return found


def _above(name: str, model: torch.nn.Module) -> str:
    """`name` with the first index into a list of layers one higher."""
    parts = name.split(".")
    module = model
    for i, part in enumerate(parts):
        if isinstance(module, torch.nn.ModuleList):
            return ".".join([*parts[:i], str(int(part) + 1), *parts[i + 1 :]])
        module = getattr(module, part, torch.nn.Module())
    return ""


def take_upper_outputs(step: Step, weight: Tensor, upper: Tensor) -> None:
    """Take the new places of the outputs of `weight`, the axes that are not summed over, from `upper`, in place."""
    for dim, axis in enumerate(step.axes):
        if axis.grows and dim not in step.summed:
            new = torch.ones(axis.new, dtype=torch.bool)
            new[axis.first] = False
            weight.movedim(dim, 0)[new] = upper.movedim(dim, 0)[new]


def _scaled(step: Step, ratio: float) -> Step:
    """A gain found for doubled channels, for a stream that is `ratio` times as wide."""
    if step.gain is None:
        return step
    return replace(step, gain=replace(step.gain, factor=ratio ** math.log2(step.gain.factor)))


STRATEGY = Strategy(
    "aki",
    "bert2BERT's: new neurons are taken from the layer above, layers are stacked",
    take_from_above,
    promise="not exact, the report has the measured error",
    references=(NET2NET, Reference("advanced knowledge initialisation", "bert2BERT", "2110.07143"), PROVEN),
    plan=plan_from_above,
    verb="tiled",
    meaning=TILED,
    writes_all=True,
    by_parts=True,
)
