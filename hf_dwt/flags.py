"""Flags of a command, made from the signature and documentation of the function that it calls and records of parts."""

import argparse
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping

from .parts import Part, help_text


def add_flags(
    parser: argparse.ArgumentParser,
    function: Callable[..., object],
    choices: Mapping[str, Mapping[str, Part[..., object]]],
) -> list[str]:
    """Add a flag for each keyword-only parameter of `function`, with its default; sizes are a group of their own.

    Args:
        function: with Google's docstring, whose section "Args" becomes the help.
        choices: parameter -> the parts that it names; their titles are its help.

    Returns:
        the names of the parameters.
    """
    texts, sizes = documented(function), parser.add_argument_group("sizes of the student", "All others are derived.")
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for parameter in parameters:
        name = parameter.name
        text, shown = texts.get(name, "").rstrip("."), _METAVARS.get(_type(parameter.annotation))
        if name in choices:
            text, shown = f"{text.split(':')[0]}: {help_text(choices[name])}", "{" + ",".join(choices[name]) + "}"
        if parameter.default is not None:
            text += f" (default: {parameter.default})"
        group = sizes if parameter.annotation == int | None else parser
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=_type(parameter.annotation),
            default=parameter.default,
            metavar=shown,
            help=text.replace("%", "%%"),
        )
    return [parameter.name for parameter in parameters]


def documented(function: Callable[..., object]) -> dict[str, str]:
    """Parameter -> its text in the section "Args" of the docstring."""
    section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(function) or "", re.DOTALL | re.MULTILINE)
    found = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _type(annotation: object) -> Callable[[str], object]:
    """What makes a value of a flag's text: a number, a dict from JSON, or the text itself."""
    kinds = {typing.get_origin(kind) or kind for kind in (annotation, *typing.get_args(annotation))}
    for kind in (int, float):
        if kind in kinds:
            return kind
    return _json if any(isinstance(kind, type) and issubclass(kind, Mapping) for kind in kinds) else str


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error}): give such as '{{\"a\": 1}}'") from error


_METAVARS: dict[Callable[[str], object], str] = {int: "N", float: "X", str: "NAME", _json: "JSON"}
