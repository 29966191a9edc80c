"""Flags of a program, from a command line and a file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from transformers import HfArgumentParser

from ..arguments import DistillationArguments
from ..errors import DistillationError, unknown_argument
from .files import flags_of, read_file
from .options import SIZES, ModelArguments
from .record import Program


class Flags(NamedTuple):
    """Those of models, data and training."""

    models: ModelArguments
    data: Any
    training: DistillationArguments


class Defaults(NamedTuple):
    """What a program runs where nothing is named.

    values: flag -> value where neither teacher nor student is named.
    data: flag -> value where no data are named.
    make_teacher: makes the teacher of `values` before it is run.
    make_data: makes the files of `data` before they are read.
    """

    values: Mapping[str, Any] = {}
    data: Mapping[str, Any] = {}
    make_teacher: Callable[[], None] = lambda: None
    make_data: Callable[[], None] = lambda: None


def parse(
    program: Program, argv: Sequence[str], defaults: Defaults | None = None, purpose: str = "", prog: str | None = None
) -> Flags:
    """Flags; a YAML or JSON file before them is read as flags too, so that types agree and later flags win.

    Args:
        program: whose flags they are.
        argv: a command line.
        defaults: of the program.
        purpose: for the help.
        prog: its name in usage and errors; that of the script by default.

    Raises:
        SystemExit: with code 2, after a line about what is wrong.
    """
    defaults = defaults or Defaults()
    kinds: Any = (ModelArguments, program.options, DistillationArguments)
    usage = "%(prog)s [FILE.yaml] [--flag VALUE ...]"
    parser = HfArgumentParser(kinds, prog=prog, usage=usage, description=purpose or program.title, allow_abbrev=False)
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        try:
            argv = [*flags_of(read_file(argv[0])), *argv[1:]]
        except ValueError as error:
            parser.error(str(error))
    given = {word.split("=")[0].lstrip("-").replace("-", "_") for word in argv if word.startswith("--")}
    parser.set_defaults(output_dir="student")
    if not given & {"teacher", "student"}:
        parser.set_defaults(**defaults.values)
    if not given & {"dataset_name", "train_file"}:
        parser.set_defaults(**defaults.data)
    try:
        *found, rest = parser.parse_args_into_dataclasses([*argv], return_remaining_strings=True)
    except (DistillationError, ValueError) as error:
        parser.error(str(error))
    flags = Flags(*found)
    if problem := _unknown(rest, kinds, parser.prog) or _problem(program, flags, defaults):
        parser.error(problem)
    return flags


def _unknown(rest: Sequence[str], kinds: Sequence[Any], prog: str) -> str:
    """What is wrong with words that no flag takes, with the nearest flag."""
    known = [f"--{field.name}" for kind in kinds for field in fields(kind)]
    for word in rest:
        if (flag := word.split("=")[0]).startswith("--"):
            error = unknown_argument(flag, flag, known, prog)
            return f"{flag} {error.problem} {error.fix}"
    return f"no flag takes {' '.join(rest)}" if rest else ""


def _problem(program: Program, flags: Flags, defaults: Defaults) -> str:
    """What is wrong with flags beside each other."""
    models, data = flags.models, flags.data
    if models.program not in (None, program.name):
        return f"--program {models.program}: this is the program {program.name}; `hf-dwt train` runs any"
    if not (models.teacher or models.student):
        return "say which models: --teacher to grow a student from, or a checkpoint as --student"
    if not models.student and not any(getattr(models, size) for size in SIZES):
        return "say what to train: --hidden_size or --num_hidden_layers to grow, or a checkpoint as --student"
    if not (data.dataset_name or data.train_file):
        return "say what to train on: --dataset_name or --train_file"
    files = {data.train_file, data.validation_file} - {None, *defaults.data.values()}  # those may yet have to be made
    missing = [file for file in files if not Path(file).is_file()]
    return f"no such file: {missing[0]}" if missing else ""
