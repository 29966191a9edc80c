"""What growth cannot find out about an architecture, declared by whoever knows it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from ..errors import DistillationError, GrowthError, raise_all, unknown_name
from .config.declared_layouts import LAYOUTS
from .config.names import PROPORTIONAL, SIZES, SIZES_OF_TYPE, TINY_OF_TYPE

Blocks = Sequence[str | int]
Part = TypeVar("Part", str, str | int)
Value = TypeVar("Value")


def declare(
    model_type: str,
    *,
    layouts: Mapping[str, Blocks] | None = None,
    proportional: Sequence[str] | None = None,
    sizes: Mapping[str, str | Sequence[str]] | None = None,
    tiny: Mapping[str, object] | None = None,
    exist_ok: bool = False,
) -> None:
    """Declare of a model type what growth cannot find out by itself. Everything is still proven before it is believed.

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
    blocks = {pattern: _names(layout) for pattern, layout in (layouts or {}).items()}
    attributes = {role: _names(held) for role, held in (sizes or {}).items()}
    grows, smallest = _names(proportional or ()), dict(tiny or {})
    problems: list[DistillationError] = []
    if not isinstance(model_type, str) or not model_type:
        problems.append(GrowthError("model_type", model_type, "It is no name.", "Give the config's model_type."))
    if not (blocks or attributes or grows or smallest):
        fix = "Give one of layouts, proportional, sizes, tiny."
        problems.append(GrowthError("model_type", model_type, "Nothing is declared of it.", fix))
    for pattern, layout in blocks.items():
        problems += _layout_problems(pattern, layout)
    problems += [unknown_name("sizes", role, SIZES, error=GrowthError) for role in attributes if role not in SIZES]
    problems += _attribute_problems("proportional", grows)
    problems += _attribute_problems("sizes", [name for held in attributes.values() for name in held])
    problems += _attribute_problems("tiny", smallest)
    if not exist_ok:
        problems += _conflict("layouts", LAYOUTS, model_type, blocks)
        problems += _conflict("proportional", PROPORTIONAL, model_type, grows)
        problems += _conflict("sizes", SIZES_OF_TYPE, model_type, attributes)
        problems += _conflict("tiny", TINY_OF_TYPE, model_type, smallest)
    raise_all(problems)
    _enter(LAYOUTS, model_type, blocks)
    _enter(PROPORTIONAL, model_type, grows)
    _enter(SIZES_OF_TYPE, model_type, attributes)
    _enter(TINY_OF_TYPE, model_type, smallest)


def _names(value: Part | Sequence[Part]) -> tuple[Part, ...]:
    """A sequence as a tuple; a single name or number as a tuple of it."""
    return (value,) if isinstance(value, str | int) else tuple(value)


def _conflict(
    argument: str, declared: Mapping[str, Value], model_type: str, value: Value
) -> Iterator[DistillationError]:
    """The error for what is declared already, and otherwise."""
    if value and declared.get(model_type, value) != value:
        problem = f"It is declared already of {model_type!r}: {declared[model_type]}."
        yield GrowthError(argument, value, problem, "Pass exist_ok=True to replace it.")


def _enter(declared: dict[str, Value], model_type: str, value: Value) -> None:
    if value:
        declared[model_type] = value


_PART = re.compile(r"[^\W\d][\w()+*/^@]*|\d+(\*[^\W\d][\w()+*/^@]*)+")


def _layout_problems(pattern: str, layout: Blocks) -> list[DistillationError]:
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


def _attribute_problems(argument: str, names: Iterable[object]) -> list[DistillationError]:
    """One error for each name that no attribute can have."""
    return [
        GrowthError(argument, name, "It is no name of an attribute.", "Give names as the config class has them.")
        for name in names
        if not (isinstance(name, str) and name.isidentifier())
    ]
