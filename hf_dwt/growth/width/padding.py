"""One parameter of a student whose new channels carry nothing: `pad` says why, this module how.

Legend: d, D widths of the residual stream of teacher and student.
"""

import torch
from torch import Tensor

from ..axes import Axis
from .mapping import Plan, Step, kind
from .residual_stream import Roles


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
    scaled_up: bool = False,
) -> None:
    """Write one parameter of the student, in place.

    Args:
        weight: the teacher's.
        own: the student's own initialisation, which stays wherever the teacher's does not go.
        width: (d, D).
        reads: whether it belongs to what reads the stream behind a norm.
        scaled_up: whether what is written to the stream is scaled up, instead of eps down.
    """
    if not step.axes:
        own.copy_(weight)
        return
    if step.constant is not None:
        own.fill_(step.constant)
        return
    module = kind(name.rpartition(".")[0])
    factor, up = step.gain.factor if step.gain else 1.0, (width[1] / width[0]) ** 0.5 if scaled_up else 1.0
    if module in roles.norms and _is_stream(step.axes[0], width):
        factor *= up if module in roles.writers else 1.0
        _pad_norm(weight, own, name.endswith("bias"), roles.norms[module], factor, step.axes[0])
        return
    if module in roles.within | roles.bare and any(
        (part.old, part.new) == width for dim in step.summed for part in step.axes[dim].segments
    ):
        factor *= (width[0] / width[1]) ** 0.5
    writes = False
    places, sources = zip(*(kept(axis) for axis in step.axes), strict=True)
    own[torch.meshgrid(*places, indexing="ij")] = weight[torch.meshgrid(*sources, indexing="ij")]
    for dim, axis in enumerate(step.axes):
        if not axis.grows:
            continue
        new = torch.ones(axis.new, dtype=torch.bool)
        new[places[dim]] = False
        index: tuple[slice | Tensor, ...] = (*[slice(None)] * dim, new)
        stream = _along_stream(name, dim, axis, roles, width)
        if dim in step.summed:
            if not (stream and reads):
                own[index] = 0.0
        elif stream and not reads:
            writes = True
            mean = own.index_select(dim, axis.first).mean(dim, keepdim=True) if roles.centred else own.new_zeros(())
            own[index] = mean
    if (factor := factor * up if writes else factor) != 1.0:
        own.mul_(factor)


def kept(axis: Axis) -> tuple[Tensor, Tensor]:
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


def _pad_norm(weight: Tensor, own: Tensor, bias: bool, unit: bool, factor: float, axis: Axis) -> None:
    """Write a norm's weight, times sqrt(d / D), or bias, in place."""
    if bias:
        own.zero_()
    scale = factor if bias else factor * (axis.old / axis.new) ** 0.5
    places, sources = kept(axis)
    own[places] = ((1 + weight) * scale - 1 if unit and not bias else weight * scale)[sources]
