"""Exchangeable parts: one record for each strategy, schedule, divergence and cache format."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar

from .errors import ArgumentError
from .kinds import Bounds

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result", covariant=True)

PAPER = "2305.18239"
"""The number of the paper that this project implements."""
OWN = "hf_dwt's own"
"""The title of a reference to an idea of this project."""


@dataclass(frozen=True)
class Reference:
    """Whose idea a part is.

    Args:
        what: the idea.
        title: of the method or paper, or `OWN`.
        arxiv: number of the paper; None where there is none.
    """

    what: str
    title: str
    arxiv: str | None = None

    def __str__(self) -> str:
        """The title, as a link where there is a paper."""
        return f"[{self.title}](https://arxiv.org/abs/{self.arxiv})" if self.arxiv else self.title


def paper(what: str) -> Reference:
    """A reference to the paper that this project implements."""
    return Reference(what, "Lee et al., 2023", PAPER)


@dataclass(frozen=True)
class Part(Generic[Arguments, Result]):
    """The record of one part; calling it calls its function.

    Registry, command line, help texts, model card, documentation and tests read nothing else.

    Args:
        name: under which a user chooses it.
        title: what it is, in a few words.
        function: what it does.
        promise: what holds of its result, such as "exact" or "unbiased".
        references: whose ideas it is made of.
        bounds: range of each parameter that has one.

    Raises:
        ValueError: bounds of what is no parameter.
    """

    name: str
    title: str
    function: Callable[Arguments, Result]
    promise: str = ""
    references: tuple[Reference, ...] = ()
    bounds: Mapping[str, Bounds] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "__wrapped__", self.function)  # inspect finds the function's signature
        if foreign := self.bounds.keys() - self.parameters.keys():
            raise ValueError(f"{self.name} has no parameter {', '.join(sorted(foreign))}")

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return self.function(*args, **kwargs)

    @property
    def parameters(self) -> dict[str, Any]:
        """Name -> default of what a user may set: the keyword-only parameters of the function."""
        return keyword_defaults(self.function)


def keyword_defaults(function: Callable[..., object]) -> dict[str, Any]:
    """Name -> default of the keyword-only parameters of a function."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def require_call(
    argument: str,
    name: object,
    function: Callable[..., object],
    values: Mapping[str, object],
    parameters: Mapping[str, object],
    fix: str,
) -> None:
    """Raise an ArgumentError for a function that cannot be called with these values and parameters.

    Args:
        argument: that has the function; its parameters are those of `<argument>_kwargs`.
        name: as it was given.
        function: of a part, or the user's. A builtin without a signature is not checked.
        values: what it is called with, in their order, by what they are.
        parameters: by name.
        fix: for a function that cannot take the values.
    """
    if not isinstance(parameters, Mapping):
        problem = "are no parameters by name."
        raise ArgumentError(f"{argument}_kwargs", parameters, problem, "Give a dict.")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return
    try:
        signature.bind(*values.values(), **parameters)
    except TypeError as error:
        named = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        if parameters or any(p.default is p.empty for p in named):
            takes = f"{name!r} takes" if isinstance(name, str) else "It takes"
            how = f"{takes}: {', '.join(p.name for p in named) or 'none'}."
            raise ArgumentError(f"{argument}_kwargs", dict(parameters), f"{error}.", how) from error
        problem = f"cannot be called with {', '.join(values)}: {error}."
        raise ArgumentError(argument, name, problem, fix) from error


PartType = TypeVar("PartType", bound=Part[..., Any])


def registry(*parts: PartType) -> dict[str, PartType]:
    """Name -> part.

    Raises:
        ValueError: two parts of one name.
    """
    found = {part.name: part for part in parts}
    if len(found) < len(parts):
        raise ValueError(f"two parts have the same name: {', '.join(part.name for part in parts)}")
    return found


def help_text(parts: Mapping[str, Part[..., Any]]) -> str:
    """One clause for each part, for the help of a command line: "name (title), name (title)"."""
    return ", ".join(f"{name} ({part.title})" for name, part in parts.items())
