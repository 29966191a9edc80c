"""The command `hf-dwt train`; whatever takes long to import is imported when it runs."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from ..errors import DataError, unknown_name
from ..programs import PROGRAMS
from ..programs.files import flags_of, read_file
from ..programs.options import DataArguments, ModelArguments
from ..programs.record import Program


def add_train(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    """Train a student, and measure it beside its teacher: by a program that a file of flags names, then more flags."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, help="YAML or JSON, a flag a line without its dashes, and program: NAME")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="which win over those of the file")
    parser.epilog = "\n".join(_help())

    def run(options: argparse.Namespace) -> None:
        if not options.file.is_file():
            raise DataError("file", str(options.file), "There is no such file.", "Give a YAML file of flags.")
        try:
            entries = read_file(options.file)
        except ValueError as error:
            raise DataError("file", str(options.file), f"cannot be read: {error}.", "Give lines of YAML.") from error
        program = _named(options.flags, entries.get("program"))
        from ..programs.running import run_program

        run_program(program, [*flags_of(entries), *options.flags], prog=parser.prog)

    return run


def _named(flags: list[str], of_file: object) -> Program:
    """The program that flags name, else a file."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--program", default=of_file)
    name = parser.parse_known_args(flags)[0].program
    if name is None:
        fix = f"Write a line 'program: NAME' into the file: {', '.join(PROGRAMS)}."
        raise DataError("program", None, "is missing: nothing says what is trained.", fix)
    if name not in PROGRAMS:
        raise unknown_name("program", name, PROGRAMS, error=DataError)
    return PROGRAMS[name]


def _help() -> Iterator[str]:
    """The programs and their flags. Those of training alone would take seconds to import."""
    yield "programs:"
    yield from (f"  {name:16}{part.title}; prints {part.promise}" for name, part in PROGRAMS.items())
    common = {field.name for field in fields(DataArguments)}
    yield from _flags("models", ModelArguments, {"program"})
    yield from _flags("data", DataArguments, set())
    for name, part in PROGRAMS.items():
        yield from _flags(f"of {name}", part.options, common)
    yield "\nEach field of transformers.TrainingArguments and hf_dwt.DistillationArguments is a flag too:"
    yield "`hf-dwt train FILE --help` has all flags of the file's program."


def _flags(title: str, kind: type[DataArguments | ModelArguments], without: set[str]) -> Iterator[str]:
    shown = [field for field in fields(kind) if field.name not in without]
    if shown:
        yield f"\n{title}:"
    for field in shown:
        default = "" if field.default in (None, False) else f" (default: {field.default})"
        yield f"  --{field.name:26}{field.metadata['help']}{default}"
