"""Layers lie in the CPU's memory and visit the device one by one (accelerate's hooks)."""

import torch
from accelerate.hooks import attach_align_device_hook
from torch import nn

from .layers import layers_of, twin, whole_tensors
from .record import Placement


def offload(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy whose layers are on the CPU, and on the device while they run."""
    placed = twin(model)
    layers = layers_of(placed)
    device = torch.device("cpu") if device.type == "cpu" else device  # accelerate's cpu:0 is no place of its hooks
    for tensor in (*whole_tensors(placed, layers), *placed.buffers()):
        tensor.data = tensor.to(device)
    for layer in layers:
        weights = {name: parameter.detach().cpu() for name, parameter in layer.named_parameters()}
        # Named so that all its weights come at once: a part may be read without being called.
        attach_align_device_hook(
            layer, device, offload=True, weights_map=weights, preload_module_classes=[type(layer).__name__]
        )
    return placed


OFFLOAD = Placement(
    name="offload",
    title="layers in the CPU's memory, each on the device while it runs",
    function=offload,
    promise="exact",
    memory="W + l",
    bytes_needed=lambda size, processes: size.whole + size.largest,
    traffic="L from the CPU to the device of every process",
    splits=True,
    away="cpu",
)
