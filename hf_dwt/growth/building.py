"""How models are built from a config: with their own initialisation, or without."""

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from ..engines import whole_models


class AutoClass(Protocol):
    """An Auto class of transformers, which builds the class that a config names."""

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **arguments: object) -> PreTrainedModel: ...

    @classmethod
    def from_pretrained(cls, name: str, **arguments: object) -> PreTrainedModel: ...


ModelClass = type[PreTrainedModel] | type[AutoClass]


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """In the block what is random depends on `seed` alone; the global random state stays as it was."""
    # Only the CPU's generator is used and restored; torch.manual_seed would move those of all devices.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def build(model_class: ModelClass, config: PreTrainedConfig, device: str, **arguments: object) -> PreTrainedModel:
    """A model of `config` with its own initialisation; whole, whatever engine of distributed training is set up.

    Args:
        arguments: of an Auto class, such as `trust_remote_code`.
    """
    # A config is marked by the model built from it (dtype, attention); the caller's stays as it is.
    config = copy.deepcopy(config)
    with whole_models(), torch.device(device):
        if issubclass(model_class, PreTrainedModel):
            model: PreTrainedModel = model_class._from_config(config)
            return model
        return model_class.from_config(config, **arguments)


def blank(model_class: ModelClass, config: PreTrainedConfig, device: str) -> PreTrainedModel:
    """A model of `config` without initialisation, for strategies that write every parameter: it takes no time, and
    memory only as parameters are written. `complete` it after that.
    """
    with no_init_weights():
        model = build(model_class, config, device)
    model.tie_weights()
    return model


def nothing_kept(parameter: nn.Parameter, value: Tensor) -> None:
    """Of `parameters_on_meta`: what parameters hold is of no use."""


@contextmanager
def parameters_on_meta(keep: Callable[[nn.Parameter, Tensor], None] = nothing_kept) -> Iterator[None]:
    """In the block the parameters of new models lie on the meta device, and buffers in memory.

    Args:
        keep: is given each parameter there, and the tensor in its place.
    """
    register = nn.Module.register_parameter

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            value = parameter.detach()
            shape, strides = value.size(), value.stride()
            empty = torch.empty_strided(shape, strides, dtype=value.dtype, device="meta")
            moved = nn.Parameter(empty, parameter.requires_grad)
            moved.__dict__.update(parameter.__dict__)
            keep(moved, value)
            parameter = moved
        register(module, name, parameter)

    nn.Module.register_parameter = registered  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def complete(model: PreTrainedModel, written: Collection[str]) -> None:
    """Initialise what a `blank` model has beside its `written` parameters and buffers: buffers that are not saved."""
    for name in written:
        # from_pretrained sets this flag, too, on what transformers is to leave alone.
        model.get_parameter_or_buffer(name)._is_hf_initialized = True
    model.initialize_weights()


def renew(model: PreTrainedModel, build_again: Callable[[], PreTrainedModel]) -> None:
    """Replace the contents of `model` by those of the model that `build_again` builds; its memory is freed first."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.new_empty(0)
    model.__dict__.update(build_again().__dict__)
