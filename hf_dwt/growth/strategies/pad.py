"""Exact widening of pre-norm models by any ratio: new channels of the residual stream carry nothing.

RMSNorm: new channels are 0, norms are scaled by sqrt(d / D) and their eps by d / D, so that the mean square over D
channels is that over d. LayerNorm: new channels carry the mean of the old ones, so that the mean stays and the
variance shrinks by d / D; norms likewise, their new biases 0. What reads the stream sees 0 there and may hold
anything; new heads and neurons may compute anything and are read with weight 0. (The idea: LEMON, arXiv 2310.07999.)

Where eps cannot shrink (it is in no config, or norms within layers share it) or norms have no weights, everything that
writes the stream is scaled up by sqrt(D / d) instead: its mean square over D channels is then that over d, and eps
stays. Norms that only write are not scaled down; what reads behind one without a weight is.

Legend: d, D widths of the residual stream of teacher and student.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import GrowthNotPreservedError
from ...parts import Reference
from ..checkpoint import Teacher
from ..config.sizes import grown_part, stream_width
from ..depth.rules import find_deepening, way_out
from ..origins import tensors
from ..paging import fill, weights
from ..proxy.model import Proxies, typed_errors
from ..report import Outcome, Source
from ..strategy import EXACT, PROVEN, Strategy
from ..verify.compare import compare, require_preserved
from ..verify.diagnosis import why_not_padded
from ..width.layouts import named_sizes
from ..width.mapping import Gain, Plan, Recipe, make_plan, unproven
from ..width.padding import kept, pad_tensor, reads_stream
from ..width.residual_stream import FIX, Roles, find_roles
from ..width.search import find_recipe

EPS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon", "layernorm_epsilon")
"""Config attributes that hold the eps of norms."""

_PRE_NORM = f"Padding is exact where no norm writes the residual stream (pre-norm). {FIX}"


def pad_channels(
    student: PreTrainedModel, teacher: Teacher, *, depth: str = "append", seed: int = 0, proxies: Proxies, steps: Plan
) -> Outcome:
    """Make `student` compute what the teacher does, in place; what it does not read keeps its own initialisation.

    Args:
        student: of the larger config, whose eps of norms may be scaled here.
        depth: a key of `DEPTHS`; "append" and "interleave" are exact.
        seed: of the comparison.
        proxies: as of `plan_padding`.
        steps: of `plan_padding`.

    Raises:
        GrowthNotPreservedError: naming the axis or module, and why; a post-norm model whose stream grows among them.
    """
    width = d, new_d = _widths(teacher, student)
    roles = _roles(teacher, student, proxies)
    eps, why = _eps(student), None
    notes: tuple[str, ...] = ()
    _set_eps(eps, d / new_d)
    _fill(student, teacher, steps, roles, width)
    evidence = compare(teacher.model, student, seed)
    if evidence.preserved is False:
        why = why_not_padded(teacher.model, student, steps, kept, width, roles.norms, seed)
    if new_d != d and evidence.difference > evidence.tolerance / 2:
        _set_eps(eps, 1.0)
        scaled_up = plan_padding(student, teacher, depth=depth, proxies=proxies, scaled_up=True)
        _fill(student, teacher, scaled_up, roles, width, scaled_up=True)
        other = compare(teacher.model, student, seed)
        if other.difference < evidence.difference:
            evidence, notes = other, ("pad: what writes the residual stream is scaled up, and eps stays",)
        elif evidence.preserved:
            _set_eps(eps, d / new_d)
            _fill(student, teacher, steps, roles, width)
    require_preserved(evidence, "pad", way_out(depth, teacher.skeleton, student, _PRE_NORM), lambda: why)
    theirs, parameters = tensors(teacher.skeleton), {}
    for name, parameter in student.named_parameters():
        copied = theirs[steps[name].source].numel()
        parameters[name] = Source(steps[name].source, copied, parameter.numel() - copied)
    return Outcome(parameters, evidence.preserved, evidence.difference, notes, unproven(steps))


def _widths(teacher: Teacher, student: PreTrainedModel) -> tuple[int, int]:
    """(d, D)."""
    part = grown_part(teacher.config, student.config)
    return stream_width(teacher.config, part), stream_width(student.config, part)


def _roles(teacher: Teacher, student: PreTrainedModel, proxies: Proxies) -> Roles:
    """Which modules read and write the residual stream, found on a tiny model; none where it does not grow."""
    old, new = _widths(teacher, student)
    if old == new:
        return Roles({}, frozenset(), False)
    part = grown_part(teacher.config, student.config)
    with typed_errors(proxies.model_class):
        width = stream_width(proxies.config, part)
        return proxies.once(("roles", width), lambda: find_roles(proxies.teacher, proxies.batch, width))


@torch.no_grad()
def _fill(
    student: PreTrainedModel,
    teacher: Teacher,
    plan: Plan,
    roles: Roles,
    width: tuple[int, int],
    scaled_up: bool = False,
) -> None:
    """Write every tensor of the student."""
    theirs = weights(teacher.model)

    def make(name: str, tensor: Tensor) -> None:
        reads = reads_stream(name, plan, roles, width)
        weight = theirs[plan[name].source]
        pad_tensor(name, plan[name], weight, tensor, roles, width, reads, scaled_up)

    fill(student, make)


def plan_padding(
    student: PreTrainedModel, teacher: Teacher, *, depth: str = "append", proxies: Proxies, scaled_up: bool = False
) -> Plan:
    """What `pad_channels` will do with every parameter; no weight is read or moved.

    Args:
        proxies: tiny models of both.
        scaled_up: whether what is written to the stream is scaled up, instead of eps down.
    """
    skeleton = teacher.skeleton
    deeper = find_deepening(skeleton, student, depth, proxies)
    recipe = find_recipe(proxies, times=2)
    old, new = _widths(teacher, student)
    recipe = replace(recipe, gains=_gains(recipe, new / old, scaled_up))
    return make_plan(skeleton, student, recipe, named_sizes(teacher.config, student.config), deeper.origin)


def plan_proven_padding(
    student: PreTrainedModel, teacher: Teacher, *, depth: str = "append", proxies: Proxies
) -> Plan:
    """`plan_padding`, tried on the proxies: no layout says whether norms write the stream.

    Raises:
        GrowthNotPreservedError: as `pad_channels`.
    """
    plan = plan_padding(student, teacher, depth=depth, proxies=proxies)
    old, new = _widths(teacher, student)
    if old != new:
        with typed_errors(proxies.model_class):
            large, weak = proxies.student(times=2), proxies.teacher
        tiny = Teacher("proxy", weak, lambda: (weak, frozenset()))
        try:
            pad_channels(large, tiny, proxies=proxies, steps=plan_padding(large, tiny, proxies=proxies))
        except GrowthNotPreservedError as error:
            problem = f"{error.problem} This was measured on a tiny model of the type."
            raise GrowthNotPreservedError(error.argument, error.value, problem, error.fix) from error
    return plan


def _gains(recipe: Recipe, ratio: float, scaled_up: bool) -> dict[str, Gain]:
    """The gains that a doubling of channels needs, for padding by `ratio`: nothing is summed over copies here."""
    tied = any(usage.looked_up and usage.summed for usage in recipe.usage.values())
    gains = {}
    for path, gain in recipe.gains.items():
        # Scaled up, a tied table is too large for the head by the square root of the ratio.
        power = math.log2(gain.factor) + ((0.5 if scaled_up else 1.0) if gain.head and tied else 0.0)
        gains[path] = replace(gain, factor=ratio**power)
    return gains


Eps = list[tuple[PreTrainedConfig | nn.Module, str, float]]
"""(what holds it, attribute, value) of the eps of norms."""


def _eps(student: PreTrainedModel) -> Eps:
    """The eps of norms, in the config too."""
    configs = {id(c): c for c in (student.config, student.config.get_text_config())}
    holders: list[tuple[PreTrainedConfig | nn.Module, str]] = [(c, name) for c in configs.values() for name in EPS]
    known = {getattr(config, name, None) for config, name in holders}
    names = ("eps", "variance_epsilon", *EPS)
    holders += [(m, name) for m in student.modules() for name in names if m.__dict__.get(name) in known]
    found = [(holder, name, getattr(holder, name, None)) for holder, name in holders]
    return [(holder, name, value) for holder, name, value in found if isinstance(value, float)]


def _set_eps(eps: Eps, factor: float) -> None:
    """Give all of `eps` their value times `factor`."""
    for holder, name, value in eps:
        setattr(holder, name, value * factor)


STRATEGY = Strategy(
    "pad",
    "widths of pre-norm models grow by any ratio, new channels carry nothing; depth grows by identity layers",
    pad_channels,
    promise=EXACT,
    references=(Reference("new channels and layers that change no output", "LEMON", "2310.07999"), PROVEN),
    plan=plan_proven_padding,
    verb="padded",
    meaning="the teacher's channels first; new ones carry nothing that is read",
    exact=True,
    ratios=((3, 2), (4, 3), (5, 4), (5, 3), (6, 5), (8, 7), (10, 9), (3, 1)),
    by_parts=True,
)
