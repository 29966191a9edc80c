"""Exact widening of pre-norm models by any ratio: new channels of the residual stream carry nothing.

RMSNorm: new channels are 0, norms are scaled by sqrt(d / D) and their eps by d / D, so that the mean square over D
channels is that over d. LayerNorm: new channels carry the mean of the old ones, so that the mean stays and the
variance shrinks by d / D; norms likewise, their new biases 0. What reads the stream sees 0 there and may hold
anything; new heads and neurons may compute anything and are read with weight 0. (The idea: LEMON, arXiv 2310.07999.)

Where eps cannot shrink (it is in no config, or norms within layers share it) or norms have no weights, everything that
writes the stream is scaled by sqrt(D / d) instead ("louder"): its mean square over D channels is then that over d, and
eps stays. Norms that only write are not scaled down; what reads behind one without a weight is.

Legend: d, D widths of the residual stream of teacher and student.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import GrowthNotPreservedError
from ..axes import Axis
from ..checkpoint import Teacher, build
from ..config.sizes import grown_part, stream_width
from ..depth.deepening import find_deepening
from ..depth.rules import way_out
from ..proxy.batches import random_batch
from ..proxy.model import proxy, typed_errors
from ..proxy.scale import scaled
from ..proxy.shrink import shrink
from ..report import Outcome, Source
from ..verify.compare import compare, require_preserved
from ..verify.diagnosis import why_not_padded
from ..width.layouts import named_sizes
from ..width.mapping import Gain, Plan, Recipe, Step, kind, make_plan, tensors, unproven
from ..width.recipe import find_recipe
from ..width.residual_stream import FIX, Roles, find_roles
from .remap import Rest, keep_init

EPS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon", "layernorm_epsilon")
"""Config attributes that hold the eps of norms."""

_PRE_NORM = f"Padding is exact where no norm writes the residual stream (pre-norm). {FIX}"


def pad_init(
    student: PreTrainedModel,
    teacher: Teacher,
    rest: Rest,
    *,
    depth: str = "append",
    seed: int = 0,
    steps: Plan | None = None,
) -> Outcome:
    """Make `student` compute what the teacher does, in place; what it does not read keeps its own initialisation.

    Args:
        student: of the larger config, whose eps of norms may be scaled here.
        rest: unused: where the student's own initialisation would disturb the function, zeros must stand.
        depth: a key of `depth.DEPTHS`; "append" and "interleave" are exact.
        seed: of the proxies and of the comparison.
        steps: of `plan_pad`, if it was asked before.

    Raises:
        GrowthNotPreservedError: naming the axis or module, and why; a post-norm model whose stream grows among them.
    """
    skeleton = teacher.skeleton
    part = grown_part(teacher.config, student.config)
    width = d, new_d = stream_width(teacher.config, part), stream_width(student.config, part)
    plan = plan_pad(student, teacher, depth, seed) if steps is None else steps
    roles = Roles({}, frozenset(), False)
    if new_d != d:
        with typed_errors(type(skeleton)):
            small = proxy(type(skeleton), shrink(teacher.config), seed)
            roles = find_roles(small, random_batch(small, seed), stream_width(small.config, part))
    eps, why = _eps(student), None
    notes: tuple[str, ...] = ()
    _set_eps(eps, d / new_d)
    _fill(student, teacher, plan, roles, width)
    evidence = compare(teacher.model, student, seed)
    if not evidence.preserved:
        why = why_not_padded(teacher.model, student, plan, _kept, width, roles.norms, seed)
    if new_d != d and evidence.difference > evidence.tolerance / 2:
        _set_eps(eps, 1.0)
        louder = plan_pad(student, teacher, depth, seed, louder=True)
        _fill(student, teacher, louder, roles, width, louder=True)
        other = compare(teacher.model, student, seed)
        if other.difference < evidence.difference:
            evidence, notes = other, ("pad: what writes the residual stream is scaled up, and eps stays",)
        elif evidence.preserved:
            _set_eps(eps, d / new_d)
            _fill(student, teacher, plan, roles, width)
    require_preserved(evidence, "pad", way_out(depth, skeleton, student, _PRE_NORM), lambda: why)
    theirs = tensors(teacher.model)
    parameters = {}
    for name, parameter in student.named_parameters():
        copied = theirs[plan[name].source].numel()
        parameters[name] = Source(plan[name].source, copied, parameter.numel() - copied)
    return Outcome(parameters, evidence.preserved, evidence.difference, notes, unproven(plan))


@torch.no_grad()
def _fill(
    student: PreTrainedModel, teacher: Teacher, plan: Plan, roles: Roles, width: tuple[int, int], louder: bool = False
) -> None:
    """Write every tensor of the student."""
    theirs = tensors(teacher.model)
    for name, tensor in tensors(student).items():
        reads = reads_stream(name, plan, roles, width)
        weight = theirs[plan[name].source]
        tensor.copy_(pad_tensor(name, plan[name], weight, tensor, roles, width, reads, louder))


def plan_pad(
    student: PreTrainedModel, teacher: Teacher, depth: str = "append", seed: int = 0, louder: bool = False
) -> Plan:
    """What `pad_init` will do with every parameter; no weight is read or moved.

    Args:
        louder: whether what is written to the stream is scaled up, instead of eps down.
    """
    skeleton = teacher.skeleton
    deeper = find_deepening(skeleton, student, depth, seed)
    recipe = find_recipe(type(skeleton), teacher.config, student.config, seed, times=2)
    part = grown_part(teacher.config, student.config)
    ratio = stream_width(student.config, part) / stream_width(teacher.config, part)
    recipe = replace(recipe, gains=_gains(recipe, ratio, louder))
    return make_plan(skeleton, student, recipe, named_sizes(teacher.config, student.config), deeper.origin)


def plan_proven_pad(student: PreTrainedModel, teacher: Teacher, depth: str = "append", seed: int = 0) -> Plan:
    """`plan_pad`, tried on a tiny proxy: that the stream is written by norms is told by no layout.

    Raises:
        GrowthNotPreservedError: as `pad_init`.
    """
    plan = plan_pad(student, teacher, depth, seed)
    part = grown_part(teacher.config, student.config)
    if stream_width(student.config, part) != stream_width(teacher.config, part):
        with typed_errors(model_class := type(teacher.skeleton)):
            small = shrink(teacher.config)
            tiny = proxy(model_class, small, seed)
            large = build(model_class, scaled(small, teacher.config, student.config, times=2), "cpu").float().eval()
            skeleton = build(model_class, small, "meta")
        try:
            pad_init(large, Teacher("proxy", skeleton, lambda: (tiny, frozenset())), keep_init)
        except GrowthNotPreservedError as error:
            problem = f"{error.problem} This was measured on a tiny model of the type."
            raise GrowthNotPreservedError(error.argument, error.value, problem, error.fix) from error
    return plan


def _gains(recipe: Recipe, ratio: float, louder: bool) -> dict[str, Gain]:
    """The gains that a doubling of channels needs, for padding by `ratio`: nothing is summed over copies here."""
    tied = any(usage.looked_up and usage.summed for usage in recipe.usage.values())
    gains = {}
    for path, gain in recipe.gains.items():
        # Scaled up, a tied table is too large for the head by the square root of the ratio.
        power = math.log2(gain.factor) + ((0.5 if louder else 1.0) if gain.head and tied else 0.0)
        gains[path] = replace(gain, factor=ratio**power)
    return gains


def reads_stream(name: str, plan: Plan, roles: Roles, width: tuple[int, int]) -> bool:
    """Whether a parameter belongs to what reads the stream behind a norm; a bias goes with its matrix.

    A module of experts holds both: the matrix that is summed over the stream reads, the other one writes.
    """
    module, _, leaf = name.rpartition(".")
    if kind(module) not in roles.readers:
        return False
    if not plan[name].summed:
        matrices = [n for n in plan if n.rpartition(".")[0] == module and plan[n].summed]
        if not matrices:
            return False
        name = next((n for n in matrices if leaf.startswith(n.rpartition(".")[2])), matrices[0])
    step = plan[name]
    return not step.summed or any(_along_stream(name, dim, step.axes[dim], roles, width) for dim in step.summed)


def _along_stream(name: str, dim: int, axis: Axis, roles: Roles, width: tuple[int, int]) -> bool:
    """Whether an axis is the residual stream, and is not as wide by chance."""
    return (axis.old, axis.new) == width and (kind(name), dim) not in roles.apart


def pad_tensor(
    name: str,
    step: Step,
    weight: Tensor,
    own: Tensor,
    roles: Roles,
    width: tuple[int, int],
    reads: bool,
    louder: bool = False,
) -> Tensor:
    """One parameter of the student.

    Args:
        weight: the teacher's.
        own: the student's own initialisation, which stays where nothing is said.
        width: (d, D).
        reads: whether it belongs to what reads the stream behind a norm.
        louder: whether what is written to the stream is scaled up, instead of eps down.
    """
    if not step.axes:
        return weight
    if step.constant is not None:
        return torch.full_like(own, step.constant)
    module = kind(name.rpartition(".")[0])
    factor, up = step.gain.factor if step.gain else 1.0, (width[1] / width[0]) ** 0.5 if louder else 1.0
    if module in roles.norms and _is_stream(step.axes[0], width):
        factor *= up if module in roles.writers else 1.0
        return _pad_norm(weight, own, name.endswith("bias"), roles.norms[module], factor, step.axes[0])
    if module in roles.within | roles.bare and any(
        (part.old, part.new) == width for dim in step.summed for part in step.axes[dim].segments
    ):
        factor *= (width[0] / width[1]) ** 0.5
    padded, writes = own.clone(), False
    places, sources = zip(*(_kept(axis) for axis in step.axes), strict=True)
    padded[torch.meshgrid(*places, indexing="ij")] = weight[torch.meshgrid(*sources, indexing="ij")]
    for dim, axis in enumerate(step.axes):
        if not axis.grows:
            continue
        new = torch.ones(axis.new, dtype=torch.bool)
        new[places[dim]] = False
        index: Any = (*[slice(None)] * dim, new)
        stream = _along_stream(name, dim, axis, roles, width)
        if dim in step.summed:
            if not (stream and reads):
                padded[index] = 0.0
        elif stream and not reads:
            writes = True
            mean = padded.index_select(dim, axis.first).mean(dim, keepdim=True)
            padded[index] = mean.expand_as(padded[index]) if roles.centred else torch.zeros_like(padded[index])
    return padded * (factor * up if writes else factor)


def _kept(axis: Axis) -> tuple[Tensor, Tensor]:
    """(places in the student's axis that hold the teacher's channels, these channels).

    Key/value heads that are to be shared by fewer query heads are repeated: old query heads read the new ones too.
    """
    places, sources, new, old = [], [], 0, 0
    for segment in axis.segments:
        shared = segment.name.startswith("key/")
        places.append(new + (torch.arange(segment.new) if shared else segment.first))
        sources.append(old + (segment.source if shared else torch.arange(segment.old)))
        new, old = new + segment.new, old + segment.old
    return torch.cat(places), torch.cat(sources)


def _is_stream(axis: Axis, width: tuple[int, int]) -> bool:
    """Whether an axis is the residual stream, perhaps in blocks, or several side by side."""
    whole = [(part.old, part.new) for part in axis.segments] == [width] * len(axis.segments)
    return whole or (axis.old, axis.new) == width


def _pad_norm(weight: Tensor, own: Tensor, bias: bool, unit: bool, factor: float, axis: Axis) -> Tensor:
    """A norm's weight, times sqrt(d / D), or bias."""
    padded = torch.zeros_like(own) if bias else own.clone()
    scale = factor if bias else factor * (axis.old / axis.new) ** 0.5
    places, sources = _kept(axis)
    padded[places] = ((1 + weight) * scale - 1 if unit and not bias else weight * scale)[sources]
    return padded


def _eps(student: PreTrainedModel) -> list[tuple[Any, str, float]]:
    """(what holds it, attribute, value) of the eps of norms, in the config too."""
    configs = {id(c): c for c in (student.config, student.config.get_text_config())}
    holders: list[tuple[Any, str]] = [(config, name) for config in configs.values() for name in EPS]
    known = {getattr(config, name, None) for config, name in holders}
    names = ("eps", "variance_epsilon", *EPS)
    holders += [(m, name) for m in student.modules() for name in names if m.__dict__.get(name) in known]
    found = [(holder, name, getattr(holder, name, None)) for holder, name in holders]
    return [(holder, name, value) for holder, name, value in found if isinstance(value, float)]


def _set_eps(eps: list[tuple[Any, str, float]], factor: float) -> None:
    """Give all of `eps` their value times `factor`."""
    for holder, name, value in eps:
        setattr(holder, name, value * factor)
