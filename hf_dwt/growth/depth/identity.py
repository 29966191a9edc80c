"""Identity layers: how a layer is made to put out what it reads, found without names on a tiny model.

Pre-norm: what a layer adds to the residual stream is 0. Which parameters write it is found by trial: with all of a
layer's parameters at 0 it is the identity; in the order of execution each parameter gets its values back if the layer
stays the identity, and those that may not have them are the writers. Post-norm (LEMON, arXiv 2310.07999): norms of the
new layer are set to weight 1 and bias 0, and the affine of the layer before moves behind the new layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...errors import GrowthError
from ..proxy.batches import Batch
from ..proxy.probes import adds_one_to_weight, is_identity_at_one, is_layer_norm
from ..width.mapping import kind
from .calls import Call, calls_of, first_of, output_of, run, stream_of

COPIES = "Keep the teacher's depth, or use init='remap', which copies layers and promises nothing."


@dataclass(frozen=True)
class Identity:
    """How a layer becomes an identity layer.

    Args:
        constants: kind of parameter -> the value it is filled with.
        last_norm: kinds of the parameters of the layer's last norm, in a post-norm model; they take those of the layer
            before, which are set to 1 and 0.
    """

    constants: Mapping[str, float]
    last_norm: Mapping[str, float]


@torch.no_grad()
def find_identity(
    model: PreTrainedModel, batch: Batch, path: str, wanted: Callable[[nn.Module], bool] = lambda _: True
) -> Identity:
    """How the layers of the list at `path` become identities; found on a tiny randomised `model`, which is restored.

    Args:
        wanted: whether new layers are made from such a layer; all are, where there is none in `model`.

    Raises:
        GrowthError: they cannot.
    """
    constants: dict[str, float] = {}
    last_norm: dict[str, float] = {}
    layers = list(model.get_submodule(path).children())
    calls = calls_of(model, layers, batch)
    chosen = [index for index in calls if wanted(layers[index])] or list(calls)
    if not chosen:
        problem = "No layer of it is called in a pass, so that what layers put out cannot be measured."
        raise GrowthError("depth", path, problem, COPIES)
    for index in chosen:
        found = _identity_of(layers[index], call := calls[index])
        if found is None:
            problem = _why_not(layers[index], call)
            raise GrowthError("depth", f"{path}.{index}", problem, COPIES)
        constants |= {kind(f"{path}.{index}.{name}"): value for name, value in found.constants.items()}
        last_norm |= {kind(f"{path}.{index}.{name}"): value for name, value in found.last_norm.items()}
    return Identity(constants, last_norm)


def _identity_of(layer: nn.Module, call: Call) -> Identity | None:
    """Which of the layer's parameters must be constant for it to be the identity."""
    saved = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    try:
        for prepare in (_pre_norm, _scaled_pre_norm, _post_norm):
            prepared = prepare(layer, call)
            if prepared is not None:
                return prepared
            _restore(layer, saved)
        return None
    finally:
        _restore(layer, saved)


def _why_not(layer: nn.Module, call: Call) -> str:
    """What a layer does to what it reads when it writes nothing to the residual stream, measured."""
    stream, saved = stream_of(call), {name: parameter.clone() for name, parameter in layer.named_parameters()}
    values = _zeros(layer, _execution_order(layer, call))
    for name, parameter in layer.named_parameters():
        parameter.fill_(values.get(name, 0.0))
    out = run(layer, call, stream)
    if out.shape == stream.shape and not out.any():  # a norm then puts out what it reads, or a multiple
        for name, parameter in layer.named_parameters():
            parameter.fill_(values.get(name, 0.0) + float(parameter.ndim == 1 and not name.endswith("bias")))
        out = run(layer, call, stream)
    _restore(layer, saved)
    if out.shape != stream.shape:
        old, new = (" x ".join(map(str, tensor.shape[1:])) for tensor in (stream, out))
        return f"The layer reads {old} values and puts out {new}, so that it cannot be an identity layer."
    if not out.any():
        return "With nothing written to the residual stream the layer puts out nothing: it has no path around it."
    rows, given = out.double().flatten(0, -2), stream.double().flatten(0, -2)
    times = (rows * given).sum(-1, keepdim=True) / (given * given).sum(-1, keepdim=True).clamp_min(1e-9)
    if torch.allclose(rows, times * given, atol=1e-4, rtol=1e-3):
        times = times[given.abs().amax(-1) > 1e-6]
        if (times - 1).abs().max() < 1e-3:
            return "The layer multiplies the residual stream by parameters of its own."
        if times.max() - times.min() < 1e-3:
            return f"With nothing written to the residual stream the layer multiplies it by {times.mean():.3g}."
        return "The layer normalises the residual stream."
    return "With nothing written to the residual stream the layer still changes what it reads."


def _scaled_pre_norm(layer: nn.Module, call: Call) -> Identity | None:
    """As `_pre_norm`, of a layer that multiplies the stream by parameters, its own or a module's: they are 1."""
    scales = {name: 1.0 for name, _ in layer.named_parameters(recurse=False)}
    order = _execution_order(layer, call)
    scales |= {f"{path}.weight": 1.0 for path in order if is_identity_at_one(layer.get_submodule(path))}
    return _pre_norm(layer, call, scales) if scales else None


def _pre_norm(layer: nn.Module, call: Call, scales: dict[str, float] | None = None) -> Identity | None:
    saved = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    order = _execution_order(layer, call)
    values = {**_zeros(layer, order), **(scales or {})}
    parameters = dict(layer.named_parameters())
    for name in parameters:
        parameters[name].fill_(values.get(name, 0.0))
    if not _is_identity(layer, call, normalised=False):
        return None
    return Identity(_needed(layer, call, saved, values, order, normalised=False), {})


def _post_norm(layer: nn.Module, call: Call) -> Identity | None:
    saved = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    order = _execution_order(layer, call)
    norms = [path for path in order if is_layer_norm(layer.get_submodule(path))]
    if not norms:
        return None
    values = dict.fromkeys(saved, 0.0) | {f"{path}.weight": 1.0 for path in norms}
    for name, parameter in layer.named_parameters():
        parameter.fill_(values[name])
    if not _is_identity(layer, call, normalised=True):
        return None
    norms.append(norms.pop(norms.index(_last_of(layer, call, norms))))
    last = {name: values[name] for name in saved if name.rpartition(".")[0] == norms[-1]}
    constants = _needed(layer, call, saved, values, [path for path in order if path not in norms], normalised=True)
    fixed = {name: values[name] for name in saved if name.rpartition(".")[0] in norms[:-1]}
    return Identity({**constants, **fixed}, last)


def _last_of(layer: nn.Module, call: Call, norms: list[str]) -> str:
    """The last of `norms` that puts out what the layer does: one may write a second stream after it."""
    found: dict[str, Tensor] = {}
    handles = [
        layer.get_submodule(path).register_forward_hook(lambda _, args, out, path=path: found.update({path: out}))
        for path in norms
    ]
    out = run(layer, call, stream_of(call))
    for handle in handles:
        handle.remove()
    return next((path for path in reversed(norms) if torch.equal(found[path], out)), norms[-1])


def _needed(
    layer: nn.Module,
    call: Call,
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
        if not _is_identity(layer, call, normalised):
            parameters[name].fill_(values.get(name, 0.0))
            needed[name] = values.get(name, 0.0)
    return needed


def _zeros(layer: nn.Module, order: list[str]) -> dict[str, float]:
    """The value at which a module's weight puts out 0: -1 where it computes (1 + weight) x."""
    modules = {path: layer.get_submodule(path) for path in order}
    return {
        f"{path}.weight": -1.0
        for path, module in modules.items()
        if getattr(module, "bias", None) is None and adds_one_to_weight(module)
    }


def _execution_order(layer: nn.Module, call: Call) -> list[str]:
    """Paths of modules with parameters in the order of their last call."""
    order: list[str] = []
    handles = []
    for path, module in layer.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_hook(lambda *_, path=path: order.append(path)))
    run(layer, call, stream_of(call))
    for handle in handles:
        handle.remove()
    last = {path: i for i, path in enumerate(order)}
    return sorted(last, key=lambda path: last[path])


def _is_identity(layer: nn.Module, call: Call, normalised: bool) -> bool:
    """Whether a layer puts out the stream that it reads, after a layer norm of it where that is `normalised`."""
    stream = stream_of(call)
    if normalised:
        # Not eps=0: rows of padding may be 0, and have to stay so.
        stream = nn.functional.layer_norm(stream, stream.shape[-1:], eps=1e-12)
    out = output_of(layer, call, stream)
    if _equal(first_of(out), stream):
        return True
    # Reversible layers have several streams, perhaps in another order.
    given = [v for v in call.values if isinstance(v, Tensor) and v.shape == stream.shape]
    streams = [v for v in out if isinstance(v, Tensor) and v.shape == stream.shape] if isinstance(out, tuple) else []
    return len(streams) > 1 and all(any(_equal(one, value) for value in given) for one in streams)


def _equal(one: Tensor, other: Tensor) -> bool:
    # A NaN compares unequal: rows that are padding throughout may hold one in both.
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-4, rtol=1e-4, equal_nan=True)


def _restore(layer: nn.Module, saved: dict[str, Tensor]) -> None:
    for name, value in saved.items():
        layer.get_parameter(name).copy_(value)
