"""A smaller model of the same class, and the changes of its matrices, from one that `DualSparse` adapted."""

from collections.abc import Sequence

from torch import Generator, Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..growth.config.rebuild import rebuild
from ..growth.origins import tensors
from ..growth.restrict import Kept, filled, places, restrict
from .adapter import ADAPTER, Choose, Dual, adapted_layers, matrix, read
from .scores import Score
from .units import Cut, Place


def smaller(
    model: nn.Module, cuts: Sequence[Cut], score: Score, choose: Choose, generator: Generator
) -> tuple[PreTrainedModel, dict[str, Dual]]:
    """(the model without its adapter and without some units, name of each adapted matrix -> its change).

    Args:
        model: peft's; it stays as it is.
        cuts: which units go, each of another size of the config.
        score: of the units of a layer.
        choose: of the support, for entries whose place is gone.
        generator: of the score.
    """
    base: PreTrainedModel = model.get_base_model()  # type: ignore[operator]
    weights = _weights(base)
    layers = dict(adapted_layers(model))
    changes = {f"{name}.weight": layer.get_delta_weight(ADAPTER).detach() for name, layer in layers.items()}
    stay: list[dict[Place, Tensor]] = []
    for cut in cuts:
        units = {
            layer: score(cut.shares(layer, weights, changes), generator).topk(cut.left).indices.sort().values.cpu()
            for layer in cut.layers
        }
        stay.append({place: cut.channels(place, units[layer]) for layer, all_ in cut.layers.items() for place in all_})
    for name in weights:
        for cut, channels in zip(cuts, stay, strict=True):
            weights[name] = restrict(weights[name], cut.plan[name].axes, _of(channels, name))
    config = rebuild(base.config, {key: value for cut in cuts for key, value in cut.sizes.items()}, {})
    small = filled(base, config, weights)
    duals = {}
    for name, layer in layers.items():
        own = f"{name}.weight"
        left: list[Tensor | None] = [None, None]  # of the weight's dimensions
        for cut, channels in zip(cuts, stay, strict=True):
            for dim, axis in enumerate(cut.plan[own].axes):
                left[dim] = places(axis, dim, _of(channels, own)) if axis.grows else left[dim]
        outputs, inputs = reversed(left) if isinstance(layer.get_base_layer(), Conv1D) else left
        dual = read(layer)
        assert dual is not None  # the caller has looked
        duals[name] = dual.kept(outputs, inputs, matrix(small.get_submodule(name)), choose)
    return small, duals


def _weights(base: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters and persistent buffers by the names that they have without an adapter, and without the adapter's."""
    named = {name: tensor for name, tensor in tensors(base).items() if ".lora_" not in name}
    return {name.replace(".base_layer.", "."): tensor.detach() for name, tensor in named.items()}


def _of(channels: dict[Place, Tensor], name: str) -> Kept:
    """What stays of the segments of one parameter."""
    return {(dim, number): kept for (own, dim, number), kept in channels.items() if own == name}
