"""Where every parameter of a grown student comes from."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..parts import Reference

REPORT_FILE = "growth.json"
"""The report beside the student's weights."""


@dataclass(frozen=True)
class Source:
    """Origin of one parameter.

    Args:
        name: the teacher's parameter it was copied from, None if it was not.
        copied: number of elements that hold a teacher's value.
        fresh: number of elements that hold none.
    """

    name: str | None
    copied: int
    fresh: int


@dataclass(frozen=True)
class TokenCounts:
    """How the rows of a new vocabulary were made from the old one's.

    Args:
        copied: tokens that are the same text in both, and special tokens of the same role.
        composed: tokens that start as the mean of the old pieces of their text.
        fresh: tokens that nothing of the old vocabulary stands for.
        padding: rows without a token.
    """

    copied: int
    composed: int
    fresh: int
    padding: int = 0

    def __str__(self) -> str:
        more = f"; {self.padding:,} rows are padding" if self.padding else ""
        return f"{self.copied:,} tokens copied, {self.composed:,} composed of old pieces, {self.fresh:,} fresh{more}"


@dataclass(frozen=True)
class Outcome:
    """What an initialisation did.

    Args:
        parameters: name of a student's parameter -> its source.
        preserved: whether the student computes what the teacher does; None where that was not measured.
        difference: largest difference of outputs, relative to the largest or 1; None where that was not measured.
        notes: what else the reader should know, such as gains that were folded into parameters.
        unproven: parameters that grew and that no compared batch reaches, such as a vision tower compared on text.
        init: name of the strategy that was chosen, where that is not the one that was called.
    """

    parameters: Mapping[str, Source]
    preserved: bool | None = None
    difference: float | None = None
    notes: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()
    init: str = ""


@dataclass(frozen=True)
class GrowthReport:
    """How a student was grown; `print(student.growth_report)` shows it, `to_dict` feeds JSON.

    Args:
        teacher: id, path or class name of the teacher.
        init: name of the initialisation.
        rest: name of the rule for elements without a teacher's value.
        seed: of the student's own initialisation.
        sizes: config attribute -> (teacher's value, student's value), for every number that changed.
        parameters: name of a student's parameter -> its source; tied parameters appear once.
        untrained: the teacher's parameters that its checkpoint did not contain: copies of them hold random numbers.
        preserved: whether the student computes what the teacher does; None where that was not measured.
        difference: largest difference of outputs, relative to the largest or 1; None where that was not measured.
        notes: what else the reader should know, such as gains that were folded into parameters.
        unproven: parameters that grew and that no compared batch reaches, such as a vision tower compared on text.
        references: whose ideas the initialisation is made of.
        tokens: how the rows of another tokenizer's vocabulary were made; None where the vocabulary is the teacher's.
        adapter: the kind of adapter that was merged into the teacher, as peft names it; "" of a teacher without one.
        base_model: id or path of the model that it adapts.
        tiled: whether the student's channel j of the residual stream holds the teacher's channel j mod d, for d of
            them; else the teacher's come first.
    """

    teacher: str
    init: str
    rest: str
    seed: int
    sizes: Mapping[str, tuple[int | None, int | None]]
    parameters: Mapping[str, Source]
    untrained: tuple[str, ...] = ()
    preserved: bool | None = None
    difference: float | None = None
    notes: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    tokens: TokenCounts | None = None
    adapter: str = ""
    base_model: str = ""
    tiled: bool = False

    @property
    def copied(self) -> int:
        """Number of elements that hold a teacher's value."""
        return sum(source.copied for source in self.parameters.values())

    @property
    def fresh(self) -> int:
        """Number of elements that hold none."""
        return sum(source.fresh for source in self.parameters.values())

    def to_dict(self) -> dict[str, Any]:
        """All fields as lists, dicts, strings and numbers, with the totals `copied` and `fresh`."""
        fields = asdict(self)
        fields["sizes"] = {name: list(pair) for name, pair in self.sizes.items()}
        fields |= {key: list(fields[key]) for key in ("untrained", "notes", "unproven", "references")}
        return {**fields, "copied": self.copied, "fresh": self.fresh}

    def __str__(self) -> str:
        adapted = f" ({adapter_words(self.adapter, self.base_model)})" if self.adapter else ""
        head = f"grown from {self.teacher}{adapted}, init={self.init}, rest={self.rest}, seed={self.seed}"
        if self.difference is not None:
            verdict = "computes what its teacher does" if self.preserved else "does not compute what its teacher does"
            head += f"\n{verdict}: outputs differ by {self.difference:.2g} of the largest"
        head += "".join(f"\n  {note}" for note in self.notes)
        if self.tokens is not None:
            head += f"\nnew vocabulary: {self.tokens}"
        if self.unproven:
            paths = dict.fromkeys(name.split(".*")[0] for name in map(_folded, self.unproven))
            head += f"\nunproven, since no compared batch reaches them: {', '.join(paths)}"
        layers = layer_lines({name: source.name for name, source in self.parameters.items()})
        rows = [f"  {name:<{self._width()}} {copied:>12,} {fresh:>12,}" for name, (copied, fresh) in self._groups()]
        title = f"  {'parameter':<{self._width()}} {'copied':>12} {'fresh':>12}"
        total = f"  {'total':<{self._width()}} {self.copied:>12,} {self.fresh:>12,}"
        parts = [head, *size_lines(self.sizes), *layers, title, *rows, total]
        parts += (
            ["not in the teacher's checkpoint", *(f"  {name}" for name in self.untrained)] if self.untrained else []
        )
        return "\n".join(parts)

    def _groups(self) -> list[tuple[str, tuple[int, int]]]:
        """Counts with the indices of layers folded into `*`, so that the table has one line per kind."""
        groups: dict[str, tuple[int, int]] = {}
        for name, source in self.parameters.items():
            key = _folded(name)
            copied, fresh = groups.get(key, (0, 0))
            groups[key] = (copied + source.copied, fresh + source.fresh)
        return list(groups.items())

    def _width(self) -> int:
        return max([len(name) for name, _ in self._groups()] + [len("parameter")])


def _folded(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", name)


def adapter_words(adapter: str, base_model: str) -> str:
    """What a teacher is whose adapter is merged, for a plan and a report."""
    return f"{adapter} adapter of {base_model}, merged"


def size_lines(sizes: Mapping[str, tuple[int | None, int | None]]) -> list[str]:
    """A title and a line for each attribute of the config that changes: "name: teacher's -> student's"."""
    lines = [f"  {name}: {old} -> {new}" for name, (old, new) in sizes.items()]
    return ["sizes", *lines] if lines else ["sizes: the teacher's"]


def layer_lines(sources: Mapping[str, str | None]) -> list[str]:
    """A title and for each list of layers a line "path: student<-teacher ..." with every layer that has a source.

    Args:
        sources: name of a student's parameter -> the teacher's that it is made from, or None.
    """
    layers: dict[str, dict[str, str]] = {}
    for name, source in sources.items():
        # Student and teacher paths differ in indices only, so the first index of each belongs together.
        ours = re.match(r"(.*?)\.(\d+)\.", name)
        theirs = re.match(r"(.*?)\.(\d+)\.", source or "")
        if ours and theirs:
            layers.setdefault(ours[1], {})[ours[2]] = f"{ours[2]}<-{theirs[2]}"
    lines = [f"  {path}: {' '.join(rows.values())}" for path, rows in layers.items()]
    return ["layers (student<-teacher)", *lines] if lines else []
