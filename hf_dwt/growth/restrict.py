"""The way back from a larger model to a smaller one of its class: growth's axes, read from the student to the teacher.

Growth proves on tiny models which axes of which parameters get longer with a size of the config, and in which
segments. The same plan says which channels a model has to give up where that size is smaller.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .axes import Axis
from .building import blank, build, complete
from .origins import tensors
from .proxy.model import Proxies
from .width.layouts import named_sizes
from .width.mapping import Plan, make_plan
from .width.search import find_recipe

Kept = Mapping[tuple[int, int], Tensor]
"""(dimension, number of the segment) -> (segment.old,) channels of it that stay. Other segments stay whole."""


def plan_restriction(model: PreTrainedModel, smaller: PreTrainedConfig) -> Plan:
    """Which axes of the parameters of `model` are shorter under a config with one smaller size; no weight is read.

    Returns:
        name of a parameter -> step whose axes have `old` as the length in the smaller model and `new` as that in
        `model`.

    Raises:
        GrowthNotPreservedError: no layout of its axes reproduces a tiny model, naming the module or axis.
    """
    small, large = (build(type(model), config, "meta") for config in (smaller, model.config))
    recipe = find_recipe(Proxies(small, model.config), times=2)
    return make_plan(small, large, recipe, named_sizes(smaller, model.config))


def restrict(weight: Tensor, axes: Sequence[Axis], kept: Kept) -> Tensor:
    """A parameter without the channels that are given up.

    Args:
        weight: shape (axis.new for each axis).
        axes: one for each dimension.
        kept: what stays of each segment that is shorter.

    Returns:
        shape (axis.old for each axis), a copy.
    """
    for dim, axis in enumerate(axes):
        if axis.grows:
            weight = weight.index_select(dim, places(axis, dim, kept).to(weight.device))
    return weight.clone()


def places(axis: Axis, dim: int, kept: Kept) -> Tensor:
    """(axis.old,) channels of the longer axis that stay; arguments as of `restrict`."""
    parts, start = [], 0
    for number, segment in enumerate(axis.segments):
        parts.append(start + kept.get((dim, number), torch.arange(segment.new)))
        start += segment.new
    return torch.cat(parts)


def filled(model: PreTrainedModel, config: PreTrainedConfig, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    """A model of `config` with given weights, in their dtype and on the device of `model`.

    Args:
        model: whose class, generation config and mode it gets.
        config: not changed.
        weights: name -> parameter or persistent buffer; they become the model's own.
    """
    small = blank(type(model), config, "cpu")
    made = tensors(small)
    for name, tensor in made.items():
        tensor.data = weights[name]
    complete(small, made.keys())
    if model.can_generate():
        small.generation_config = copy.deepcopy(model.generation_config)
    nn.Module.to(small, model.device)
    small.train(model.training)
    return small
