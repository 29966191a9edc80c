"""How layers are called in a pass, and what they put out when called so again."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ...errors import GrowthError


@dataclass
class Call:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def calls_of(model: PreTrainedModel, layers: list[nn.Module], batch: dict[str, Any]) -> dict[int, Call]:
    """How each layer is called in a pass over `batch`."""
    calls: dict[int, Call] = {}
    handles = []
    for index, layer in enumerate(layers):

        def keep(_: nn.Module, args: Any, kwargs: Any, index: int = index) -> None:
            # A cache would grow with every further call.
            plain = {key: None if "Cache" in type(value).__name__ else value for key, value in kwargs.items()}
            calls.setdefault(index, Call(args, plain))

        handles.append(layer.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def stream_of(call: Call) -> Tensor:
    """The residual stream that a layer reads: its first floating tensor."""
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise GrowthError("depth", "layer", "It reads no floating tensor.", "Keep the teacher's depth.")


def run(layer: nn.Module, call: Call, stream: Tensor) -> Tensor:
    return first_of(output_of(layer, call, stream))


def first_of(out: Any) -> Tensor:
    return first_of(out[0]) if isinstance(out, tuple | list) else out


def output_of(layer: nn.Module, call: Call, stream: Tensor) -> Any:
    old = stream_of(call)
    args = tuple(stream.clone() if value is old else value for value in call.args)
    kwargs = {key: stream.clone() if value is old else value for key, value in call.kwargs.items()}
    return layer(*args, **kwargs)
