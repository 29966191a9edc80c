"""A student is written to its folder, whatever its size: a parameter at a time is in memory."""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME

from ...errors import GrowthError
from ..applying import Work, carry_out
from ..building import own_randomness, parameters_on_meta
from ..checkpoint import Teacher
from ..paging import NotByPartsError, put_on_disk, weights
from ..report import REPORT_FILE, GrowthReport
from ..student import own_initialisation
from ..vocabulary.new_rows import with_rows_of
from .places import ROWS_FILE, left_on_disk
from .recording import recorded
from .shards import PART, PROGRESS_FILE, Progress, Shards, bytes_of_size, tensor_bytes, write_whole

SAMPLE = 16
"""Elements at either end of each of the teacher's parameters, by which it is known again."""


def write_student(
    work: Work, config: PreTrainedConfig, plan: str, folder: Path, max_shard_size: int | str
) -> GrowthReport:
    """Write the student of a plan to `folder`, or what is missing there of it.

    Args:
        config: the student's.
        plan: as it is printed.
        folder: made if there is none.
        max_shard_size: of a file.

    Raises:
        GrowthError: as `carry_out`; a growth that is not possible part by part, or a folder of something else.
    """
    found, origin = _required(work, folder, max_shard_size), left_on_disk(work.origin, folder)
    source = origin if work.transplant is None else work.transplant(origin)
    described = [plan, "" if work.transplant is None else work.transplant.rows.digest]
    described += [config.to_json_string(), str(max_shard_size), torch.__version__, transformers.__version__]
    with own_randomness(work.seed):  # what a checkpoint lacks is drawn when it is read
        fingerprint = _fingerprint(described, origin if work.strategy.reads_teacher else None)
    progress = found or Progress(fingerprint)
    if progress.fingerprint != fingerprint:
        problem = "It holds a part of a student of another teacher or another plan."
        raise GrowthError("to", str(folder), problem, _OTHER)
    folder.mkdir(parents=True, exist_ok=True)
    shards = Shards(folder, progress, max_shard_size)
    progress.save(folder)
    teacher, _ = with_rows_of(source, config, work.new_rows, work.seed)

    def initialised(skip: bool = False) -> PreTrainedModel:
        return own_initialisation(source, config, work.seed, skip, functools.partial(_on_disk, shards, skip))

    arguments = {**work.arguments, "to": str(folder)}
    try:
        student, report = carry_out(
            replace(work, origin=origin, source=source, teacher=teacher, arguments=arguments), initialised
        )
    except GrowthError:  # a student that nobody is given
        _remove(folder, *progress.files)
        raise
    _write_rest(student, report, folder, shards.index)
    return report


def _on_disk(shards: Shards, skip: bool, make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """The student that `make` builds, with its parameters on the meta device, to be written to `shards`."""
    if skip:
        with parameters_on_meta():
            student = make()
        shards.begin(lambda parameter: torch.empty(parameter.shape, dtype=parameter.dtype))
    else:
        student, recording = recorded(make)
        shards.begin(recording.read)
    put_on_disk(student, shards)
    return student


def _required(work: Work, folder: Path, max_shard_size: int | str) -> Progress | None:
    """How far a growth came in `folder`.

    Raises:
        GrowthError: nothing can be written there, or not in files of that size.
        NotByPartsError: the student cannot be written part by part; the rest of it is right.
    """
    bytes_of_size(max_shard_size)
    if folder.exists() and not folder.is_dir():
        raise GrowthError("to", str(folder), "It is a file.", "Give a folder.")
    teacher = work.origin.checkpoint
    if teacher is not None and folder.exists() and Path(teacher[0]).exists() and folder.samefile(teacher[0]):
        raise GrowthError("to", str(folder), "The student would overwrite its teacher.", "Give another folder.")
    found = _found(folder)
    if not work.strategy.by_parts:
        does = f"What init={work.strategy.name!r} does to the student is a function of its own"
        raise NotByPartsError(str(folder), does)
    if callable(work.arguments["rest"]):
        does = f"rest={work.rest!r} is a function of your own, which may draw what it likes"
        raise NotByPartsError(str(folder), does)
    if type(work.source.skeleton).is_custom_code():
        raise NotByPartsError(str(folder), f"{type(work.source.skeleton).__name__} is code of its own")
    return found


def _found(folder: Path) -> Progress | None:
    """How far a growth came in `folder`; None where there was none.

    Raises:
        GrowthError: a model is there, or what cannot be read.
    """
    try:
        return Progress(**json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        there = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob(CONFIG_NAME)]
        if there:
            raise GrowthError("to", str(folder), f"It holds a model already ({there[0].name}).", _OTHER) from None
        return None
    except (ValueError, TypeError) as error:
        raise GrowthError("to", str(folder), f"Its {PROGRESS_FILE} cannot be read.", _OTHER) from error


_OTHER = "Give another folder, or remove what is there."


def _fingerprint(described: list[str], teacher: Teacher | None) -> str:
    """A plan and some numbers of each of the teacher's tensors, as a digest."""
    digest = hashlib.sha256("\n".join(described).encode())
    for name, tensor in () if teacher is None else weights(teacher.model).items():
        flat = tensor.detach().flatten()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor_bytes(torch.cat([flat[:SAMPLE], flat[-SAMPLE:]])))
    return digest.hexdigest()


def _write_rest(student: PreTrainedModel, report: GrowthReport, folder: Path, index: str | None) -> None:
    """Write what stands beside the weights, as `save_pretrained` does, and remove what was needed until now."""
    config = student.config
    config.dtype = str(student.dtype).removeprefix("torch.")
    config.architectures = [type(student).__name__]
    write_whole(folder / REPORT_FILE, json.dumps(report.to_dict(), indent=1) + "\n")
    if student.can_generate():
        student.generation_config.save_pretrained(folder)
    config.save_pretrained(folder)
    if index is not None:
        write_whole(folder / SAFE_WEIGHTS_INDEX_NAME, index)
    _remove(folder)


def _remove(folder: Path, *files: str) -> None:
    """Remove what a growth needs until its end, and `files`, which it wrote."""
    parts = [*folder.glob(f"model*{PART}"), *folder.glob(ROWS_FILE.format("*")), *folder.glob(f"{PROGRESS_FILE}*")]
    for file in (*parts, *(folder / name for name in files)):
        file.unlink(missing_ok=True)
