"""How layers are called in a pass, and what they put out when they are called so again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from ...errors import GrowthError
from ..proxy.batches import Batch


@dataclass(frozen=True)
class Call:
    """Arguments of one call of a layer."""

    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    @property
    def values(self) -> tuple[object, ...]:
        """All arguments in order."""
        return (*self.args, *self.kwargs.values())


def calls_of(model: PreTrainedModel, layers: Sequence[nn.Module], batch: Batch) -> dict[int, Call]:
    """How each layer is called in a pass over `batch`: index of the layer -> its first call."""
    calls: dict[int, Call] = {}

    def keep(index: int, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        # A cache would grow with every further call.
        plain = {key: None if "Cache" in type(value).__name__ else value for key, value in kwargs.items()}
        calls.setdefault(index, Call(args, plain))

    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, index=index: keep(index, args, kwargs), with_kwargs=True
        )
        for index, layer in enumerate(layers)
    ]
    try:
        model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def stream_of(call: Call) -> Tensor:
    """The residual stream that a layer reads: its first floating tensor."""
    for value in call.values:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise GrowthError("depth", "layer", "It reads no floating tensor.", "Keep the teacher's depth.")


def run(layer: nn.Module, call: Call, stream: Tensor) -> Tensor:
    """The first tensor that `layer` puts out when it is called as in `call` with another `stream`."""
    return first_of(output_of(layer, call, stream))


def first_of(out: object) -> Tensor:
    """The first tensor of an output.

    Raises:
        TypeError: it begins with none.
    """
    if isinstance(out, tuple | list):
        return first_of(out[0])
    if not isinstance(out, Tensor):
        raise TypeError(f"a layer puts out a {type(out).__name__}, which is no tensor")
    return out


def output_of(layer: nn.Module, call: Call, stream: Tensor) -> object:
    """What `layer` puts out when it is called as in `call` with another `stream`."""
    old = stream_of(call)
    args = tuple(stream.clone() if value is old else value for value in call.args)
    kwargs = {key: stream.clone() if value is old else value for key, value in call.kwargs.items()}
    return layer(*args, **kwargs)
