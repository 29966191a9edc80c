"""Exchangeable parts: what a strategy, a schedule, a divergence or a cache format says of itself, once."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Reference:
    """Whose idea a part is.

    Args:
        what: the idea.
        title: of the method or paper, or that it is this project's own.
        arxiv: number of the paper; None where there is none.
    """

    what: str
    title: str
    arxiv: str | None = None


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
    """

    name: str
    title: str
    function: Callable[Arguments, Result]
    promise: str = ""
    references: tuple[Reference, ...] = ()

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return self.function(*args, **kwargs)

    @property
    def parameters(self) -> dict[str, Any]:
        """Name -> default of what a user may set: the keyword-only parameters of the function."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


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
