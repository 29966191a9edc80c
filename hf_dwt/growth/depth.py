"""Exact depth: new layers that hand on what they read, and the rules that say which layer each one is made from.

Pre-norm: what a layer adds to the residual stream is 0. Which parameters write it is found without names: with all of
a layer's parameters at 0 it hands on its input; each parameter is given back its values if it still does, in the order
of execution, and those that may not have them are the writers. Post-norm (LEMON, arXiv 2310.07999): norms of the new
layer are set to weight 1 and bias 0, and the affine of the layer before moves behind the new layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import GrowthError
from .plan import kind

Origin = tuple[int, bool]
"""(the teacher's layer, whether the student's is new: an identity where the rule is exact)."""


def append(old: int, new: int) -> list[Origin]:
    """New layers behind the old ones."""
    return [(i, False) for i in range(old)] + [(old - 1, True)] * (new - old)


def interleave(old: int, new: int) -> list[Origin]:
    """New layers spread evenly, each behind an old one."""
    layers: list[Origin] = []
    for i in range(old):
        layers.append((i, False))
        layers += [(i, True)] * ((i + 1) * new // old - i * new // old - 1)
    return layers


def stack(old: int, new: int) -> list[Origin]:
    """The whole teacher again (G_stack); not exact."""
    return [(i % old, False) for i in range(new)]


def repeat_each(old: int, new: int) -> list[Origin]:
    """Every layer repeated in place; not exact."""
    return [(i * old // new, False) for i in range(new)]


def repeat_last(old: int, new: int) -> list[Origin]:
    """The last layer repeated, the paper's rule; not exact."""
    return [(min(i, old - 1), False) for i in range(new)]


DEPTHS: dict[str, Callable[[int, int], list[Origin]]] = {
    "append": append,
    "interleave": interleave,
    "stack": stack,
    "repeat_each": repeat_each,
    "repeat_last": repeat_last,
}
"""Rules by name: (teacher's depth, student's) -> the origin of each of the student's layers."""


@dataclass(frozen=True)
class Identity:
    """How a layer is made to hand on what it reads.

    Args:
        constants: kind of parameter -> the value it is filled with.
        last_norm: kinds of the parameters of the layer's last norm, in a post-norm model; they take those of the layer
            before, which are set to 1 and 0.
    """

    constants: dict[str, float]
    last_norm: dict[str, float]


@dataclass(frozen=True)
class Deepening:
    """Where the parameters of a deeper student come from.

    Args:
        origins: path of a list of layers -> the origin of each of the student's layers.
        identities: path -> how its new layers become identities; empty where copies are wanted.
    """

    origins: Mapping[str, list[Origin]]
    identities: Mapping[str, Identity]

    def origin(self, name: str) -> tuple[str, float | None]:
        """(the teacher's parameter for the student's `name`, the constant that fills it instead or None)."""
        for path, origins in self.origins.items():
            if not name.startswith(f"{path}."):
                continue
            index, _, rest = name.removeprefix(f"{path}.").partition(".")
            i = int(index)
            source, new = origins[i]
            identity = self.identities.get(path)
            if identity is not None and kind(name) in identity.last_norm:
                # The affine of an old layer is carried by the last of the new ones behind it.
                if i + 1 < len(origins) and origins[i + 1][1]:
                    return f"{path}.{source}.{rest}", identity.last_norm[kind(name)]
                source = next(s for s, fresh in reversed(origins[: i + 1]) if not fresh)
            elif identity is not None and new and kind(name) in identity.constants:
                return f"{path}.{source}.{rest}", identity.constants[kind(name)]
            return f"{path}.{source}.{rest}", None
        return name, None


def layer_lists(teacher: nn.Module, student: nn.Module) -> dict[str, tuple[int, int]]:
    """Path of each list of layers that is longer in the student -> (teacher's length, student's)."""
    found = {}
    for path, module in teacher.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        try:
            other = student.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(other, nn.ModuleList) and len(other) > len(module) > 0:
            found[path] = (len(module), len(other))
    return found


def match_kinds(origins: list[Origin], path: str, teacher: nn.Module, student: nn.Module) -> list[Origin]:
    """`origins` with each new layer taken from the nearest old layer of its kind (names of parameters, module types).

    Raises:
        GrowthError: an old layer comes to stand where the student's config wants another kind, or no old one is of a
            new layer's kind.
    """
    theirs, ours = (list(model.get_submodule(path).children()) for model in (teacher, student))
    matched: list[Origin] = []
    for i, (source, new) in enumerate(origins):
        if signature(theirs[source]) != signature(ours[i]):
            same = [j for j in range(len(theirs)) if signature(theirs[j]) == signature(ours[i])]
            # A new layer adds nothing, whatever its attention sees: the same parameters will do.
            same = same or [j for j in range(len(theirs)) if signature(theirs[j])[0] == signature(ours[i])[0]]
            if not same or not new:
                problem = f"Layer {i} of {path} would be made from layer {source}, which is of another kind."
                fix = "Use another depth, a multiple of the teacher's pattern of layers, or depth='append'."
                raise GrowthError("depth", f"{path}.{i}", problem, fix)
            source = min(same, key=lambda j: (abs(j - source), -j))
        matched.append((source, new))
    return matched


def signature(layer: nn.Module) -> tuple[Any, ...]:
    """What must agree for one layer to take another's parameters."""
    kinds = tuple(sorted((name, parameter.ndim) for name, parameter in layer.named_parameters()))
    modes = [getattr(m, a, None) for m in layer.modules() for a in ("is_sliding", "layer_type", "attention_type")]
    return kinds, type(layer).__name__, tuple(map(str, modes))


@torch.no_grad()
def find_identity(model: PreTrainedModel, batch: dict[str, Any], path: str) -> Identity:
    """How the layers of the list at `path` become identities; found on a tiny randomised `model`, which is restored.

    Raises:
        GrowthError: they cannot.
    """
    constants: dict[str, float] = {}
    last_norm: dict[str, float] = {}
    layers = list(model.get_submodule(path).children())
    for index, call in _calls(model, layers, batch).items():
        found = _identity_of(layers[index], call)
        if found is None:
            problem = "With nothing written to the residual stream the layer still changes what it reads."
            raise GrowthError("depth", f"{path}.{index}", problem, "Use depth='repeat_last' or 'stack', not exact.")
        constants |= {kind(f"{path}.{index}.{name}"): value for name, value in found.constants.items()}
        last_norm |= {kind(f"{path}.{index}.{name}"): value for name, value in found.last_norm.items()}
    return Identity(constants, last_norm)


@dataclass
class _Call:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _calls(model: PreTrainedModel, layers: list[nn.Module], batch: dict[str, Any]) -> dict[int, _Call]:
    """How each layer is called in a pass over `batch`."""
    calls: dict[int, _Call] = {}
    handles = []
    for index, layer in enumerate(layers):

        def keep(_: nn.Module, args: Any, kwargs: Any, index: int = index) -> None:
            # A cache would grow with every further call.
            plain = {key: None if "Cache" in type(value).__name__ else value for key, value in kwargs.items()}
            calls.setdefault(index, _Call(args, plain))

        handles.append(layer.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _identity_of(layer: nn.Module, call: _Call) -> Identity | None:
    """Which of the layer's parameters must be constant for it to hand on its input."""
    saved = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    try:
        for prepare in (_pre_norm, _post_norm):
            prepared = prepare(layer, call)
            if prepared is not None:
                return prepared
            _restore(layer, saved)
        return None
    finally:
        _restore(layer, saved)


def _pre_norm(layer: nn.Module, call: _Call) -> Identity | None:
    saved = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    order = _execution_order(layer, call)
    values = _zeros(layer, order)
    parameters = dict(layer.named_parameters())
    for name in parameters:
        parameters[name].fill_(values.get(name, 0.0))
    if not _hands_on(layer, call, normalised=False):
        return None
    return Identity(_needed(layer, call, saved, values, order, normalised=False), {})


def _post_norm(layer: nn.Module, call: _Call) -> Identity | None:
    saved = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    order = _execution_order(layer, call)
    norms = [
        path
        for path in order
        if isinstance(module := layer.get_submodule(path), nn.LayerNorm) and module.elementwise_affine
    ]
    if not norms:
        return None
    values = dict.fromkeys(saved, 0.0) | {f"{path}.weight": 1.0 for path in norms}
    for name, parameter in layer.named_parameters():
        parameter.fill_(values[name])
    if not _hands_on(layer, call, normalised=True):
        return None
    last = {name: values[name] for name in saved if name.rpartition(".")[0] == norms[-1]}
    constants = _needed(layer, call, saved, values, [path for path in order if path not in norms], normalised=True)
    fixed = {name: values[name] for name in saved if name.rpartition(".")[0] in norms[:-1]}
    return Identity({**constants, **fixed}, last)


def _needed(
    layer: nn.Module,
    call: _Call,
    saved: dict[str, Tensor],
    values: dict[str, float],
    order: list[str],
    normalised: bool,
) -> dict[str, float]:
    """Give parameters their values back in the order of execution; return the constants that have to stay."""
    parameters = dict(layer.named_parameters())
    ranked = sorted(saved, key=lambda name: order.index(p) if (p := name.rpartition(".")[0]) in order else -1)
    needed = {}
    for name in ranked:
        if normalised and name.rpartition(".")[0] not in order:
            continue
        parameters[name].copy_(saved[name])
        if not _hands_on(layer, call, normalised):
            parameters[name].fill_(values.get(name, 0.0))
            needed[name] = values.get(name, 0.0)
    return needed


def _zeros(layer: nn.Module, order: list[str]) -> dict[str, float]:
    """The value at which a module's weight puts out 0: -1 where it computes (1 + weight) x."""
    values = {}
    for path in order:
        module = layer.get_submodule(path)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 1 and getattr(module, "bias", None) is None:
            kept = weight.clone()
            probe = torch.randn(2, 3, weight.shape[0], dtype=weight.dtype)
            weight.fill_(-1.0)
            try:
                if not module(probe).any():
                    values[f"{path}.weight"] = -1.0
            except Exception:  # a module that takes more than one tensor, or another shape, is no plain norm
                pass
            weight.copy_(kept)
    return values


def _execution_order(layer: nn.Module, call: _Call) -> list[str]:
    """Paths of modules with parameters in the order of their last call."""
    order: list[str] = []
    handles = []
    for path, module in layer.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_hook(lambda *_, path=path: order.append(path)))
    _run(layer, call, _stream(call))
    for handle in handles:
        handle.remove()
    last = {path: i for i, path in enumerate(order)}
    return sorted(last, key=lambda path: last[path])


def _hands_on(layer: nn.Module, call: _Call, normalised: bool) -> bool:
    stream = _stream(call)
    if normalised:
        stream = nn.functional.layer_norm(stream, stream.shape[-1:], eps=0.0)
    out = _run(layer, call, stream)
    # A NaN compares unequal: rows that are padding throughout may hold one in both.
    return out.shape == stream.shape and torch.allclose(out, stream, atol=1e-4, rtol=1e-4, equal_nan=True)


def _stream(call: _Call) -> Tensor:
    """The residual stream that a layer reads: its first floating tensor."""
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise GrowthError("depth", "layer", "It reads no floating tensor.", "Keep the teacher's depth.")


def _run(layer: nn.Module, call: _Call, stream: Tensor) -> Tensor:
    old = _stream(call)
    args = tuple(stream.clone() if value is old else value for value in call.args)
    kwargs = {key: stream.clone() if value is old else value for key, value in call.kwargs.items()}
    out = layer(*args, **kwargs)
    while isinstance(out, tuple | list):
        out = out[0]
    return out


def _restore(layer: nn.Module, saved: dict[str, Tensor]) -> None:
    for name, parameter in layer.named_parameters():
        parameter.copy_(saved[name])
