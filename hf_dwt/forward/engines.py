"""What engines of distributed training do with the weights of a model."""

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel


def is_sharded(model: nn.Module) -> bool:
    """Whether weights are whole only while their module runs: under FSDP, in either version, and under ZeRO-3."""
    if any(isinstance(module, FSDPModule | FullyShardedDataParallel) for module in model.modules()):
        return True
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())
