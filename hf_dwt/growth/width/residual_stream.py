"""What modules do with the residual stream, which norm it and which read behind a norm: found on a tiny proxy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .mapping import Key, kind

FIX = "Use init='clone' with an integer ratio, or init='remap', which promises nothing."


@dataclass(frozen=True)
class Roles:
    """What modules do with the residual stream, by kind; found by watching a tiny proxy.

    Args:
        norms: kinds of modules that normalise it -> whether they compute (1 + weight) x.
        readers: kinds of modules that read what a norm puts out, and in no layer anything else.
        centred: the norms subtract the mean.
        within: kinds of modules in which a norm without a weight precedes a matrix of their own, such as one that
            mixes several streams: what that norm would be multiplied by, the matrix is.
        bare: kinds of modules that read behind a norm without a weight; likewise.
        writers: kinds of norms that nothing reads but the stream, which they are added to.
        apart: axes, (kind of parameter, dimension), that are of another length than the stream: where they have its
            width in a model, that is by chance.
    """

    norms: Mapping[str, bool]
    readers: frozenset[str]
    centred: bool
    within: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()
    writers: frozenset[str] = frozenset()
    apart: frozenset[Key] = frozenset()


@torch.no_grad()
def find_roles(model: PreTrainedModel, batch: dict[str, Any], width: int) -> Roles:
    """Watch a pass of a randomised `model` whose residual stream has `width` channels."""
    norms: dict[str, nn.Module] = {}
    several: dict[str, nn.Module] = {}
    without_weight: list[nn.Module] = []
    normed: list[tuple[str, Tensor]] = []
    readers: set[str] = set()
    others: set[str] = set()
    bare: set[str] = set()
    read: set[str] = set()

    def watch(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
        parameters = list(module.parameters(recurse=False))
        n = given[0].shape[-1] if given else 0
        alike = isinstance(output, Tensor) and bool(parameters) and all(p.shape == (n,) for p in parameters)
        if alike and n > width and n % width == 0 and _normalises(module, given[0], output):
            several[name] = module  # streams side by side, or within a layer, which the plan tells
        if all(p.shape == (width,) for p in parameters) and given and isinstance(output, Tensor):
            if given[0].shape[-1] == width and _normalises(module, given[0], output):
                if parameters:
                    norms[name] = module
                elif _is_odd(module, given[0], output):
                    without_weight.append(module)
                else:
                    return
                normed.append((name if parameters else "", output.detach().reshape(-1, width)))
        elif parameters and given and given[0].shape[-1] == width:
            flat = given[0].reshape(-1, width)
            behind = [norm for norm, other in normed if flat.shape == other.shape and torch.equal(flat, other)]
            (readers if behind else others).add(kind(name))
            read.update(map(kind, behind))
            if behind and not behind[-1]:
                bare.add(kind(name))

    _pass(model, batch, watch)
    if not normed and not several:  # nothing has to keep its statistics
        return Roles({}, frozenset(), False)
    first = next(iter((*norms.values(), *without_weight, *several.values())))
    probe = torch.randn(3, len(next(first.parameters(), torch.empty(width))))
    last = kind(normed[-1][0]) if normed else ""  # a head may read some rows of it alone
    centred = torch.allclose(first(probe), first(probe + 1.0), atol=1e-4)
    return Roles(
        {kind(name): _is_unit(module) for name, module in (norms | several).items()},
        frozenset(readers - others),
        centred,
        _normed_within(model, batch, width),
        frozenset(bare),
        frozenset(map(kind, norms)) - read - {last},
        _apart(model, width),
    )


def _apart(model: PreTrainedModel, width: int) -> frozenset[Key]:
    lengths = [((kind(name), dim), n) for name, p in model.named_parameters() for dim, n in enumerate(p.shape)]
    return frozenset(key for key, _ in lengths) - {key for key, n in lengths if n == width}


def _pass(model: PreTrainedModel, batch: dict[str, Any], watch: Callable[..., None]) -> None:
    """Call `watch` for modules that have parameters of their own or no modules within, in a pass."""
    handles = []
    for name, module in model.named_modules():
        own, leaf = next(module.parameters(recurse=False), None), next(module.children(), None) is None
        if own is not None or leaf:
            handles.append(
                module.register_forward_hook(
                    lambda module, args, kwargs, output, name=name: watch(name, module, args, kwargs, output),
                    with_kwargs=True,
                )
            )
    model(**batch)
    for handle in handles:
        handle.remove()


def _normed_within(model: PreTrainedModel, batch: dict[str, Any], width: int) -> frozenset[str]:
    """Kinds of modules that have a norm without parameters, of the stream or of several at once."""
    found: set[str] = set()

    def watch(name: str, module: nn.Module, args: Any, output: Any) -> None:
        given = args[0] if args and isinstance(args[0], Tensor) else None
        if given is not None and given.shape[-1] % width == 0 and _divides_by_size(module, given, output):
            found.add(kind(name.rpartition(".")[0]))

    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: watch(name, module, args, output))
        for name, module in model.named_modules()
        if next(module.parameters(), None) is None
    ]
    model(**batch)
    for handle in handles:
        handle.remove()
    return frozenset(found)


def _normalises(module: nn.Module, given: Tensor, output: Tensor) -> bool:
    """Whether twice the input gives the same output: a norm does, a layer scale does not."""
    try:
        return output.shape == given.shape and torch.allclose(
            module.forward(given * 2.0), output, atol=1e-2, rtol=1e-2
        )
    except Exception:  # a module that takes more than one tensor is no plain norm
        return False


def _is_odd(module: nn.Module, given: Tensor, output: Tensor) -> bool:
    """Whether it puts out the negative for the negative; positions, which read a shape, do not."""
    return bool(output.any()) and torch.allclose(module.forward(-given), -output, atol=1e-3, rtol=1e-3)


def _divides_by_size(module: nn.Module, given: Tensor, output: Any) -> bool:
    """Whether a module without parameters puts out its input divided by its size, or one divided by that."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    return _normalises(module, given, output) or (
        output.shape == (*given.shape[:-1], 1) and torch.allclose(module.forward(given * 2.0), output / 2.0, rtol=1e-2)
    )


def _is_unit(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    bias = getattr(module, "bias", None)
    if not isinstance(weight, Tensor):
        return False
    kept = weight.clone()
    weight.fill_(-1.0)
    out = module(torch.randn(2, len(weight)))
    unit = torch.equal(out, (torch.zeros(len(weight)) if bias is None else bias).expand_as(out))
    weight.copy_(kept)
    return bool(unit)
