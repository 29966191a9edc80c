"""How engines of distributed training hold the weights of a model that runs."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor


def is_unit(module: nn.Module) -> bool:
    """Whether FSDP2 gathers the parameters of a module together."""
    return isinstance(module, FSDPModule)


def is_flattened(model: nn.Module) -> bool:
    """Whether the memory of its parameters is another tensor's, by which derivatives are taken: FSDP1 and ZeRO-3."""
    if hasattr(next(model.parameters(), None), "ds_id"):
        return True
    return any(isinstance(module, FullyShardedDataParallel) for module in model.modules())


def is_sharded(model: nn.Module) -> bool:
    """Whether weights are whole only while their module runs: under FSDP, in either version, and under ZeRO-3."""
    return is_flattened(model) or any(is_unit(module) for module in model.modules())


def stays_whole(head: nn.Linear) -> bool:
    """Whether the weight of a linear layer is whole outside its forward, too: no engine shards it."""
    whole = list(head.weight.shape) == [head.out_features, head.in_features]
    return whole and type(head.weight) is nn.Parameter  # FSDP leaves another kind of tensor there


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def reshard(model: nn.Module) -> None:
    """Let FSDP2 drop every whole copy of parameters: behind a forward pass it keeps some for the backward pass."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


Learning = dict[nn.Module, list[Tensor]]


@contextmanager
def learning_in(model: nn.Module, modules: Sequence[nn.Module]) -> Iterator[Learning]:
    """In the block what a model learns from by way of `modules`: whole tensors, as they are while the model runs.

    Of each of `modules` its parameters; of the model all of them. Where FSDP2 has it in units, of which no other is
    whole when one runs, these are the parameters of the outermost unit, and the parameters and inputs of each unit
    with some of `modules` in it.
    """
    sharded = set[Tensor]()
    if is_unit(model):
        reshard(model)
        sharded.update(model.parameters())
    found: Learning = {}

    def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        inputs = (*args, *kwargs.values()) if is_unit(module) else ()
        given = (one for one in (*module.parameters(), *inputs) if isinstance(one, Tensor) and one.requires_grad)
        found[module] = [one for one in given if one not in sharded]

    units = [part for part in model.modules() if is_unit(part) and set(part.modules()) & set(modules)]
    with ExitStack() as stack:
        for module in {model, *units, *modules}:
            stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        yield found
