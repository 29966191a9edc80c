"""Stages as a YAML file: the arguments of `run_stages`, under their names."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ..arguments import DistillationArguments
from ..errors import (
    ArgumentError,
    arguments_as,
    first_line,
    of_each,
    raise_all,
    unknown_argument,
)
from .api import StagePlan, plan_stages
from .builders import ernie_tiny, generations, progressive
from .heads import BodyOf
from .stage import PREVIOUS, Stage
from .texts import load_text

BUILDERS: dict[str, Callable[..., list[Stage]]] = {one.__name__: one for one in (progressive, generations, ernie_tiny)}
"""Name in place of a list of stages -> the function that builds it."""
_DATA = ("general", "task", "eval_general", "eval_task")
_KEYS = ("stages", "student", "teacher", "args", "train_dataset", "eval_dataset", "processing_class")


def plan_file(file: Path) -> StagePlan:
    """The plan of a file; data sets are loaded and tokenised, and no weight is read.

    Its keys are arguments of `run_stages`, and each of `stages` has arguments of `Stage`. A data set is a text file or
    arguments of `datasets.load_dataset` (see `hf_dwt.stages.texts`), `processing_class` the id or path of a tokenizer
    (default: the student's, else the teacher's), a teacher an id or path, or `{body: ..., head: ...}`.

    Raises:
        DistillationError: as `plan_stages`, with the file and the key in front of the argument.
    """
    entries = _entries(file)
    with arguments_as(lambda argument: f"{file}: {argument}"):
        foreign = {key: value for key, value in entries.items() if key not in _KEYS}
        raise_all([unknown_argument(str(key), value, _KEYS, "a file of stages") for key, value in foreign.items()])
        reader = _Reader(entries)
        return plan_stages(
            reader.stages(),
            entries.get("student"),
            teacher=_teacher(entries.get("teacher")),
            args=reader.arguments(),
            train_dataset=reader.data(entries.get("train_dataset"), "train_dataset"),
            eval_dataset=reader.data(entries.get("eval_dataset"), "eval_dataset"),
            processing_class=reader.tokenizer,
        )


def _entries(file: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = f"cannot be read: {' '.join(str(error).split())}"
        raise ArgumentError("file", str(file), problem, "Give a YAML file.") from error
    if not isinstance(entries, dict):
        raise ArgumentError("file", str(file), "holds no lines of 'key: value'.", f"Its keys are {', '.join(_KEYS)}.")
    return entries


class _Reader:
    """Values of a file as arguments of `plan_stages`.

    Args:
        entries: of the file.
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = entries
        named = [entries.get(key) for key in ("processing_class", "student", "teacher")]
        source = next((one for one in named if isinstance(one, str)), None)
        if source is None:
            fix = "Give the id or path of a tokenizer."
            raise ArgumentError("processing_class", named[0], "is missing: no model names a tokenizer.", fix)
        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
            models = [one for one in named[1:] if isinstance(one, str)]
            config: Any = AutoConfig.from_pretrained(models[0]) if models else None
        except (OSError, ValueError) as error:
            problem = f"cannot be loaded: {first_line(error)}"
            raise ArgumentError("processing_class", source, problem, "Check the id or path.") from error
        self._positions = getattr(config, "max_position_embeddings", None)

    def arguments(self) -> DistillationArguments:
        """`args`, in which `output_dir` has to stand."""
        given = self._entries.get("args")
        if not isinstance(given, Mapping) or not given.get("output_dir"):
            problem, fix = "is missing: the stages have no folder.", "Give args with output_dir."
            raise ArgumentError("args.output_dir", None, problem, fix)
        with arguments_as("args.{}".format):
            return DistillationArguments(**given)

    def data(self, given: object, key: str) -> Any:
        """A data set, or None; a dict of dicts without `path` is several to evaluate on."""
        if given is None:
            return None
        if isinstance(given, Mapping) and given and all(isinstance(one, Mapping) for one in given.values()):
            return {name: self.data(one, f"{key}.{name}") for name, one in given.items()}
        with arguments_as(lambda argument: f"{key}.{argument}"):
            return load_text(given, self.tokenizer, self._positions)

    def stages(self) -> list[Stage]:
        """All stages; what is wrong with any of them is raised together."""
        given = self._entries.get("stages")
        if isinstance(given, Mapping) and len(given) == 1 and next(iter(given)) in BUILDERS:
            return self._built(*next(iter(given.items())))
        if not isinstance(given, list) or not given:
            raise ArgumentError("stages", given, "is no list of stages.", "Give at least one: '- steps: 100'.")
        return of_each("stages", given, lambda _, one: self._stage(one))

    def _built(self, name: str, given: object) -> list[Stage]:
        """The stages of a builder, such as `progressive: {sizes: ..., masks: ..., steps: ...}`."""
        if not isinstance(given, Mapping):
            raise ArgumentError(f"stages.{name}", given, "is no dict of arguments.", "Give those of the function.")
        data = {key: self.data(value, f"stages.{name}.{key}") for key, value in given.items() if key in _DATA}
        function = BUILDERS[name]
        try:
            inspect.signature(function).bind(**given)
        except TypeError as error:
            known = ", ".join(inspect.signature(function).parameters)
            raise ArgumentError(f"stages.{name}", given, f"has {error}.", f"It takes {known}.") from error
        with arguments_as(f"stages.{name}.{{}}".format):
            return function(**{**given, **data})

    def _stage(self, given: object) -> Stage:
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise ArgumentError("stage", given, "is no dict of arguments.", "Give lines such as 'steps: 100'.")
        read = {key: self.data(value, key) for key, value in given.items() if key.endswith("dataset")}
        return Stage(**{**given, **read, **({"teacher": _teacher(given["teacher"])} if "teacher" in given else {})})


def _teacher(given: Any) -> Any:
    """An id, a path, "previous" or None as they are; a `BodyOf` of a dict."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping) and given.keys() == {"body", "head"}:
        return BodyOf(**given)
    fix = f"Give an id, a path, {PREVIOUS!r}, or a dict with body and head."
    raise ArgumentError("teacher", given, "is no teacher of a file.", fix)
