"""Each process keeps a part of every layer; a layer is gathered while it runs (PyTorch's `fully_shard`)."""

import inspect

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from .layers import layers_of, twin, whole_tensors
from .record import Placement

_CAN_IGNORE = "ignored_params" in inspect.signature(fully_shard).parameters


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy whose layers are sharded over all processes, which must run it equally often and together."""
    placed = twin(model)
    layers = layers_of(placed)
    rest = whole_tensors(placed, layers)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    for tensor in rest:
        tensor.data = tensor.to(device)
    # The root has nothing to gather itself; with it the next layer is gathered while one computes.
    fully_shard(placed, mesh=mesh, reshard_after_forward=True, ignored_params=set(rest))  # type: ignore[arg-type]
    return placed


SHARD = Placement(
    name="shard",
    title="a part of every layer on each process, gathered layer by layer while it runs",
    function=shard,
    promise="exact",
    memory="W + L / n + 2 l",
    bytes_needed=lambda size, processes: size.whole + size.layers // processes + 2 * size.largest,
    traffic="each layer is gathered once, (n - 1) / n of L to every process",
    splits=True,
    processes=2,
    missing="" if _CAN_IGNORE else f"needs torch 2.7 or later, and this is {torch.__version__}.",
)
