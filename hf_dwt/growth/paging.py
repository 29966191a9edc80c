"""Models whose parameters are on disk: each lies on the meta device until it is needed, and is then read alone.

What fills, reads or runs a model of a growth does so through this module, and is the same for a model in memory.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from huggingface_hub.utils import tqdm
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import GrowthError
from ..precision import HALF
from .origins import every_tensor, tensors

DELAY = 2.0
"""Seconds before a bar shows."""
PART = 2**26
"""Bytes of a parameter that are read at once where it is cast."""
UNIT = 2**29
"""Bytes of parameters that are in memory together while a model runs; one parameter may be larger."""

Make = Callable[[str, Tensor], object]
"""(name of a parameter or persistent buffer, that tensor with its own initialisation) -> it is written in place."""


@dataclass(frozen=True)
class Place:
    """Where a tensor is on disk.

    Args:
        file: in the format safetensors.
        key: its name there.
        dtype: that it is read in.
    """

    file: Path
    key: str
    dtype: torch.dtype


class Pages:
    """The parameters of one model on disk.

    Args:
        places: name, tied ones under each of theirs -> where it is.
    """

    def __init__(self, places: Mapping[str, Place | Tensor]) -> None:
        self.places = dict(places)

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A parameter, whose memory is the file's where it is not cast.

        Args:
            dtype: None for the one that it has in the model.
        """
        place = self.places[name]
        if isinstance(place, Tensor):
            return place if dtype is None else place.to(dtype)
        wanted = dtype or place.dtype
        with safe_open(place.file, framework="pt") as file:
            stored: Tensor = file.get_tensor(place.key)
        return (
            stored
            if stored.dtype is wanted is place.dtype
            else _cast(place, stored.shape, wanted, stored.element_size())
        )

    def fill(self, model: nn.Module, make: Make, names: Collection[str], alike: Mapping[str, str]) -> None:
        """Write the parameters of `model`: those of `names` by `make`, the others keep what they hold.

        Args:
            alike: as of the function `fill`.
        """
        raise NotImplementedError(f"the parameters of {type(model).__name__} are read alone")

    def larger(self, make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """The model that `make` builds, with its own initialisation, to be filled from this one, on disk too."""
        raise NotImplementedError("a student is read alone")


def _cast(place: Place, shape: torch.Size, dtype: torch.dtype, size: int) -> Tensor:
    """The tensor at `place` in another dtype, some rows at a time: each part of the file is in memory alone."""
    out = torch.empty(shape, dtype=dtype)
    if not shape or not out.numel():
        with safe_open(place.file, framework="pt") as file:
            return out.copy_(file.get_tensor(place.key).to(place.dtype))
    rows = max(1, PART * shape[0] // (size * out.numel()))
    for start in range(0, shape[0], rows):
        with safe_open(place.file, framework="pt") as file:
            part: Tensor = file.get_slice(place.key)[start : start + rows]
            out[start : start + rows] = part.to(place.dtype)  # as the model has it
    return out


_pages: WeakKeyDictionary[nn.Module, Pages] = WeakKeyDictionary()


def put_on_disk(model: nn.Module, pages: Pages) -> None:
    """Read what of `model` lies on the meta device from `pages` from now on."""
    _pages[model] = pages


def pages_of(model: nn.Module) -> Pages | None:
    """The pages of a model on disk; None of one in memory."""
    return _pages.get(model)


@torch.no_grad()
def new_model(make: Callable[[], PreTrainedModel], like: PreTrainedModel, changed: Collection[str]) -> PreTrainedModel:
    """The model that `make` builds, in memory or on disk as `like` is.

    Args:
        changed: names of what keeps its own initialisation, to be filled; all else is what it is in `like`.
    """
    pages = pages_of(like)
    model, theirs = make() if pages is None else pages.larger(make), every_tensor(like)
    for name, tensor in tensors(model).items():
        if not tensor.is_meta and name not in changed:
            tensor.copy_(theirs[name])
    return model


class _Readable(Mapping[str, Tensor]):
    def __init__(self, found: Mapping[str, Tensor], pages: Pages) -> None:
        self.found, self.pages = found, pages

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.found[name]
        return self.pages.read(name) if tensor.is_meta else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


def readable(model: nn.Module, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`found`, tensors of `model` by name; what is on disk is read when it is looked up, and not kept."""
    pages = pages_of(model)
    return found if pages is None else _Readable(found, pages)


def weights(model: nn.Module) -> Mapping[str, Tensor]:
    """Parameters and persistent buffers, tied ones once, readable wherever they are."""
    return readable(model, tensors(model))


@torch.no_grad()
def fill(
    model: nn.Module,
    make: Make,
    names: Collection[str] | None = None,
    progress: bool = False,
    alike: Mapping[str, str] | None = None,
) -> None:
    """Write the parameters and persistent buffers of a student, one at a time, wherever they are.

    Args:
        make: writes one.
        names: of those that it writes, default all; others keep what they hold.
        progress: show a bar when it takes more than a few seconds; `disable_progress_bars` of huggingface_hub and of
            transformers hide it. A student on disk always has one.
        alike: name of a parameter -> another one, as which it is written.
    """
    ours = {name: tensor for name, tensor in tensors(model).items() if names is None or name in names}
    if (pages := pages_of(model)) is not None:
        pages.fill(model, make, ours.keys(), alike or {})
        return
    total = sum(tensor.numel() for tensor in ours.values())
    bar = tqdm(total=total, desc="Growing", unit=" parameters", unit_scale=True, delay=DELAY, disable=not progress)
    with bar:
        for name, tensor in ours.items():
            make(name, tensor)
            bar.update(tensor.numel())
        for name, other in (alike or {}).items():
            model.get_parameter(name).copy_(model.get_parameter(other))


@contextmanager
def in_memory(*models: nn.Module, wide: bool = False, unit: int | None = None) -> Iterator[None]:
    """In the block models on disk can be run: parameters are in memory while what they belong to runs.

    That is a part of at most `UNIT` bytes, such as a layer or a small model, or one module with parameters of its own.

    Args:
        wide: parameters of half precision are read as fp32.
        unit: instead of `UNIT`; at 0 each module has its own parameters alone.
    """
    with ExitStack() as stack:
        for model in models:
            if (pages := pages_of(model)) is None:
                continue
            for module, names in _units("", model, wide, UNIT if unit is None else unit):
                part = Unit(model, names, pages, wide)
                stack.callback(module.register_forward_pre_hook(part.enter).remove)
                stack.callback(module.register_forward_hook(part.leave, always_call=True).remove)
        yield


def _units(path: str, module: nn.Module, wide: bool, unit: int) -> Iterator[tuple[nn.Module, list[str]]]:
    """(module, names of the parameters that are in memory while it runs)."""
    own = dict(module.named_parameters(prefix=path, recurse=False, remove_duplicate=False))
    every = dict(module.named_parameters(prefix=path, remove_duplicate=False))
    called = type(module).forward is not nn.Module.forward  # a list of layers is not
    if called and sum(_size(parameter, wide) for parameter in every.values()) <= unit:
        own = every
    if own:
        yield module, list(own)
    if len(own) < len(every):
        for name, child in module.named_children():
            yield from _units(f"{path}.{name}" if path else name, child, wide, unit)


def _size(parameter: Tensor, wide: bool) -> int:
    return parameter.numel() * (4 if wide and parameter.dtype in HALF else parameter.element_size())


class Unit:
    """Parameters that come into memory together.

    Args:
        names: of parameters of `model`.
        wide: as of `in_memory`.
    """

    def __init__(self, model: nn.Module, names: Collection[str], pages: Pages, wide: bool) -> None:
        self.pages, self.wide = pages, wide
        self.places = [(model.get_submodule(name.rpartition(".")[0]), name) for name in names]
        self.away: list[tuple[nn.Module, str, nn.Parameter]] = []

    def enter(self, *_: object) -> None:
        """Read them."""
        read: dict[int, nn.Parameter] = {}
        for module, name in self.places:
            leaf = name.rpartition(".")[2]
            parameter = getattr(module, leaf)
            if not parameter.is_meta:
                continue
            if id(parameter) not in read:
                dtype = torch.float32 if self.wide and parameter.dtype in HALF else None
                read[id(parameter)] = nn.Parameter(self.pages.read(name, dtype), requires_grad=False)
            self.away.append((module, leaf, parameter))
            setattr(module, leaf, read[id(parameter)])

    def leave(self, *_: object) -> None:
        """Put what lies on the meta device back in their place."""
        while self.away:
            module, leaf, parameter = self.away.pop()
            setattr(module, leaf, parameter)


class NotByPartsError(GrowthError):
    """A student that cannot be written part by part, and can be grown in memory.

    Args:
        value: what is the cause.
        problem: a clause.
    """

    def __init__(self, value: str, problem: str) -> None:
        fix = "Leave `to` out: it is grown in memory then."
        super().__init__("to", value, f"{problem}, so it cannot be written part by part.", fix)
