"""What flows through a model, module by module, and how a student's compares with its teacher's."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..axes import Axis, Segment
from .batches import Batch


@dataclass
class Records:
    """What modules read in one pass.

    Args:
        inputs: (module, the first floating tensor that it reads) of each call of a module with parameters, in order;
            of a module that reads ids the output instead.
        readers: names of the modules that read ids.
        head: output of the head, None where there is none.
        head_name: its name.
        output: of the model.
    """

    inputs: list[tuple[str, Tensor]] = field(default_factory=list)
    readers: set[str] = field(default_factory=set)
    head: Tensor | None = None
    head_name: str = ""
    output: Tensor = field(default_factory=lambda: torch.zeros(0))


@torch.no_grad()
def record(model: PreTrainedModel, batch: Batch) -> Records:
    """Run `model` on `batch` and keep what its modules read."""
    records = Records()
    head = model.get_output_embeddings() or _tied_head(model)
    handles = []

    def keep(name: str, given: tuple[object, ...]) -> None:
        tensor = _first_float(given)
        if tensor is not None:
            records.inputs.append((name, tensor.detach().clone()))

    def keep_output(name: str, module: nn.Module, given: tuple[object, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            return
        if _first_float(given) is None:
            records.inputs.append((name, output.detach().clone()))
            records.readers.add(name)
        if module is head:
            records.head, records.head_name = output.detach().clone(), name

    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        handles += [
            module.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: keep(name, (*args, *kwargs.values())), with_kwargs=True
            ),
            module.register_forward_hook(
                lambda module, args, kwargs, output, name=name: keep_output(
                    name, module, (*args, *kwargs.values()), output
                ),
                with_kwargs=True,
            ),
        ]
    try:
        records.output = main_output(model(**batch))
    finally:
        for handle in handles:
            handle.remove()
    return records


def _tied_head(model: nn.Module) -> nn.Module | None:
    """A linear layer whose matrix is an embedding of the model: the head that a wrapper's class does not name."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return next((m for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) in embeddings), None)


def main_output(output: ModelOutput) -> Tensor:
    """The logits of a model's output, or the first floating tensor in it."""
    logits: object = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        logits = _first_float(output.to_tuple())
    if logits is None:
        raise ValueError("the model's output holds no floating tensor")
    return logits.detach()


def difference(ours: Tensor, theirs: Tensor, axes: Iterable[Axis] = ()) -> float:
    """Largest difference from the tiled `theirs`, relative to its largest value or 1.

    Args:
        ours: the student's tensor.
        theirs: the teacher's.
        axes: axes that a dimension may be instead of one whole segment.
    """
    return min((apart(*pair) for pair in _tiled(ours, theirs, list(axes))), default=float("inf"))


def ratio(ours: Tensor, theirs: Tensor, axes: Iterable[Axis] = (), centred: bool = True) -> float | None:
    """c where `ours` = c `theirs`, None where there is no such number.

    Args:
        axes: as of `difference`.
        centred: over all but the last dimension, so that a bias at the end does not hide the ratio.
    """
    pairs = list(_tiled(ours, theirs, list(axes)))
    if not pairs:
        return None
    ours, theirs = min(pairs, key=lambda pair: apart(*pair))
    a, b = (_clean(t).reshape(-1, t.shape[-1]) for t in (ours, theirs))
    if centred and a.shape[0] > 1:
        a, b = a - a.mean(0), b - b.mean(0)
    square = (b * b).sum()
    if not square > 0:
        return None
    multiple = ((a * b).sum() / square).item()
    if not multiple > 0 or (a - multiple * b).abs().max() > 1e-3 * multiple * b.abs().max():
        return None
    return multiple


def _tiled(ours: Tensor, theirs: Tensor, axes: list[Axis]) -> Iterable[tuple[Tensor, Tensor]]:
    """Pairs of what is read of `ours` and what it should be, one for each way in which axes may have grown."""
    if ours.ndim != theirs.ndim:
        return []
    options = [(ours, theirs)]
    for dim, (old, new) in enumerate(zip(theirs.shape, ours.shape, strict=True)):
        if old == new:
            continue
        if new < old or not old:
            return []
        given = [axis for axis in axes if (axis.old, axis.new) == (old, new)]
        known = [Axis.whole(old, new), *given]
        if dim in (1, 2) and theirs.ndim == 4 and not given:  # heads that are read in two halves
            known += [Axis((Segment(old // 2, new // 2),) * 2)] if old % 2 == new % 2 == 0 else []
        if dim == 0 and theirs.ndim < 4:  # rows and heads in one dimension: the heads of each row are tiled
            known += [Axis((Segment(old // n, new // n),) * n) for n in range(2, old) if old % n == new % n == 0]
        options = [_read(*pair, dim, axis) for pair in options for axis in known]
    return options


def _read(ours: Tensor, theirs: Tensor, dim: int, axis: Axis) -> tuple[Tensor, Tensor]:
    if (read := axis.read).all():
        return ours, theirs.index_select(dim, axis.source)
    return ours.index_select(dim, read.nonzero()[:, 0]), theirs.index_select(dim, axis.source[read])


def apart(ours: Tensor, theirs: Tensor, scale: Tensor | None = None) -> float:
    """Largest difference, relative to the largest value of `scale`, default `theirs`, or 1."""
    ours, theirs = _clean(ours), _clean(theirs)
    if not ours.numel():
        return 0.0
    largest = (theirs if scale is None else _clean(scale)).abs().max()
    return ((ours - theirs).abs().max() / largest.clamp_min(1)).item()


def _clean(tensor: Tensor) -> Tensor:
    # A mask adds the dtype's lowest number or -inf; neither is a difference.
    return tensor.double().nan_to_num(0, 0, 0).clamp(-1e9, 1e9)


def _first_float(values: object) -> Tensor | None:
    return next((t for t in tensors_in(values) if t.is_floating_point() and t.ndim > 1), None)


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors among the arguments or results of a module or an operation, in tuples and lists too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from tensors_in(one)
