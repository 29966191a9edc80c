"""What becomes of every parameter before a weight moves: axes, segments, map, gain."""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ...errors import GrowthNotPreservedError
from ..axes import Axis, grow
from ..origins import tensors
from ..paging import fill, weights
from .layouts import Layout, Sizes, candidates, read_layout
from .trace import Usage

Key = tuple[str, int]
"""(kind of parameter: its name with the numbers of layers as *, dimension)."""


@dataclass(frozen=True)
class Gain:
    """A factor on what a module puts out, or, `fan_in`, on what it reads.

    Args:
        factor: what to multiply by.
        unit: the module computes (1 + weight) x, so that its weight becomes (1 + weight) factor - 1.
        fan_in: only the parameters that are summed over their inputs are multiplied.
        last: of a list of layers only the last is meant.
        head: it corrects what the head puts out.
    """

    factor: float
    unit: bool = False
    fan_in: bool = False
    last: bool = False
    head: bool = False


@dataclass(frozen=True)
class Recipe:
    """What the search found, free of sizes: layouts of each growing axis, gains, and how parameters are used.

    Layers of one kind may differ in size, as in a model of stages: of the layouts of an axis the first that adds up
    counts. `model_types` name the declarations to try where none does.
    """

    layouts: Mapping[Key, tuple[Layout, ...]] = field(default_factory=dict)
    gains: Mapping[str, Gain] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)
    model_types: tuple[str, ...] = ()

    def with_layout(self, keys: list[Key], layout: Layout) -> "Recipe":
        """This recipe with another layout for `keys`; those that were found before follow it."""
        found = {key: (layout, *(one for one in self.layouts.get(key, ()) if one != layout)) for key in keys}
        return replace(self, layouts={**self.layouts, **found})

    def with_gain(self, kind: str, gain: Gain) -> "Recipe":
        """This recipe with a gain on modules of `kind`, on top of one that is there."""
        before = self.gains.get(kind)
        if before and (before.unit, before.fan_in) == (gain.unit, gain.fan_in):
            gain = replace(gain, factor=gain.factor * before.factor)
        return replace(self, gains={**self.gains, kind: gain})


@dataclass(frozen=True)
class Step:
    """How one parameter of the student is made.

    Args:
        source: the teacher's name for it.
        axes: one for each dimension.
        summed: dimensions that are summed over, where copies share a weight.
        gain: a factor on top.
        constant: what fills it instead of the source, in an identity layer.
        seen: whether the search saw it at work; else how it is used is a guess that no comparison has proven.
        above: the teacher's parameter that its new outputs are taken from, where that is another than `source`.
    """

    source: str
    axes: tuple[Axis, ...]
    summed: frozenset[int]
    gain: Gain | None = None
    constant: float | None = None
    seen: bool = True
    above: str | None = None


Plan = dict[str, Step]
"""Name of a student's parameter or persistent buffer -> how it is made."""


def kind(name: str) -> str:
    """A name with the numbers of layers, experts and the like as *."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def kinds_of_usage(usage: Mapping[str, Usage]) -> dict[str, Usage]:
    """Usage by kind: an expert that no token reached is used as its neighbours are."""
    merged = dict(usage)
    for name, one in usage.items():
        if kind(name) == name:
            continue
        whole = merged.setdefault(kind(name), Usage())
        whole.summed |= one.summed
        whole.free |= one.free
        whole.unknown |= one.unknown
        whole.looked_up |= one.looked_up
        whole.used |= one.used
    return merged


Origin = Callable[[str], tuple[str, float | None]]
"""Name of a student's parameter -> (the teacher's, a constant that fills it instead or None)."""


def make_plan(
    teacher: nn.Module,
    student: nn.Module,
    recipe: Recipe,
    sizes: Sizes,
    origin: Origin = lambda name: (name, None),
    guessed: dict[Key, Axis] | None = None,
) -> Plan:
    """The plan of an exact growth; models may lie on the meta device.

    Args:
        recipe: what the search found.
        sizes: of teacher and student.
        origin: where the student's parameters come from.
        guessed: axes that no layout of the recipe describes, by name and dimension, kept from one plan to the next.

    Raises:
        GrowthNotPreservedError: a parameter without a source, an axis that no layout explains, an operation that is
            not known.
    """
    theirs, plan, guessed = tensors(teacher), {}, {} if guessed is None else guessed
    names = _aliases(student)
    for name, tensor in tensors(student).items():
        source, constant = origin(name)
        if source not in theirs:
            raise GrowthNotPreservedError(name, tuple(tensor.shape), "The teacher has no such parameter.", _SIZES)
        old, new = tuple(theirs[source].shape), tuple(tensor.shape)
        if len(old) != len(new):
            raise GrowthNotPreservedError(name, new, f"The teacher's has another number of axes: {old}.", _SIZES)
        usage = _usage(name, recipe, student)
        axes = tuple(
            _axis(name, dim, a, b, recipe, sizes, guessed) for dim, (a, b) in enumerate(zip(old, new, strict=True))
        )
        if usage.unknown and any(axis.grows for axis in axes):
            problem = f"The operation {min(usage.unknown)!r} uses it, and growth does not know what that does."
            raise GrowthNotPreservedError(name, new, problem, "Use init='remap', which promises nothing.")
        # An embedding that is summed over is a tied head, as is a matrix that writes the stream and reads it: they are
        # copied, and a gain corrects the head.
        summed = frozenset() if usage.looked_up else frozenset(usage.summed - usage.free)
        gain = _gain(names[id(tensor)], recipe, student, bool(summed))
        seen = usage.used or not any(axis.grows for axis in axes)
        plan[name] = Step(source, axes, summed, gain, constant, seen)
    return plan


_SIZES = "Leave the sizes that shape it as the teacher's."


def apply_plan(
    plan: Plan, teacher: nn.Module, student: nn.Module, symmetry: float, seed: int = 0, progress: bool = False
) -> None:
    """Fill `student` from `teacher`, one parameter at a time.

    Args:
        plan: parameters that it does not name stay as they are.
        progress: as of `fill`.
    """
    theirs = weights(teacher)

    def make(name: str, tensor: Tensor) -> None:
        make_tensor(name, plan[name], theirs[plan[name].source], symmetry, seed, tensor)

    fill(student, make, plan.keys(), progress)


def make_tensor(
    name: str, step: Step, weight: Tensor, symmetry: float, seed: int, out: Tensor | None = None
) -> Tensor:
    """One parameter of the student, written to `out` if that is given.

    What is drawn depends on `seed` and the name alone.
    """
    out = weight.new_empty([axis.new for axis in step.axes]) if out is None else out
    if not weight.dtype.is_floating_point:
        return grow(weight, step.axes, out=out)
    if step.constant is not None:
        return out.fill_(step.constant)
    gain = step.gain
    if gain is not None and gain.unit and name.endswith("weight"):
        # 1 + weight keeps too few digits in half precision; such a weight is one of a norm, and small.
        wide = grow(weight.to(torch.promote_types(weight.dtype, torch.float32)), step.axes)
        return out.copy_((1 + wide) * gain.factor - 1)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}.{name}".encode()))
    grow(weight, step.axes, step.summed, symmetry, generator, out)
    return out if gain is None else out.mul_(gain.factor)


def unproven(plan: Plan) -> tuple[str, ...]:
    """Names of parameters that grow and that no batch of the search reached, such as the towers for other inputs."""
    return tuple(name for name, step in plan.items() if not step.seen)


def growing(plan: Plan) -> Iterator[tuple[str, int, Axis]]:
    """(parameter, dimension, axis) of every axis that grows."""
    for name, step in plan.items():
        for dim, axis in enumerate(step.axes):
            if axis.grows:
                yield name, dim, axis


def _axis(name: str, dim: int, old: int, new: int, recipe: Recipe, sizes: Sizes, guessed: dict[Key, Axis]) -> Axis:
    if old == new:
        return Axis.whole(old, new)
    for layout in recipe.layouts.get((kind(name), dim), ()):
        if (axis := read_layout(layout, old, new, sizes)) is not None:
            return axis
    if (name, dim) not in guessed:
        layout = next(candidates(name, dim, old, new, sizes, recipe.model_types), ())
        if (axis := read_layout(layout, old, new, sizes)) is None:
            problem = f"Axis {dim} grows from {old} to {new}, which no layout of the config's sizes explains."
            raise GrowthNotPreservedError(name, (dim, old, new), problem, _SIZES)
        guessed[name, dim] = axis
    return guessed[name, dim]


def _usage(name: str, recipe: Recipe, model: nn.Module) -> Usage:
    usage = recipe.usage.get(name, Usage())
    if not usage.used:
        usage = recipe.usage.get(kind(name), Usage())
    path, _, leaf = name.rpartition(".")
    if not usage.used and leaf == "weight" and isinstance(model.get_submodule(path), nn.Linear):
        return Usage(summed={1})  # not part of the function that was traced; a linear layer all the same
    return usage


def _aliases(model: nn.Module) -> dict[int, list[str]]:
    """id of a parameter or buffer -> all its names; tied ones have several."""
    names: dict[int, list[str]] = {}
    for found in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in found:
            names.setdefault(id(tensor), []).append(name)
    return names


def _gain(names: list[str], recipe: Recipe, model: nn.Module, summed: bool) -> Gain | None:
    """The gain on any of the modules that a parameter belongs to."""
    for path in (name.rpartition(".")[0] for name in names):
        gain = recipe.gains.get(kind(path))
        if gain is not None and (summed or not gain.fan_in) and (is_last(path, model) or not gain.last):
            return gain
    return None


def is_last(path: str, model: nn.Module) -> bool:
    """Whether every index into a list of layers on the way to a module is the last."""
    module: nn.Module = model
    for part in path.split("."):
        if isinstance(module, nn.ModuleList) and int(part) != len(module) - 1:
            return False
        module = getattr(module, part)
    return True
