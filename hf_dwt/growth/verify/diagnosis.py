"""Why a student differs from its teacher: where it first does, and what in the architecture is the cause.

Nothing is guessed from names: what modules read is compared in the order of their calls, and a cause is named only if
a measurement shows it.

Legend: d, D widths of what a module reads in teacher and student.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...modes import evaluation_mode
from ..axes import Axis
from ..depth.rules import Deepening
from ..paging import pages_of
from ..proxy.activations import Records, apart, record
from ..proxy.batches import Batch, on, random_batch
from ..proxy.probes import reads_no_values, scales, subtracts_mean
from ..width.mapping import Plan, kind

SAME = 1e-3
"""Largest difference of what two modules read, relative to the largest value or 1, that is rounding."""

Inputs = list[tuple[str, Tensor]]
"""(module, what it reads) of each call in order."""

Kept = Callable[[Axis], tuple[Tensor, Tensor]]
"""An axis -> (places in the student's that hold the teacher's channels, these channels)."""


@dataclass(frozen=True)
class Read:
    """What one module reads in both models.

    Args:
        module: its name.
        before: the name of the module that was called before it; empty for the first.
        theirs: the teacher's.
        ours: the student's.
        dim: of the channels.
        kept: places of the student's channels that hold the teacher's, and these channels of the teacher.
        factor: which the module's matrix takes back.
    """

    module: str
    before: str
    theirs: Tensor
    ours: Tensor
    dim: int
    kept: tuple[Tensor, Tensor]
    factor: float = 1.0

    @property
    def widths(self) -> tuple[int, int]:
        """(d, D)."""
        return self.theirs.shape[self.dim], self.ours.shape[self.dim]

    def difference(self, theirs: Tensor, ours: Tensor) -> float:
        """By how much the student's has other values in the teacher's channels."""
        places, sources = self.kept
        return apart(ours.index_select(self.dim, places) * self.factor, theirs.index_select(self.dim, sources))

    @property
    def differs(self) -> bool:
        """Whether the module reads something else in the student."""
        return self.difference(self.theirs, self.ours) > SAME


@torch.no_grad()
def why_not_padded(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    plan: Plan,
    kept: Kept,
    width: tuple[int, int],
    norms: Collection[str],
    seed: int,
) -> tuple[str, str] | None:
    """(module, sentence) of the first place at which a padded `student` leaves its teacher; None if none is found.

    Args:
        teacher: changed nowhere.
        student: whose eps are changed and put back.
        kept: how padding reads an axis.
        width: of the residual stream, in both.
        norms: kinds of modules that normalise it.
        seed: of the batch.
    """
    if pages_of(student) is not None:  # its modules cannot be called one by one
        return None
    batch = random_batch(teacher, seed)
    theirs, ours = _recorded(teacher, batch), _recorded(student, batch)
    first = None
    for read in _reads(theirs, ours, plan, kept):
        if read.differs:
            if reads_no_values(teacher.get_submodule(read.module), read.theirs):
                continue
            first = read
            break
        if read.widths[0] != read.widths[1] and (why := _of_norm(read, teacher, student, theirs, width)):
            return read.module, why
    if (norm := _with_another_eps(teacher, student, plan, kept, norms, batch, first)) is not None:
        return norm, "It has the eps of the norms of the residual stream, which alone have to get a smaller one."
    if first is None:
        return None
    where = f" behind {first.before}" if first.before else ""
    return first.module, f"It is the first module that reads something else than the teacher's{where}."


@torch.no_grad()
def why_not_deeper(
    teacher: PreTrainedModel, student: PreTrainedModel, deeper: Deepening, seed: int
) -> tuple[str, str] | None:
    """(module, sentence) of the first place at which a deeper `student` of the same width leaves its teacher."""
    if pages_of(student) is not None:
        return None
    batch = random_batch(teacher, seed)
    theirs, ours = _recorded(teacher, batch).inputs, _recorded(student, batch).inputs
    if not deeper.origins:
        return _called_more_often(theirs, ours)
    norms = {name.rpartition(".")[0] for one in deeper.identities.values() for name in one.last_norm}
    old, before, after_new = iter(theirs), "", False
    for name, new in ours:
        source = deeper.source(name)
        if source is None:
            after_new = True
            continue
        module, given = next(old, ("", torch.zeros(0)))
        if module != source or given.shape != new.shape:
            return None
        if apart(new, given) > SAME:
            layer = next((f"{path}." for path in deeper.origins if name.startswith(f"{path}.")), "")
            layer += name.removeprefix(layer).partition(".")[0] if layer else ""
            if layer and before.startswith(f"{layer}.") and kind(before) in norms:
                why = f"It reads, in the same layer, what {before} puts out, whose weight moves behind new layers."
                return module, why
            why = "Before any new layer it reads something else: the number of layers decides what it reads."
            return None if after_new else (module, why)
        before = name
    return None


def _called_more_often(theirs: Inputs, ours: Inputs) -> tuple[str, str] | None:
    """(module, sentence) of the first that the student calls more often than the teacher does."""
    for module in dict.fromkeys(name for name, _ in theirs):
        a, b = (sum(name == module for name, _ in inputs) for inputs in (theirs, ours))
        if b > a:
            return module, f"No layer is new: the deeper model calls this one {b} times instead of {a}."
    return None


def _reads(theirs: Records, ours: Records, plan: Plan, kept: Kept) -> Iterator[Read]:
    """What modules read, while both models call the same ones; not embeddings and the head, which carry gains."""
    before = ""
    for (module, old), (name, new) in zip(theirs.inputs, ours.inputs, strict=False):
        if module != name or old.ndim != new.ndim:
            return
        dims = [dim for dim, (a, b) in enumerate(zip(old.shape, new.shape, strict=True)) if a != b]
        if module not in theirs.readers and module != theirs.head_name and len(dims) < 2:
            dim = dims[0] if dims else old.ndim - 1
            a, b = old.shape[dim], new.shape[dim]
            steps = [step for key, step in plan.items() if key.rpartition(".")[0] == module]
            # What it sums over is what it reads, where its output is as wide.
            ranked = sorted((d in step.summed, i, d) for i, step in enumerate(steps) for d in range(len(step.axes)))
            axes = [steps[i].axes[d] for _, i, d in ranked if steps[i].axes[d].old == a and steps[i].axes[d].new == b]
            factor = next((s.gain.factor for s in steps if s.gain is not None and s.gain.fan_in), 1.0)
            yield Read(module, before, old, new, dim, kept(axes[-1] if axes else Axis.whole(a, b)), factor)
        before = module


def _of_norm(
    read: Read, teacher: PreTrainedModel, student: PreTrainedModel, theirs: Records, width: tuple[int, int]
) -> str | None:
    """Why a norm that grows puts out something else, where its new channels do not carry what keeps its statistics."""
    norm, other = teacher.get_submodule(read.module), student.get_submodule(read.module)
    subtracts = subtracts_mean(norm, read.theirs)
    if subtracts is None or read.difference(norm(read.theirs), other(read.ours)) <= SAME:
        return None
    new = torch.ones(read.widths[1], dtype=torch.bool)
    new[read.kept[0]] = False
    places = new.nonzero()[:, 0]
    wanted, wish = read.theirs.mean(read.dim, keepdim=True), "the mean of the others"
    if not subtracts:
        wanted, wish = torch.zeros_like(wanted), "0"
    found = read.ours.index_select(read.dim, places)
    if apart(found, wanted.expand_as(found), read.theirs) <= SAME:
        return None
    if read.widths != width:
        d, wide = read.widths
        return (
            f"It normalises {wide} channels instead of {d}, and padding keeps the residual stream's statistics alone."
        )
    if (writer := _norm_that_writes(read, teacher, theirs)) is not None:
        return (
            f"It normalises what {writer}, a norm too, has put out: on new channels that is a constant, and would "
            f"have to be {wish} (post-norm)."
        )
    if read.before and scales(teacher.get_submodule(read.before)):
        return f"{read.before} scales each channel by itself, so that new ones do not carry {wish} for it."
    return f"It normalises what new channels carry behind {read.before or 'the input'}, and that is not {wish}."


def _norm_that_writes(read: Read, teacher: PreTrainedModel, theirs: Records) -> str | None:
    """The norm whose output is what `read.module` reads, or that plus what the module before it has put out."""
    outputs: dict[str, Tensor] = {}
    for module, given in theirs.inputs:
        if module == read.module:
            break
        try:
            out = teacher.get_submodule(module)(given)
        except Exception:  # it takes more than one tensor
            continue
        if isinstance(out, Tensor) and out.shape == read.theirs.shape:
            outputs[module] = out
    last = outputs.get(read.before)
    for module, out in reversed(outputs.items()):
        if subtracts_mean(teacher.get_submodule(module), out) is not None:
            sums = [out] if last is None or module == read.before else [out, out + last]
            # Rows of padding may be set to 0 in between.
            if any(((s - read.theirs).abs().amax(-1) < SAME).float().mean() > 0.5 for s in sums):
                return module
    return None


def _with_another_eps(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    plan: Plan,
    kept: Kept,
    norms: Collection[str],
    batch: Batch,
    first: Read | None,
) -> str | None:
    """The module, none of `norms`, whose eps alone makes `first` differ, or the output where that is None."""
    changed: list[tuple[str, nn.Module, str, float]] = []
    for name, module in teacher.named_modules():
        other = student.get_submodule(name)
        for key, value in module.__dict__.items():
            if (
                "eps" in key
                and isinstance(value, float)
                and kind(name) not in norms
                and other.__dict__.get(key) != value
            ):
                changed.append((name, other, key, getattr(other, key)))
                setattr(other, key, value)
    if not changed:
        return None
    theirs, ours = _recorded(teacher, batch), _recorded(student, batch)
    for _, module, key, smaller in changed:
        setattr(module, key, smaller)
    order = [name for name, _ in theirs.inputs]
    end = order.index(first.module) if first is not None else len(order)
    ran = [name for name in order[:end] if name in {name for name, *_ in changed}]
    left = next((read.module for read in _reads(theirs, ours, plan, kept) if read.differs), None)
    same = apart(ours.output, theirs.output) < SAME / 20 if first is None else left is None or order.index(left) > end
    return ran[-1 if first is not None else 0] if same and ran else None


def _recorded(model: PreTrainedModel, batch: Batch) -> Records:
    """What modules read in eval mode."""
    with evaluation_mode(model):
        return record(model, on(batch, model))
