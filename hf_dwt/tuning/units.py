"""Units that pruning removes, and where they are in the parameters of a model.

A unit is a neuron of the feed-forward layers, or a key/value head with the query heads that read it. Of each layer
another choice is removed, and of all layers as many: a config has one number for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import ArgumentError, DistillationError, raise_all
from ..growth.building import build
from ..growth.config.rebuild import rebuild
from ..growth.config.sizes import attributes, size
from ..growth.restrict import plan_restriction
from ..growth.width.mapping import Plan, growing
from .scores.record import Share

Place = tuple[str, int, int]
"""(parameter, dimension, number of the segment)."""


@dataclass(frozen=True)
class Cut:
    """A smaller config, and what of a model is in its way.

    Args:
        sizes: attribute of the config -> its smaller value.
        plan: axes from the smaller model's length to the model's.
        units: how many there are in a layer now.
        left: how many stay.
        layers: path of a layer -> where its units are.
    """

    sizes: Mapping[str, int]
    plan: Plan
    units: int
    left: int
    layers: Mapping[str, tuple[Place, ...]]

    def shares(self, layer: str, weights: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> list[Share]:
        """What the units of a layer have of each of its matrices; biases do not count.

        Args:
            layer: a key of `layers`.
            weights: name of a parameter -> its values without what was learned.
            changes: name -> what was learned of those that are adapted.
        """
        found = []
        for place in self.layers[layer]:
            name = place[0]
            if weights[name].ndim < 2:
                continue
            weight = self._by_unit(weights[name], place)
            change = self._by_unit(changes[name], place) if name in changes else None
            found.append(Share(weight if change is None else weight + change, change))
        return found

    def _by_unit(self, tensor: Tensor, place: Place) -> Tensor:
        """(units, numbers) of one segment."""
        name, dim, number = place
        segments = self.plan[name].axes[dim].segments
        start = sum(segment.new for segment in segments[:number])
        part = tensor.detach().narrow(dim, start, segments[number].new).movedim(dim, 0)
        return part.reshape(self.units, -1).float()

    def channels(self, place: Place, units: Tensor) -> Tensor:
        """The channels of a segment that belong to some of the units (left,)."""
        name, dim, number = place
        width = self.plan[name].axes[dim].segments[number].new // self.units
        return (units[:, None] * width + torch.arange(width)).flatten()


def cut_neurons(model: PreTrainedModel, share: float) -> Cut:
    """The feed-forward layers of a model without a share of their neurons.

    Raises:
        ArgumentError: the config stores no width of them, or none or all of the neurons would go.
        GrowthNotPreservedError: growth does not know the model.
    """
    config, name = model.config, type(model.config).__name__
    widths = {key: getattr(config, key) for key in attributes(config, "intermediate_size")}
    if None in widths.values():  # GPT-2 takes 4 d then
        widths = {key: value or 4 * (size(config, "hidden_size") or 0) for key, value in widths.items()}
        config = rebuild(config, widths, {})
        if _shapes(type(model), config) != _shapes(type(model), model.config):
            widths = {}
    if not widths:
        problem = f"{name} stores no width of feed-forward layers."
        raise ArgumentError("ffn", share, problem, "Leave ffn out.")
    smaller = {key: _left("ffn", share, width, "neuron") for key, width in widths.items()}
    first = next(iter(widths))
    return _cut(model, config, smaller, widths[first], smaller[first], "ffn", share)


def cut_heads(model: PreTrainedModel, share: float) -> Cut:
    """The attention layers of a model without a share of their key/value heads, and of the query heads that read them.

    Raises:
        ArgumentError: the config ties the width of a head to the hidden size, or none or all of the heads would go.
        GrowthNotPreservedError: growth does not know the model.
    """
    config, name = model.config, type(model.config).__name__
    wide = {key: getattr(config, key) for key in attributes(config, "head_dim")}
    heads = {key: getattr(config, key) for key in attributes(config, "num_attention_heads")}
    if not heads or not wide or None in wide.values():
        problem = f"{name} has no head_dim: the width of a head is the hidden size by the number of heads."
        raise ArgumentError("heads", share, problem, "Leave heads out, and remove more of the feed-forward layers.")
    keys = {key: value for key in attributes(config, "num_key_value_heads") if (value := getattr(config, key))}
    units = next(iter((keys or heads).values()))
    left = _left("heads", share, units, "key/value head" if keys else "head")
    smaller = {key: value * left // units for key, value in {**heads, **keys}.items()}
    return _cut(model, config, {**wide, **smaller}, units, left, "heads", share)


def _left(argument: str, share: float, units: int, what: str) -> int:
    """How many of some units stay."""
    gone = round(share * units)
    if not 0 < gone < units:
        problem = f"It removes {gone} of the {units} {what}s of a layer{': none is left' if gone else ''}."
        fix = f"Give a share of at least {1 / units:.3g} and at most {(units - 1) / units:.3g}."
        raise ArgumentError(argument, share, problem, fix)
    return units - gone


def _cut(
    model: PreTrainedModel,
    config: PreTrainedConfig,
    sizes: Mapping[str, int],
    units: int,
    left: int,
    argument: str,
    share: float,
) -> Cut:
    large = build(type(model), config, "meta")
    smaller = rebuild(config, sizes, {})
    plan = plan_restriction(large, smaller)
    layers: dict[str, list[Place]] = {}
    problems: list[DistillationError] = []
    for name, dim, axis in growing(plan):
        for number, segment in enumerate(axis.segments):
            if segment.old == segment.new:
                continue
            if segment.heads or segment.new % units or segment.old * units != segment.new * left:
                problem = f"{name} has what is no whole part of a unit, or depends on its place."
                problems.append(ArgumentError(argument, share, problem, "Leave it out."))
            layers.setdefault(layer_of(name, large), []).append((name, dim, number))
    raise_all(problems[:1])
    return Cut(sizes, plan, units, left, {layer: tuple(places) for layer, places in layers.items()})


def layer_of(name: str, model: nn.Module) -> str:
    """The path of a parameter as far as the innermost list of layers on it."""
    module, path, found = model, [], ""
    for part in name.split(".")[:-1]:
        inside = isinstance(module, nn.ModuleList)
        module = getattr(module, part)
        path.append(part)
        found = ".".join(path) if inside else found
    return found


def _shapes(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in build(model_class, config, "meta").state_dict().items()}
