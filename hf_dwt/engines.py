"""Models that are whole, whatever engine shards the student.

A teacher, and what a student is grown from, is read by its own process and belongs to no engine. transformers builds
and loads every model in the way of the engine that the process has been set up for: in parts under DeepSpeed's ZeRO-3,
with missing parameters on the meta device under FSDP.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn
from transformers.integrations import deepspeed

Model = TypeVar("Model", bound=nn.Module)

_EFFICIENT_LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"
"""The variable by which accelerate tells transformers that all ranks but the first need no weights."""


@contextmanager
def whole_models() -> Iterator[None]:
    """In the block transformers builds and loads models whole, on every process; afterwards all is as before."""
    config = deepspeed._hf_deepspeed_config_weak_ref
    efficient = os.environ.pop(_EFFICIENT_LOADING, None)
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config
        if efficient is not None:
            os.environ[_EFFICIENT_LOADING] = efficient


def gathered(model: Model) -> Model:
    """The model itself; a whole copy on the CPU of one that ZeRO-3 keeps in parts (made under `zero.Init`).

    All processes must call it: they gather the parameters one by one. The model stays as it is.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return model
    import deepspeed as installed  # parameters have this mark where it is

    copies: dict[int, object] = {}  # by the identity of what they are copies of, as `deepcopy` keeps them
    for parameter in model.parameters():
        with installed.zero.GatheredParameters([parameter]):
            copies[id(parameter)] = nn.Parameter(parameter.detach().to("cpu", copy=True), parameter.requires_grad)
    return copy.deepcopy(model, copies).cpu()
