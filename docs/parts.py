"""Write the tables of exchangeable parts into the pages, from the records of the parts: `python docs/parts.py`.

A table stands between two markers of its name, on whichever page: <!-- schedules --> ... <!-- /schedules -->.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hf_dwt import DistillationArguments, from_weak_teacher
from hf_dwt.data.criteria import CRITERIA
from hf_dwt.growth import NEW_ROWS
from hf_dwt.growth.depth.rules import DEPTHS, order
from hf_dwt.growth.strategies import INITS
from hf_dwt.objective import SOFT_TERMS
from hf_dwt.objective.corrections import CORRECTIONS
from hf_dwt.objective.hidden import HIDDEN_TERMS
from hf_dwt.objective.hidden.record import HiddenTerm
from hf_dwt.objective.scaling import SCALINGS
from hf_dwt.parts import Part
from hf_dwt.programs import PROGRAMS
from hf_dwt.programs.record import Program
from hf_dwt.schedules import choices
from hf_dwt.teachers.cache.formats import AUTO, FORMATS, CacheFormat, choose_format
from hf_dwt.teachers.placement import PLACEMENTS, Placement
from hf_dwt.teachers.several import WEIGHTINGS, SeveralTeachers
from hf_dwt.teachers.several.rewards import REWARDS
from hf_dwt.tuning import SCORES, SUPPORTS, DualSparse

PAGES = Path(__file__).resolve().parent
Column = Callable[[Part[..., Any]], str]


def parameters(part: Part[..., Any]) -> str:
    """Each with its default and its bounds."""
    found = []
    for name, default in part.parameters.items():
        bounds = f" ({part.bounds[name]})" if name in part.bounds else ""
        found.append(f"`{name}={default}`{bounds}")
    return ", ".join(found)


def references(part: Part[..., Any]) -> str:
    """Whose ideas it is made of."""
    return ", ".join(dict.fromkeys(str(one) for one in part.references))


@dataclass(frozen=True)
class Table:
    """The table of a registry.

    parts: name -> record, as the registry is now.
    default: the name that is taken where none is given.
    columns: header -> what stands there.
    """

    parts: Callable[[], Mapping[str, Part[..., Any]]]
    default: str
    columns: Mapping[str, Column]

    def __str__(self) -> str:
        header = ["name", *self.columns]
        lines = [header, ["---"] * len(header)]
        for name, part in self.parts().items():
            shown = f'`"{name}"`' + (" (default)" if name == self.default else "")
            cells = [column(part).replace("|", r"\|") for column in self.columns.values()]
            lines.append([shown, *cells])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def title(part: Part[..., Any]) -> str:
    """What it is."""
    return part.title


def promise(part: Part[..., Any]) -> str:
    """What holds of its result."""
    return part.promise


def formats() -> dict[str, Part[..., Any]]:
    """What `teacher_cache_form` may be."""
    found = {name: part for name, part in FORMATS.items() if part.vocabulary}
    smallest = ", ".join(f'`"{name}"`' for name, part in found.items() if part.unbiased)
    return {**found, AUTO: Part(AUTO, f"the smallest of {smallest}", choose_format)}


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(DistillationArguments)}
DEFAULTS |= {"weighting": inspect.signature(SeveralTeachers).parameters["weighting"].default}
DEFAULTS |= {name: given.default for name, given in inspect.signature(from_weak_teacher).parameters.items()}
DEFAULTS |= {"support": inspect.signature(DualSparse).parameters["support"].default}
DEFAULTS |= {"by": inspect.signature(DualSparse.prune).parameters["by"].default}
TABLES = {
    "schedules": Table(
        choices,
        DEFAULTS["soft_weight_schedule"],
        {
            "what it is": title,
            "hard_weight x and soft_weight x": promise,
            "parameters": parameters,
            "from": references,
        },
    ),
    "divergences": Table(
        lambda: SOFT_TERMS,
        DEFAULTS["soft_term"],
        {"what it is": title, "what holds": promise, "from": references},
    ),
    "corrections": Table(
        lambda: CORRECTIONS,
        "",
        {"what it is": title, "what holds": promise, "parameters": parameters, "from": references},
    ),
    "hidden terms": Table(
        lambda: HIDDEN_TERMS,
        "",
        {
            "what it is": title,
            "of a row": promise,
            "weight": lambda part: f"{part.weight:g}" if isinstance(part, HiddenTerm) else "",
            "parameters": parameters,
            "from": references,
        },
    ),
    "weightings": Table(
        lambda: WEIGHTINGS,
        DEFAULTS["weighting"],
        {"weight of a teacher": title, "what holds": promise, "from": references},
    ),
    "criteria": Table(
        lambda: CRITERIA,
        "salt",
        {"score of an example": title, "chooses": promise, "parameters": parameters, "from": references},
    ),
    "rewards": Table(
        lambda: REWARDS,
        "student",
        {"reward of a choice": title, "what holds": promise, "from": references},
    ),
    "scalings": Table(
        lambda: SCALINGS,
        DEFAULTS["soft_loss_scaling"],
        {"what it is": title, "soft term x": promise, "from": references},
    ),
    "programs": Table(
        lambda: PROGRAMS,
        "",
        {
            "trains a": title,
            "models": lambda part: f"`{part.auto_class}`" if isinstance(part, Program) else "",
            "its last lines": promise,
        },
    ),
    "cache formats": Table(
        formats,
        DEFAULTS["teacher_cache_form"],
        {
            "keeps of a row": title,
            "bytes a row": lambda part: part.size if isinstance(part, CacheFormat) else "",
            "soft term": promise,
            "from": references,
        },
    ),
    "placements": Table(
        lambda: PLACEMENTS,
        "",
        {
            "where the teacher is": title,
            "memory of a device": lambda part: part.memory if isinstance(part, Placement) else "",
            "moved for each batch": lambda part: part.traffic if isinstance(part, Placement) else "",
            "steps": promise,
        },
    ),
    "strategies": Table(
        lambda: INITS, DEFAULTS["init"], {"what it does": title, "outputs": promise, "from": references}
    ),
    "depth rules": Table(
        lambda: DEPTHS,
        "",
        {
            "what it does": title,
            "three layers become five": lambda part: " ".join(map(str, order(part.name, 3, 5))),
            "outputs": promise,
            "from": references,
        },
    ),
    "supports": Table(
        lambda: SUPPORTS,
        DEFAULTS["support"],
        {"the entries are": title, "what holds": promise, "parameters": parameters, "from": references},
    ),
    "scores": Table(
        lambda: SCORES,
        DEFAULTS["by"],
        {"a unit stays by": title, "what holds": promise, "from": references},
    ),
    "new rows": Table(
        lambda: NEW_ROWS,
        DEFAULTS["new_rows"],
        {"what a new row holds": title, "new tokens": promise, "from": references},
    ),
}


def written(text: str) -> str:
    """A page with its tables as the records are now."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        new = f"{begin}\n\n{table}\n\n{end}"
        text = re.sub(f"{begin}.*?{end}", new.replace("\\", r"\\"), text, flags=re.DOTALL)
    return text


def main() -> None:
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := written(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(page.name)


if __name__ == "__main__":
    main()
