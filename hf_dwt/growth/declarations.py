"""What growth cannot find out about an architecture, declared by whoever knows it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DistillationError, GrowthError, raise_all, unknown_name
from .config.declared_layouts import LAYOUTS
from .config.names import PROPORTIONAL, SIZES, SIZES_OF_TYPE, TINY_OF_TYPE

Blocks = Sequence[str | int]


def declare(
    model_type: str,
    *,
    layouts: Mapping[str, Blocks] | None = None,
    proportional: Sequence[str] | None = None,
    sizes: Mapping[str, str | Sequence[str]] | None = None,
    tiny: Mapping[str, Any] | None = None,
    exist_ok: bool = False,
) -> None:
    """Say of a model type what growth cannot find out by itself. Everything is still proven before it is believed.

    Args:
        model_type: as in the config; of a custom architecture too.
        layouts: pattern of a parameter's name (as of `re.search`) -> what its growing axis is made of: names of sizes
            in order, or (n,) for n equal blocks. "query" is heads x their width, "key" key/value heads x their width,
            "head" the width of one, "ffn" the FFN's, "hidden" the residual stream's; any attribute of the config;
            products such as "2*state_size". ("query", "key", "key") is a fused projection with grouped keys.
            "query/groups" is as many equal segments as the teacher has groups, "hidden^streams" so many whole ones;
            "heads@head" are heads that differ by their place, as under ALiBi, each "head" wide.
        proportional: attributes of the config that grow with the hidden size.
        sizes: a size of `from_weak_teacher`, such as "hidden_size" -> the attribute or attributes that hold it, where
            the config class does not say so itself (`attribute_map`).
        tiny: attribute -> its value in the tiny model on which layouts are tried, where no general rule gives one with
            which the class can be built: small, and different from the other sizes.
        exist_ok: whether this may replace what is declared of the type.

    Raises:
        GrowthError: naming what is no model type, pattern, layout, size or attribute, or is declared already; several
            problems at once as `SetupError`.
    """
    given: dict[str, tuple[dict[str, Any], Any]] = {
        "layouts": (LAYOUTS, layouts and {key: _tuple(value) for key, value in layouts.items()}),
        "proportional": (PROPORTIONAL, proportional and _tuple(proportional)),
        "sizes": (SIZES_OF_TYPE, sizes and {key: _tuple(value) for key, value in sizes.items()}),
        "tiny": (TINY_OF_TYPE, tiny and dict(tiny)),
    }
    problems: list[DistillationError] = []
    if not isinstance(model_type, str) or not model_type:
        problems.append(GrowthError("model_type", model_type, "It is no name.", "Give the config's model_type."))
    if not any(value for _, value in given.values()):
        problem = "Nothing is declared of it."
        problems.append(GrowthError("model_type", model_type, problem, f"Give one of {', '.join(given)}."))
    for pattern, layout in (given["layouts"][1] or {}).items():
        problems += _layout_problems(pattern, layout)
    for role in given["sizes"][1] or {}:
        if role not in SIZES:
            problems.append(unknown_name("sizes", role, SIZES, error=GrowthError))
    for name in ("proportional", "sizes", "tiny"):
        problems += _attribute_problems(name, given[name][1])
    for name, (table, value) in given.items():
        if value and not exist_ok and table.get(model_type, value) != value:
            problem = f"It is declared already of {model_type!r}: {table[model_type]}."
            problems.append(GrowthError(name, value, problem, "Pass exist_ok=True to replace it."))
    raise_all(problems)
    for table, value in given.values():
        if value:
            table[model_type] = value


def _tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else tuple(value)


_PART = re.compile(r"[^\W\d][\w()+*/^@]*|\d+(\*[^\W\d][\w()+*/^@]*)+")


def _layout_problems(pattern: str, layout: tuple[Any, ...]) -> list[DistillationError]:
    """One error for a pattern that is none, one for a layout that cannot be read."""
    problems: list[DistillationError] = []
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        problems.append(GrowthError("layouts", pattern, f"It is no pattern ({error}).", "Escape its special signs."))
    equal = len(layout) == 1 and type(layout[0]) is int and layout[0] > 0
    if not equal and not (layout and all(isinstance(part, str) and _PART.fullmatch(part) for part in layout)):
        fix = "Give names of sizes such as ('query', 'key', 'key') or '2*state_size', or (n,) for n equal blocks."
        problems.append(GrowthError("layouts", {pattern: layout}, "It is no layout.", fix))
    return problems


def _attribute_problems(argument: str, value: Any) -> list[DistillationError]:
    """One error for each name that no attribute can have."""
    if isinstance(value, Mapping):
        names = [name for held in value.values() for name in held] if argument == "sizes" else list(value)
    else:
        names = list(value or ())
    return [
        GrowthError(argument, name, "It is no name of an attribute.", "Give names as the config class has them.")
        for name in names
        if not (isinstance(name, str) and name.isidentifier())
    ]
