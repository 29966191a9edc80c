"""A model's own initialisation, drawn one parameter at a time.

A class draws its parameters one after the other from one stream of random numbers, so that each depends on all before
it. Here a model is built whose parameters lie on the meta device. What is done to them in place is recorded instead,
with the state of the stream before each draw. A draw is carried out on a tensor that is dropped, so that the stream
goes on as it does in memory. `read` repeats what was recorded of one parameter: bit for bit what it holds in memory.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel
from transformers.initialization import TORCH_INIT_FUNCTIONS, TORCH_MODULES_TO_PATCH

from ..building import parameters_on_meta
from ..paging import NotByPartsError

Operation = Callable[..., Any]


@dataclass(frozen=True)
class _Written:
    """An operation in place on a parameter or a part of it.

    Args:
        operation: of torch.
        place: size, strides and offset of the part.
        arguments: behind the tensor.
        options: by name.
        state: of the stream before it, None where it draws nothing.
    """

    operation: Operation
    place: tuple[torch.Size, tuple[int, ...], int]
    arguments: tuple[object, ...]
    options: dict[str, object]
    state: Tensor | None

    def repeat(self, tensor: Tensor) -> None:
        """Do it to a tensor in memory."""
        if self.state is not None:
            torch.default_generator.set_state(self.state)
        self.operation(tensor.as_strided(*self.place), *self.arguments, **self.options)


class Recording(TorchDispatchMode):
    """In the block, what is done in place to parameters on the meta device is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[int, Tensor | None] = {}
        self._written: dict[int, list[_Written]] = {}
        self._kept: list[torch.UntypedStorage] = []  # the number of one that is freed may be given to another

    def keep(self, parameter: Tensor, value: Tensor | None) -> None:
        """Record what a parameter holds before anything is done to it; None where that is overwritten at once."""
        self._kept.append(parameter.untyped_storage())
        self._values[_storage(parameter)] = value
        self._written[_storage(parameter)] = []

    def _keep_copy(self, tensor: Tensor, copy: Tensor) -> None:
        """Record that `copy` holds what `tensor` does."""
        self.keep(copy, self._values.get(_storage(tensor)))
        self._written[_storage(copy)] = list(self._written[_storage(tensor)])

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record an operation in place on the meta device; carry out any other."""
        kwargs = kwargs or {}
        first: Any = args[0] if args else None
        name: str = func.overloadpacket.__name__
        if not (isinstance(first, Tensor) and first.is_meta and name.endswith("_") and not name.endswith("__")):
            result = func(*args, **kwargs)
            # Tying pads the bias of a head, by nothing most often.
            if name in _COPY and _storage(first) in self._written and result.shape == first.shape:
                self._keep_copy(first, result)
            return result
        return self.add(
            func, first, args[1:], kwargs, torch.Tag.nondeterministic_seeded in func.tags, name in _OVERWRITE
        )

    def add(
        self,
        operation: Operation,
        tensor: Tensor,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        draws: bool = True,
        overwrites: bool = True,
    ) -> Tensor:
        """Record an operation in place on a tensor on the meta device.

        Args:
            draws: it may draw random numbers.
            overwrites: nothing is left of what the tensor held.
        """
        storage, given = _storage(tensor), (*arguments, *options.values())
        others = any(isinstance(value, Tensor) and value.is_meta for value in given)
        if storage not in self._written or others or options.get("generator") is not None:
            raise NotByPartsError(operation.__name__, "Its class initialises parameters by way of others")
        place = (tensor.size(), tensor.stride(), int(tensor.storage_offset()))
        state = torch.default_generator.get_state() if draws else None
        if draws:
            operation(torch.empty_strided(*place[:2], dtype=tensor.dtype), *arguments, **options)
        if overwrites and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes():
            self._values[storage], self._written[storage] = None, []
        self._written[storage].append(_Written(operation, place, arguments, options, state))
        return tensor

    @contextmanager
    def functions(self) -> Iterator[None]:
        """In the block the functions of `torch.nn.init`, of which some do nothing on the meta device, are recorded."""
        with ExitStack() as stack:
            for name, function in list(TORCH_INIT_FUNCTIONS.items()):
                stack.callback(TORCH_INIT_FUNCTIONS.__setitem__, name, function)
                TORCH_INIT_FUNCTIONS[name] = self._recorded(function)
                for module in (sys.modules[path] for path in TORCH_MODULES_TO_PATCH if path in sys.modules):
                    if hasattr(module, name):
                        stack.callback(setattr, module, name, getattr(module, name))
                        setattr(module, name, TORCH_INIT_FUNCTIONS[name])
            yield

    def _recorded(self, function: Any) -> Operation:
        @functools.wraps(function)
        def recorded(tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
            if tensor.is_meta:
                return self.add(function, tensor, arguments, options)
            result: Tensor = function(tensor, *arguments, **options)
            return result

        return recorded

    @torch.no_grad()
    def read(self, parameter: Tensor) -> Tensor:
        """What a parameter of the model holds in memory, in memory of its own; the random state stays as it was."""
        storage = _storage(parameter)
        if storage not in self._written:
            raise NotByPartsError(type(parameter).__name__, "A parameter is made of others")
        tensor = torch.empty_strided(parameter.size(), parameter.stride(), dtype=parameter.dtype)
        if (value := self._values[storage]) is not None:
            tensor.copy_(value)
        state = torch.default_generator.get_state()
        for one in self._written[storage]:
            one.repeat(tensor)
        torch.default_generator.set_state(state)
        return tensor


_COPY = ("clone", "constant_pad_nd")
"""Operations that put out a copy where the shape stays."""
_OVERWRITE = ("normal_", "uniform_", "zero_", "fill_", "copy_")
"""Operations behind which nothing is left of what a tensor held."""


def _storage(tensor: Tensor) -> int:
    number: int = StorageWeakRef(tensor.untyped_storage()).cdata
    return number


def recorded(make: Callable[[], PreTrainedModel]) -> tuple[PreTrainedModel, Recording]:
    """The model that `make` builds, with its parameters on the meta device, and what they hold in memory."""
    recording = Recording()
    with parameters_on_meta(recording.keep), recording, recording.functions():
        model = make()
    return model, recording
