"""Stages as a table of text."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from ..objective.hidden import get_hidden_term


@dataclass(frozen=True)
class Row:
    """A line of the table.

    student: what becomes of it before it trains, and its size where that is known.
    loss: its terms with their weights.
    """

    number: int
    stage: str
    student: str
    teacher: str
    data: str
    loss: str
    mask: float | None
    steps: int


def table(rows: Sequence[Row]) -> str:
    """Columns that are as wide as they have to be, under the names of the fields of `Row`."""
    header = ["", *[f.name for f in fields(Row)][1:]]
    lines = [["-" if value in (None, "") else str(value) for value in astuple(row)] for row in rows]
    widths = [max(len(line[n]) for line in [header, *lines]) for n in range(len(header))]
    texts = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *lines]
    ]
    return "\n".join(text.rstrip() for text in texts)


def terms(arguments: Mapping[str, Any]) -> str:
    """The terms of the loss with their weights, as arguments of a run say it: "hard 1 + soft 1 (auto)"."""
    hard, soft, hidden = (arguments[f"{name}_weight"] for name in ("hard", "soft", "hidden"))
    parts = [f"hard {hard:g}"] if hard else []
    if soft:
        schedule = arguments["soft_weight_schedule"]
        parts.append(f"soft {soft:g} ({schedule if isinstance(schedule, str) else 'own schedule'})")
    if (term := get_hidden_term(arguments["hidden_term"])) is not None and hidden != 0:
        parts.append(f"{term.name} {term.weight if hidden is None else hidden:g}")
    return " + ".join(parts)
