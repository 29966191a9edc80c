"""What modules do with the residual stream, which norm it and which read behind a norm: found on a tiny proxy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..proxy.batches import Batch
from ..proxy.probes import adds_one_to_weight, divides_by_size, is_odd, normalises, subtracts_mean
from .mapping import Key, kind

FIX = "Use init='clone' with an integer ratio, or init='remap', which promises nothing."


@dataclass(frozen=True)
class Roles:
    """What modules do with the residual stream, by kind.

    Args:
        norms: kinds of modules that normalise it -> whether they compute (1 + weight) x.
        readers: kinds of modules that read what a norm puts out, and in no layer anything else.
        centred: the norms subtract the mean.
        within: kinds of modules in which a norm without a weight precedes a matrix of their own, such as one that
            mixes several streams: the matrix takes the factor that the norm would take.
        bare: kinds of modules that read behind a norm without a weight; likewise.
        writers: kinds of norms whose output is only added to the stream.
        apart: axes, (kind of parameter, dimension), that are of another length than the stream in the proxy: where
            they have its width in a model, that is by chance.
    """

    norms: Mapping[str, bool]
    readers: frozenset[str]
    centred: bool
    within: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()
    writers: frozenset[str] = frozenset()
    apart: frozenset[Key] = frozenset()


@torch.no_grad()
def find_roles(model: PreTrainedModel, batch: Batch, width: int) -> Roles:
    """The roles of modules in a pass of a randomised `model` whose residual stream has `width` channels."""
    found = _Observed(width)
    _pass(model, batch, found.add, lambda module: has_parameters(module) or next(module.children(), None) is None)
    if not found.normed and not found.several:  # nothing has to keep its statistics
        return Roles({}, frozenset(), False)
    norm = next(iter((*found.norms.values(), *found.without_weight, *found.several.values())))
    probe = torch.randn(3, len(next(norm.parameters(), torch.empty(width))))
    last = kind(found.normed[-1][0]) if found.normed else ""  # a head may read some rows of it alone
    return Roles(
        norms={kind(name): adds_one_to_weight(module) for name, module in (found.norms | found.several).items()},
        readers=frozenset(found.readers - found.others),
        centred=bool(subtracts_mean(norm, probe)),
        within=_normed_within(model, batch, width),
        bare=frozenset(found.bare),
        writers=frozenset(map(kind, found.norms)) - found.read - {last},
        apart=_apart(model, width),
    )


@dataclass
class _Observed:
    """What a pass shows of modules at the residual stream, `width` channels wide.

    Args:
        norms: modules that normalise it and have a weight, by name.
        several: likewise, of several streams side by side, or of channels within a layer (the plan knows which).
        without_weight: modules that normalise it and have none.
        normed: (name, empty where it has no weight; output, (rows, width)) of each call of a norm.
        read: kinds of norms whose output a module reads.
        readers: kinds of modules that read the output of a norm.
        bare: kinds of modules that read the output of a norm without a weight.
        others: kinds of modules that read the stream itself, or anything else as wide.
    """

    width: int
    norms: dict[str, nn.Module] = field(default_factory=dict)
    several: dict[str, nn.Module] = field(default_factory=dict)
    without_weight: list[nn.Module] = field(default_factory=list)
    normed: list[tuple[str, Tensor]] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    bare: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)

    def add(self, name: str, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        """Add what one call of a module shows."""
        given = next((v for v in inputs if isinstance(v, Tensor) and v.is_floating_point()), None)
        if given is None:
            return
        shapes = {p.shape for p in module.parameters(recurse=False)}
        n = given.shape[-1]
        wider = n > self.width and n % self.width == 0
        if isinstance(output, Tensor) and shapes == {(n,)} and wider and normalises(module, given, output):
            self.several[name] = module
        if isinstance(output, Tensor) and shapes <= {(self.width,)}:
            if n == self.width and normalises(module, given, output):
                self._add_norm(name, module, given, output)
        elif shapes and n == self.width:
            self._add_reader(name, given)

    def _add_norm(self, name: str, module: nn.Module, given: Tensor, output: Tensor) -> None:
        if has_parameters(module):
            self.norms[name] = module
        elif is_odd(module, given, output):
            self.without_weight.append(module)
            name = ""
        else:
            return
        self.normed.append((name, output.detach().reshape(-1, self.width)))

    def _add_reader(self, name: str, given: Tensor) -> None:
        rows = given.reshape(-1, self.width)
        behind = [norm for norm, out in self.normed if rows.shape == out.shape and torch.equal(rows, out)]
        (self.readers if behind else self.others).add(kind(name))
        self.read.update(map(kind, behind))
        if behind and not behind[-1]:
            self.bare.add(kind(name))


def has_parameters(module: nn.Module) -> bool:
    """Whether a module has parameters of its own."""
    return next(module.parameters(recurse=False), None) is not None


def _apart(model: PreTrainedModel, width: int) -> frozenset[Key]:
    lengths = [((kind(name), dim), n) for name, p in model.named_parameters() for dim, n in enumerate(p.shape)]
    return frozenset(key for key, _ in lengths) - {key for key, n in lengths if n == width}


Seen = Callable[[str, nn.Module, tuple[object, ...], object], None]
"""(name of a module, the module, its inputs, its output)."""


def _pass(model: PreTrainedModel, batch: Batch, seen: Seen, wanted: Callable[[nn.Module], bool]) -> None:
    """Call `seen` after each call of a `wanted` module in a pass."""
    handles = [
        module.register_forward_hook(
            lambda module, args, kwargs, output, name=name: seen(name, module, (*args, *kwargs.values()), output),
            with_kwargs=True,
        )
        for name, module in model.named_modules()
        if wanted(module)
    ]
    try:
        model(**batch)
    finally:
        for handle in handles:
            handle.remove()


def _normed_within(model: PreTrainedModel, batch: Batch, width: int) -> frozenset[str]:
    """Kinds of modules that have a norm without parameters, of the stream or of several at once."""
    found: set[str] = set()

    def seen(name: str, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        given = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        if given is not None and given.shape[-1] % width == 0 and divides_by_size(module, given, output):
            found.add(kind(name.rpartition(".")[0]))

    _pass(model, batch, seen, lambda module: next(module.parameters(), None) is None)
    return frozenset(found)
