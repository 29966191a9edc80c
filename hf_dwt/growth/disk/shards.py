"""The files of a student that is written part by part: each is whole or not there; a growth goes on at the next."""

import json
import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from huggingface_hub.utils import tqdm
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from ...errors import GrowthError
from ..origins import every_tensor, tensors
from ..paging import Make, Pages, Place

PROGRESS_FILE = "growth-progress.json"
"""What is known of a growth that is not at its end; it is removed then."""
PART = ".part"
"""At the end of the name of a file that is being written."""
PATTERN = "model{suffix}.safetensors"
MAX_SHARD_SIZE = "5GB"


@dataclass
class Progress:
    """How far a growth came.

    Args:
        fingerprint: of the plan.
        attempt: how often the student was begun: "auto" may refuse what it chose, and write it again.
        files: those that are whole, of the last attempt.
    """

    fingerprint: str
    attempt: int = 0
    files: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write it to its file in `folder`."""
        write_whole(folder / PROGRESS_FILE, json.dumps(asdict(self), indent=1) + "\n")


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name at the end of the block: it is whole or not there, whenever the process ends."""
    part = path.with_name(path.name + PART)
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_whole(path: Path, content: str) -> None:
    """Write a file of text that is whole or not there."""
    with whole(path) as file:
        file.write(content.encode())


def write_tensors(path: Path, shapes: Mapping[str, Tensor], make: Callable[[str], Tensor]) -> Iterator[int]:
    """Write a file in the format safetensors, of which one tensor at a time is in memory.

    Args:
        shapes: name -> a tensor of that shape and dtype, on the meta device perhaps.
        make: makes the tensor of that name.

    Yields:
        the number of bytes of each tensor when it is written.
    """
    # As the format's own writer has them, so that each begins at a multiple of its dtype's size.
    names = sorted(shapes, key=lambda name: (-shapes[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + shapes[name].numel() * shapes[name].element_size()
        kind = _dtype_name(shapes[name].dtype)
        header[name] = {"dtype": kind, "shape": list(shapes[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with whole(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            tensor = make(name)
            if tensor.shape != shapes[name].shape or tensor.dtype is not shapes[name].dtype:
                raise RuntimeError(f"{name} was made with another shape or dtype than planned")
            file.write(tensor_bytes(tensor))
            yield nbytes(tensor)
            del tensor


def tensor_bytes(tensor: Tensor) -> memoryview:
    """What a tensor holds; no copy of one that is contiguous in memory."""
    content: memoryview = tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data
    return content


def bytes_of_size(size: int | str) -> None:
    """Raise a GrowthError where `size` is no size of a file."""
    try:
        split_torch_state_dict_into_shards({}, filename_pattern=PATTERN, max_shard_size=size)
        right = isinstance(size, str) or (type(size) is int and size > 0)
    except (ValueError, TypeError):
        right = False
    if not right:
        problem = "It is the size of no file."
        raise GrowthError("max_shard_size", size, problem, 'Give bytes, or a number and a unit such as "5GB".')


@cache
def _dtype_name(dtype: torch.dtype) -> str:
    """The name that the format safetensors has for a dtype."""
    content = save({"": torch.empty(0, dtype=dtype)})
    name: str = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])[""]["dtype"]
    return name


class Shards(Pages):
    """A student in its folder.

    Args:
        folder: of the student.
        progress: of this growth.
        max_shard_size: of a file, as of `save_pretrained`; a parameter that is larger has a file of its own.
    """

    def __init__(self, folder: Path, progress: Progress, max_shard_size: int | str) -> None:
        super().__init__({})
        self.folder, self.progress, self.max_shard_size = folder, progress, max_shard_size
        self.attempt = 0
        self.index: str | None = None
        self.own: Callable[[Tensor], Tensor] | None = None

    def begin(self, own: Callable[[Tensor], Tensor]) -> None:
        """Let the next `fill` start from a student with its own initialisation.

        Args:
            own: what a parameter of it, on the meta device, holds.
        """
        self.own = own

    def fill(self, model: nn.Module, make: Make, names: Collection[str], alike: Mapping[str, str]) -> None:
        """Write the files of `model` that are not whole yet."""
        assert isinstance(model, PreTrainedModel)
        ours, own, before = tensors(model), self.own, dict(self.places)
        self.attempt, self.own = self.attempt + 1, None
        if self.progress.attempt != self.attempt:
            # Known before a file is replaced: one of another attempt would pass for one of this.
            self.progress.attempt, self.progress.files = self.attempt, []
            self.progress.save(self.folder)

        def made(name: str) -> Tensor:
            other, tensor = alike.get(name, name), ours[name]
            if tensor.is_meta:
                tensor = own(ours[other]) if own is not None else Pages(before).read(other).clone()
            if other in names:
                make(other, tensor)
            return tensor

        layout = Layout(model, self.max_shard_size)
        with tqdm(total=layout.total, desc="Growing", unit="B", unit_scale=True, disable=None) as bar:
            for file, inside in layout.files.items():
                self._write(file, inside, ours, made, bar)
                places = {name: Place(self.folder / file, key, ours[name].dtype) for key, name in inside.items()}
                self.places |= {one: places[name] for one, name in layout.names.items() if name in places}
                for name in places:
                    if not ours[name].is_meta:
                        ours[name].copy_(self.read(name))
        self.index = layout.index()

    def _write(
        self,
        file: str,
        inside: Mapping[str, str],
        ours: Mapping[str, Tensor],
        made: Callable[[str], Tensor],
        bar: tqdm,
    ) -> None:
        """Write one file, if that was not done before."""
        path = self.folder / file
        if file in self.progress.files and path.is_file():
            bar.update(sum(nbytes(ours[name]) for name in inside.values()))
            return
        shapes = {key: ours[name] for key, name in inside.items()}
        for written in write_tensors(path, shapes, lambda key: made(inside[key])):
            bar.update(written)
        self.progress.files.append(file)
        self.progress.save(self.folder)


def nbytes(tensor: Tensor) -> int:
    """Size of a tensor in bytes, on the meta device too."""
    return tensor.numel() * tensor.element_size()


class Layout:
    """Which tensor of a model is in which file, under which name: as `save_pretrained` has them.

    Where a class stores parameters in another form than it has them (experts one by one), its own form is written,
    which `from_pretrained` reads too.

    Args:
        files: name of a file -> name of a tensor in it -> the model's name for it.
        names: each name of a tensor of the model, tied ones have several -> the first of them.
        total: bytes of all.
    """

    def __init__(self, model: PreTrainedModel, max_shard_size: int | str) -> None:
        ours, every = tensors(model), every_tensor(model)
        first = {id(tensor): name for name, tensor in ours.items()}
        self.names = {name: first[id(tensor)] for name, tensor in every.items() if id(tensor) in first}
        keys: dict[str, str] = {}
        for name in model.state_dict():
            # Of tied ones that is stored which the others are tied to.
            if name not in model.all_tied_weights_keys:
                keys.setdefault(self.names[name], name)
        stored = _stored(model, {**keys, **{name: name for name in ours if name not in keys}}, ours)
        self._split = split_torch_state_dict_into_shards(
            {key: ours[name] for key, name in stored.items()},
            filename_pattern=PATTERN,
            max_shard_size=max_shard_size,
        )
        self.files = {
            file: {key: stored[key] for key in inside} for file, inside in self._split.filename_to_tensors.items()
        }
        self.total = sum(map(nbytes, ours.values()))
        self._parameters = model.num_parameters()

    def index(self) -> str | None:
        """The content of the index; None where there is one file."""
        if not self._split.is_sharded:
            return None
        metadata = {"total_parameters": self._parameters, **self._split.metadata}
        index = {"metadata": metadata, "weight_map": self._split.tensor_to_filename}
        return json.dumps(index, indent=2, sort_keys=True) + "\n"


def _stored(model: PreTrainedModel, keys: Mapping[str, str], ours: Mapping[str, Tensor]) -> dict[str, str]:
    """Name under which `save_pretrained` stores a tensor -> the model's, in the order in which it does.

    Args:
        keys: the model's name -> that under which it is stored before names are converted.
    """
    plain = {key: name for name, key in keys.items()}
    every = revert_weight_conversion(model, {key: ours[name] for key, name in plain.items()})
    stored = plain
    if every.keys() != plain.keys():
        stored = {}
        for key, name in plain.items():
            found = revert_weight_conversion(model, {key: ours[name]})
            if len(found) == 1 and next(iter(found.values())).shape == ours[name].shape:
                stored[next(iter(found))] = name
    return {key: stored[key] for key in every} if every.keys() == stored.keys() else plain
