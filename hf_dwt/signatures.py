"""Signatures: arguments checked against one, by name and annotation; and one function's given to another."""

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from .errors import ArgumentError, DistillationError, raise_all, require_known_arguments

Class = TypeVar("Class", bound=type)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def checks_arguments(cls: Class) -> Class:
    """Let a class refuse arguments that its __init__ does not name, and values that an annotation does not allow.

    Raises:
        ArgumentError: when an instance is made; several problems at once as a `SetupError`.
    """
    original = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(original)

    @functools.wraps(original)
    def checked(self: object, *args: object, **named: object) -> None:
        require_known_arguments(named, list(signature.parameters)[1:], cls.__name__)
        hints = typing.get_type_hints(original)
        problems: list[DistillationError] = []
        for name, value in signature.bind(self, *args, **named).arguments.items():
            if name in hints and not fits(value, hints[name]):
                shown = type(value).__name__ if "token" in name else value  # no secret in a message
                problem = f"is of type {type(value).__name__}, not {_name(hints[name])}."
                problems.append(ArgumentError(name, shown, problem, f"Give {_name(hints[name])}."))
        raise_all(problems)
        original(self, *args, **named)

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def fits(value: object, hint: object) -> bool:
    """Whether a value is of an annotation: a class, a union of some, or a function."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint) or hint
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in typing.get_args(hint))
    if origin is collections.abc.Callable:
        return callable(value)
    if not isinstance(origin, type):
        return False
    return isinstance(value, origin) and (origin is bool or not isinstance(value, bool))


def _name(hint: object) -> str:
    """An annotation in words."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    origins = [typing.get_origin(part) or part for part in parts]
    names = {collections.abc.Callable: "a function", type(None): "None"}
    return " or ".join(names.get(origin, origin.__name__) for origin in origins)


def takes_arguments_of(
    other: Callable[Parameters, object],
) -> Callable[[Callable[..., Result]], Callable[Parameters, Result]]:
    """Give a function the parameters of `other`: for type checkers, editors and `help`."""

    def taking(function: Callable[..., Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def same(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            return function(*args, **kwargs)

        parameters = inspect.signature(other)
        returns = inspect.signature(function).return_annotation
        same.__signature__ = parameters.replace(return_annotation=returns)  # type: ignore[attr-defined]
        return same

    return taking
