"""The layers of a teacher: what may lie elsewhere than on the device until it is needed; all else stays there whole.

Embeddings and head are no layers. The head's weight is read after the forward pass, when logits are made slice by
slice, and is often that of the embedding.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import Tensor, nn

from ...forward.sharding import own_part
from ...tasks import plain_model


class Size(NamedTuple):
    """Bytes of a model's parameters.

    whole: of what is no layer.
    layers: of all layers together.
    largest: of the largest layer.
    """

    whole: int
    layers: int
    largest: int

    @property
    def total(self) -> int:
        """Of all parameters."""
        return self.whole + self.layers


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The outermost modules in lists that are called as a whole and share no parameter with anything else.

    Not the inner ones: which expert of a layer runs depends on the batch, and differs between processes.
    """
    listed = dict.fromkeys(_listed(plain_model(model), within=False))  # virtual tokens of an adapter stand beside it
    found = [layer for layer in listed if any(True for _ in layer.parameters())]
    inside = {part for layer in found for part in layer.modules()}
    owned = [{id(parameter) for parameter in layer.parameters()} for layer in found]
    others = {id(p) for part in model.modules() if part not in inside for p in part.parameters(recurse=False)}
    owners = Counter(chain(others, *owned))
    return [layer for layer, own in zip(found, owned, strict=True) if all(owners[one] == 1 for one in own)]


def _listed(module: nn.Module, within: bool) -> Iterator[nn.Module]:
    """The outermost modules that stand in a list or dict of modules; `within`: the module itself stands in one."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        within = True  # it is never called itself
    elif within:
        yield module
        return
    elif hasattr(module, "adapter_layer_names"):  # what peft puts around an embedding or head, with dicts within
        return
    for child in module.children():
        yield from _listed(child, within)


def whole_tensors(model: nn.Module, layers: list[nn.Module]) -> list[Tensor]:
    """The parameters of a model that are in none of its layers."""
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in inside]


def size_of(model: nn.Module) -> Size:
    """The bytes of a model's parameters."""
    layers = layers_of(model)
    sizes = [nbytes(layer.parameters()) for layer in layers]
    return Size(nbytes(whole_tensors(model, layers)), sum(sizes), max(sizes, default=0))


def nbytes(tensors: Iterable[Tensor]) -> int:
    """The bytes that tensors take together in this process, those of a sharded tensor by its part."""
    own = map(own_part, tensors)
    return sum(getattr(tensor, "ds_numel", tensor.numel()) * tensor.element_size() for tensor in own)


def twin(model: nn.Module) -> nn.Module:
    """A frozen copy of a model, which stays as it is; they share the memory of parameters until one is moved."""
    shared = {id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in model.parameters()}
    return copy.deepcopy(model, dict(shared))


def every_weight(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The whole tensors of a model's state dict in the order of their names, wherever they lie.

    All processes that share the model must read all of them: they gather those that are sharded one by one.
    """
    state = model.state_dict()
    for name, module in model.named_modules():
        if has_offloaded_params(module):
            with align_module_device(module, torch.device("cpu")):
                state.update(module.state_dict(prefix=f"{name}."))
    for name, tensor in sorted(state.items()):
        yield name, tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def is_placed(model: nn.Module) -> bool:
    """Whether a model has its place already, and refuses to be moved: it is quantised, dispatched or sharded."""
    if getattr(model, "is_quantized", False) or getattr(model, "hf_device_map", None) is not None:
        return True
    return is_shared(model) or is_offloaded(model)


def is_offloaded(model: nn.Module) -> bool:
    """Whether some of a model's parameters are on no device before they are needed."""
    return any(parameter.is_meta for parameter in model.parameters())


def is_shared(model: nn.Module) -> bool:
    """Whether processes share a model's parameters (DTensors), so that all of them must run it together."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())
