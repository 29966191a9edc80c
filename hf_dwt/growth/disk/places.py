"""A teacher whose weights stay on disk: where in the files of its checkpoint each parameter is."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.integrations.accelerate import accelerate_disk_offload
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from ...adapters import HUB_ARGUMENTS
from ...errors import first_line
from ..building import blank, complete, parameters_on_meta
from ..checkpoint import Teacher
from ..origins import every_tensor, tensors
from ..paging import Make, Pages, Place, put_on_disk
from ..reading import Loading
from .recording import Recording, recorded
from .shards import write_tensors

logger = logging.getLogger(__name__)

ROWS_FILE = "growth-rows-{}.safetensors"
"""Files of a teacher's parameters with new rows; they are removed at the end."""
KNOWN = (*HUB_ARGUMENTS, "attn_implementation", "dtype", "key_mapping", "torch_dtype", "trust_remote_code")
"""Arguments of `from_pretrained` under which weights can be read one at a time."""


class _Checkpoint(Pages):
    """A teacher in the files of its checkpoint.

    Args:
        folder: for what it has more, once it is made larger.
    """

    def __init__(self, places: Mapping[str, Place | Tensor], folder: Path) -> None:
        super().__init__(places)
        self.folder = folder

    def larger(self, make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """A model on disk of which the parameters that are filled get files of their own."""
        model, recording = recorded(make)
        put_on_disk(model, _Larger(self, recording))
        return model


class _Larger(_Checkpoint):
    """A teacher with other rows: the parameters that have them are in files in the student's folder."""

    def __init__(self, smaller: _Checkpoint, recording: Recording) -> None:
        super().__init__({}, smaller.folder)
        self.smaller, self.recording = smaller, recording

    @property
    def level(self) -> int:
        """How many times the teacher was made larger."""
        return 1 + (self.smaller.level if isinstance(self.smaller, _Larger) else 0)

    def fill(self, model: nn.Module, make: Make, names: Collection[str], alike: Mapping[str, str]) -> None:
        """Write those of `names`; the others are where they were."""
        every = every_tensor(model)
        for name, tensor in tensors(model).items():
            place = self.smaller.places[name]
            if name in names and not tensor.is_meta:
                make(name, tensor)
            elif name in names:
                own = self.recording.read(tensor)
                make(name, own)
                file = self.folder / ROWS_FILE.format(f"{self.level}-{len(self.places)}")
                for _ in write_tensors(file, {name: own}, {name: own}.__getitem__):
                    pass
                place = Place(file, name, tensor.dtype)
            self.places |= {one: place for one, same in every.items() if same is tensor}
        self.places |= {name: self.places[other] for name, other in alike.items()}


def left_on_disk(teacher: Teacher, folder: Path) -> Teacher:
    """`teacher`, whose weights are read one at a time; where that is not possible, it is loaded whole with a warning.

    One that is in memory already stays there.

    Args:
        folder: of the student; what the teacher gets more rows for is put there.
    """
    if teacher.checkpoint is None:
        return teacher

    def load() -> tuple[PreTrainedModel, frozenset[str]]:
        assert teacher.checkpoint is not None
        name, arguments = teacher.checkpoint
        try:
            found = _places(teacher.skeleton, name, arguments)
        except (OSError, ValueError, KeyError, SafetensorError) as error:  # loading raises the error that names it
            found = f"its files cannot be read one by one ({first_line(error)})"
        if isinstance(found, str):
            logger.warning("The teacher %s is loaded whole, since %s.", name, found)
            return teacher.load()
        return _with_places(teacher.skeleton, found, folder), frozenset()

    return replace(teacher, load=load)


def _with_places(skeleton: PreTrainedModel, places: Mapping[str, Place], folder: Path) -> PreTrainedModel:
    """A model whose parameters are at `places`, in evaluation mode; its buffers are in memory."""
    with parameters_on_meta():
        model: PreTrainedModel = blank(type(skeleton), skeleton.config, "cpu")
    complete(model, tensors(model))
    pages = _Checkpoint(places, folder)
    put_on_disk(model, pages)
    for name, tensor in tensors(model).items():
        if not tensor.is_meta:
            tensor.copy_(pages.read(name))
    model.eval()
    return model


def _places(skeleton: PreTrainedModel, name: str, arguments: Loading) -> dict[str, Place] | str:
    """Name of a parameter, also of a tied one, -> where it is; or why that cannot be known, a clause."""
    if strange := [key for key, value in arguments.items() if key not in KNOWN and value is not None]:
        return f"it is loaded with {strange[0]}"
    if type(skeleton).is_custom_code():
        return "its class is code of its own"
    files = _files(name, {key: value for key, value in arguments.items() if key in HUB_ARGUMENTS})
    if files is None:
        return "its weights are not in the format safetensors"
    mapping = get_model_conversion_mapping(skeleton, arguments.get("key_mapping"))
    index = accelerate_disk_offload(skeleton, None, files[0], {"": "disk"}, files[1], mapping)
    return _checked(skeleton, index)


def _files(name: str, where: Mapping[str, Any]) -> tuple[list[str], dict[str, Any] | None] | None:
    """(files of the weights, what the index says of them if there are several); None where there is no safetensors."""
    for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME):
        try:
            found = cached_file(name, file, **where)
        except OSError:
            continue
        if found is not None and file == SAFE_WEIGHTS_NAME:
            return [found], None
        if found is not None:
            files, metadata = get_checkpoint_shard_files(name, found, **where)
            return files, metadata
    return None


def _checked(skeleton: PreTrainedModel, index: Mapping[str, Mapping[str, str]]) -> dict[str, Place] | str:
    """The places of all tensors of a model, or why one of them has none."""
    every = every_tensor(skeleton)
    places: dict[str, Place] = {}
    shapes: dict[str, dict[str, tuple[list[int], str]]] = {}
    for name, tensor in tensors(skeleton).items():
        names = [other for other, same in every.items() if same is tensor]
        entry = next((index[one] for one in names if one in index), None)
        if entry is None:
            return f"its checkpoint does not hold {name} as the model has it"
        file, key = entry["safetensors_file"], entry["weight_name"]
        if file not in shapes:
            shapes[file] = _shapes(file)
        shape, kind = shapes[file][key]
        if shape != list(tensor.shape):
            return f"{name} has another shape in its checkpoint"
        if tensor.dtype is torch.float16 and kind != "F16":  # some classes keep some parameters in fp32
            return "it is cast to float16"
        places |= {one: Place(Path(file), key, tensor.dtype) for one in names}
    return places


def _shapes(file: str) -> dict[str, tuple[list[int], str]]:
    """Name -> (shape, dtype) of the tensors in a file."""
    with safe_open(file, framework="pt") as opened:
        slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
        return {key: (one.get_shape(), one.get_dtype()) for key, one in slices.items()}
