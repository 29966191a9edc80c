"""What a caller gives to growth: every argument is checked before a file is read, and errors name arguments."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import (
    DistillationError,
    GrowthError,
    GrowthNotPreservedError,
    SetupError,
    raise_all,
    unknown_argument,
    unknown_name,
)
from ..kinds import SEED, Bounds, Kind, number, whole
from ..parts import Part
from .checkpoint import TeacherSource
from .config.names import SIZES
from .depth.rules import DEPTHS
from .rests import RESTS
from .strategies import INITS
from .strategy import GIVEN
from .vocabulary.new_rows import NEW_ROWS

Arguments = Mapping[str, Any]
"""What a caller gave, by name."""

_Path, _Flag = (str, os.PathLike), (bool,)
LOADING: dict[str, tuple[type, ...]] = {
    "attn_implementation": (str, Mapping),
    "cache_dir": _Path,
    "code_revision": (str,),
    "device_map": (str, int, Mapping, torch.device),
    "disable_mmap": _Flag,
    "dtype": (str, torch.dtype, Mapping),
    "experts_implementation": (str, Mapping),
    "force_download": _Flag,
    "fusion_config": (Mapping,),
    "gguf_file": (str,),
    "ignore_mismatched_sizes": _Flag,
    "key_mapping": (Mapping,),
    "local_files_only": _Flag,
    "max_memory": (Mapping,),
    "offload_buffers": _Flag,
    "offload_folder": _Path,
    "proxies": (Mapping,),
    "quantization_config": (object,),
    "revision": (str,),
    "subfolder": (str,),
    "token": (str, bool),
    "torch_dtype": (str, torch.dtype, Mapping),
    "trust_remote_code": _Flag,
    "use_safetensors": _Flag,
    "variant": (str,),
    "weights_only": _Flag,
}
"""Arguments of `from_pretrained` that say how a teacher is loaded -> types of their values; None is the default."""

NAMED: dict[str, Mapping[str, Part[..., object]]] = {
    "init": INITS,
    "rest": RESTS,
    "new_rows": NEW_ROWS,
    "depth": DEPTHS,
}
"""Arguments that are a name -> what names there are; all but the rule of depth may be a function instead."""


def _is_attributes(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


KINDS: dict[object, Kind] = {
    int | None: whole(Bounds(1), "A size is a positive integer.").or_none(),
    int: SEED,
    float: number(Bounds(), "is not a share; at 0 copies stay equal."),
    Mapping[str, Any] | None: Kind(
        _is_attributes, "is {given}, not a dict of attributes.", "Give one such as {'tie_word_embeddings': False}."
    ).or_none(),
    TeacherSource: Kind(
        lambda value: isinstance(value, str | Path | PreTrainedModel | PeftModel),
        "A teacher is a Hub id, a local path or a transformers model, with an adapter of peft or without.",
        "Pass one of these; take the model out of a parallel wrapper.",
    ),
    str | Path | PreTrainedTokenizerBase | None: Kind(
        lambda value: isinstance(value, str | Path | PreTrainedTokenizerBase),
        "is {given}, not a tokenizer of transformers.",
        "Give an id or path or the tokenizer itself: of a processor its tokenizer, and one of the library tokenizers "
        "as PreTrainedTokenizerFast(tokenizer_object=...).",
    ).or_none(),
    str | type | None: Kind(
        lambda value: isinstance(value, str) or hasattr(value, "from_pretrained"),
        "is {given}, not a class of transformers.",
        'Give a class or its name, such as "AutoModelForMaskedLM".',
    ).or_none(),
}
"""Annotation of an argument -> what it must be."""


def check_arguments(function: Callable[..., object], arguments: Arguments, loading: Arguments) -> None:
    """Raise unless every argument of `function`, and of `from_pretrained` in `loading`, is legal and known.

    Raises:
        GrowthError: naming the argument; several problems at once as `SetupError`.
    """
    known = list(inspect.signature(function).parameters)[:-1]
    problems: list[DistillationError] = []
    for name in known:
        problems += _problem(name, arguments[name], function.__annotations__[name])
    for name, value in loading.items():
        problems += _loading_problem(name, value, known)
    raise_all(problems)


def _problem(name: str, value: object, annotation: object) -> Iterator[DistillationError]:
    if name in NAMED:
        rule = name == "depth"
        known = value in NAMED[name] if isinstance(value, str) else (value is None if rule else callable(value))
        if not known:
            yield unknown_name(name, value, NAMED[name], "" if rule else "a function", GrowthError)
        elif name == "init" and callable(value) and (foreign := _foreign_parameters(value)):
            problem = f"It has the parameter {foreign[0]!r}, which growth has no value for."
            fix = f"Name its parameters as these: student, teacher, {', '.join(GIVEN)}; or give it a default."
            yield GrowthError(name, getattr(value, "__name__", type(value).__name__), problem, fix)
        return
    kind = KINDS[annotation]
    if not kind.is_right(value):
        yield kind.error(name, value, error=GrowthError)


def _foreign_parameters(function: Callable[..., object]) -> list[str]:
    """Names of parameters behind student and teacher that growth does not give and that have no default."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[2:]
    except ValueError:  # a builtin: called, it shows what it takes
        return []
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in needed if p.name not in GIVEN]


def _loading_problem(name: str, value: object, known: list[str]) -> Iterator[DistillationError]:
    if name == "config":
        problem = "The teacher's config is read from its checkpoint."
        yield GrowthError(name, type(value).__name__, problem, "Load the teacher with it and pass the model.")
    elif name not in LOADING:
        found = unknown_argument(name, value, [*known, *LOADING], "from_weak_teacher", GrowthError)
        found_fix = f"{found.fix} An attribute of the config is given as config_overrides={{{name!r}: ...}}."
        yield GrowthError(name, value, "is no argument of from_weak_teacher or from_pretrained.", found_fix)
    elif value is not None and (
        not isinstance(value, LOADING[name]) or (isinstance(value, bool) and bool not in LOADING[name])
    ):
        wanted = " or ".join(kind.__name__ for kind in LOADING[name])
        yield GrowthError(name, value, f"from_pretrained takes no {type(value).__name__} there.", f"Give a {wanted}.")
    elif "dtype" in name and isinstance(value, str) and not _names_a_dtype(value):
        yield GrowthError(name, value, "torch has no such dtype.", 'Give one such as "float32" or "bfloat16".')


def _names_a_dtype(name: str) -> bool:
    return name == "auto" or isinstance(getattr(torch, name, None), torch.dtype)


@contextmanager
def errors_about(arguments: Arguments) -> Iterator[None]:
    """In the block errors name an argument of the caller's first; the sentence names the module or value it is about.

    Args:
        arguments: the caller's, by name.
    """
    try:
        yield
    except SetupError as error:
        raise SetupError([_about(arguments, problem) for problem in error.problems]) from error
    except GrowthError as error:
        renamed = _about(arguments, error)
        if renamed is error:
            raise
        raise renamed from error


def _about(arguments: Arguments, error: DistillationError) -> DistillationError:
    """`error`, naming the argument of the caller's that causes it."""
    name, value, problem = error.argument, error.value, error.problem
    given = [key for key in ("config_overrides", *SIZES, "pad_vocab_to_multiple_of") if arguments[key]]
    overrides = arguments["config_overrides"] or {}
    if name in overrides:
        return type(error)("config_overrides", {name: overrides[name]}, problem, error.fix)
    if name == "depth" and value != arguments["depth"]:  # the value is the layer
        problem, depth = f"{value}: {problem}", [key for key in ("depth", "num_hidden_layers") if arguments[key]]
        cause = next(iter([*depth, *given]), "init")
    elif name in arguments and (name not in SIZES or name in given):
        return error
    elif name in SIZES:
        problem, cause = f"{name}={value}: {problem}", next(iter(given), "init")
    else:  # a module, or all of the config
        problem = problem if name == "config" else f"{name}: {problem}"
        cause = "init" if isinstance(error, GrowthNotPreservedError) else next(iter(given), "init")
    return type(error)(cause, arguments[cause], problem, error.fix)
