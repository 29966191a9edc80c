"""What is known of a run, as it stands in `run.json` beside the weights."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypedDict

from ..errors import HubError

RUN_FILE, GROWTH_FILE = "run.json", "growth.json"


class ReferenceEntry(TypedDict):
    """A `hf_dwt.parts.Reference`: whose idea a part is; `arxiv` is None where there is no paper."""

    what: str
    title: str
    arxiv: str | None


ModelSection = TypedDict(  # "class" is no name that a class body could hold
    "ModelSection",
    {
        "class": str,
        "auto_class": str,
        "task": str,
        "outcome": str,
        "parameters": int,
        "adapter": str,
        "base_model": str,
    },
    total=False,
)
"""The model that was trained.

outcome: what it predicts at a row: "class", "choice", "label" or "number".
adapter, base_model: only of an adapter, its type and the model that it adapts.
"""


class SingleTeacher(TypedDict, total=False):
    """One teacher; `hub_id`, `revision` and `license` are None where they are not known.

    adapter, base_model: only of a teacher with an adapter, its type and the model that it adapts.
    made_of: how it learns, is corrected or reads, where it is more than a frozen model.
    """

    name: str
    hub_id: str | None
    revision: str | None
    parameters: int
    license: str | None
    adapter: str
    base_model: str | None
    made_of: str


class TeacherSection(SingleTeacher, total=False):
    """The teacher, or several of them.

    teachers: by name, where there are several: `name` has all their names then, `parameters` is their sum, and
        `license` the one that all have.
    weighting: how much each of them counts.
    """

    teachers: dict[str, SingleTeacher]
    weighting: str | None
    references: list[ReferenceEntry]


class GrowthSection(TypedDict, total=False):
    """How the model was grown; `copied` and `fresh` count its numbers that are the teacher's and the others.

    tokens: how many tokens of another vocabulary than the teacher's are `copied`, `composed` and `fresh`.
    """

    init: str
    rest: str
    seed: int
    teacher: str
    hub_id: str | None
    adapter: str
    base_model: str | None
    copied: int
    fresh: int
    tokens: dict[str, int] | None
    references: list[ReferenceEntry]


class ObjectiveSection(TypedDict, total=False):
    """The loss, under the names of its arguments; `hidden_layers` as (student's, supervisor's) of each pair."""

    hard_weight: float
    soft_weight: float
    soft_term: str
    temperature: float
    soft_loss_scaling: str
    schedule: str
    schedule_kwargs: dict[str, object] | None
    teacher_correction: str
    teacher_correction_kwargs: dict[str, object] | None
    hidden_term: str
    hidden_term_kwargs: dict[str, object] | None
    hidden_weight: float
    hidden_weight_schedule: str
    hidden_weight_schedule_kwargs: dict[str, object] | None
    hidden_layers: list[list[int | str]]
    proposals: str
    references: list[ReferenceEntry]


class TrainingSection(TypedDict, total=False):
    """What training took.

    tokens: of all processes; `padding_counted` says whether padding is among them.
    total, teacher, data, student: seconds of training; in the forward passes of the teacher, in waiting for data, and
        the rest of them.
    proposals: seconds in which models made text, over all workers of a data loader; without workers they are among
        `data`.
    """

    steps: int
    epochs: float
    examples_per_step: int
    tokens: int | None
    padding_counted: bool
    processes: int
    seed: int
    data_seed: int | None
    total: float
    teacher: float
    proposals: float
    data: float
    student: float


class StageEntry(TypedDict, total=False):
    """A stage on the way to a model, in the words of its plan.

    made: what became of the student before it was trained, "" where nothing did.
    seconds: of its training, where it is over and they are known.
    """

    name: str
    made: str
    parameters: int
    teacher: str | None
    data: str
    loss: str
    mask: float | None
    steps: int
    seconds: float


class DatasetEntry(TypedDict):
    """A data set; `id` (of the Hub) and `revision` are None where it did not come from there."""

    id: str | None
    name: str
    revision: str | None


class EnvironmentSection(TypedDict, total=False):
    """What the run stood on; `versions` by package."""

    hardware: str
    python: str
    versions: Mapping[str, str]


class AskedSection(TypedDict, total=False):
    """What the user says of the model, for its card."""

    model_id: str
    model_name: str
    language: str
    license: str
    tags: str | list[str]
    datasets: str | list[str]


@dataclass
class RunRecord:
    """What is known of a run. Everything in it is JSON; what is not known is absent, None or empty.

    Args:
        settings: arguments that differ from their defaults.
        curve: what was logged, with the step and the seconds of training till then.
        baseline: loss, perplexity and accuracy of the same model trained without the teacher.
        stages: of a model that was trained in several runs, all up to this one.
    """

    model: ModelSection = field(default_factory=ModelSection)
    teacher: TeacherSection = field(default_factory=TeacherSection)
    growth: GrowthSection = field(default_factory=GrowthSection)
    objective: ObjectiveSection = field(default_factory=ObjectiveSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    settings: dict[str, object] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    datasets: list[DatasetEntry] = field(default_factory=list)
    environment: EnvironmentSection = field(default_factory=EnvironmentSection)
    baseline: dict[str, float] = field(default_factory=dict)
    stages: list[StageEntry] = field(default_factory=list)
    asked: AskedSection = field(default_factory=AskedSection)

    @property
    def evaluations(self) -> dict[str, list[dict[str, float]]]:
        """The evaluations of each set in their order, with the same names ("eval_loss", ...) for every set.

        A set has the name it has in `eval_dataset`, or "" where that is no dict. The first is the main one: that of
        `metric_for_best_model`, else the first that was evaluated.
        """
        found: dict[str, list[dict[str, float]]] = {}
        for entry in self.curve:
            if (name := _evaluated_set(entry)) is not None:
                prefix = f"eval_{name}_" if name else "eval_"
                plain = {f"eval_{key[len(prefix) :]}" if key.startswith(prefix) else key: entry[key] for key in entry}
                found.setdefault(name, []).append(plain)
        wanted = str(self.settings.get("metric_for_best_model", "")).removeprefix("eval_")
        main = max((name for name in found if name and wanted.startswith(f"{name}_")), key=len, default=None)
        return found if main is None else {main: found.pop(main), **found}

    @property
    def main_evaluations(self) -> list[dict[str, float]]:
        """The evaluations of the main set; empty if there were none."""
        return next(iter(self.evaluations.values()), [])

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation of the main set; empty if there was none."""
        return self.main_evaluations[-1] if self.main_evaluations else {}

    @property
    def overtook(self) -> dict[str, float] | None:
        """The first evaluation at which the student's loss was below its teacher's; None if never."""
        both = {"eval_loss", "eval_teacher_loss"}
        known = [e for e in self.main_evaluations if both <= e.keys() and "eval_teacher_rows" not in e]  # same rows
        return next((entry for entry in known if entry["eval_loss"] < entry["eval_teacher_loss"]), None)

    @property
    def references(self) -> list[ReferenceEntry]:
        """Whose ideas the run is made of, each once: what its objective, its growth and its teacher name."""
        named = (section.get("references", []) for section in (self.objective, self.growth, self.teacher))
        found: list[ReferenceEntry] = []
        for reference in chain.from_iterable(named):
            if reference not in found:
                found.append(reference)
        return found

    def save(self, folder: str | Path) -> None:
        """Write `run.json`, with `overtook`."""
        content = {**dataclasses.asdict(self), "overtook": self.overtook}
        write_whole(Path(folder) / RUN_FILE, json.dumps(content, indent=1, default=str) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "RunRecord":
        """Read `run.json`.

        Raises:
            HubError: there is none, or it is not one.
        """
        try:
            content = dict(json.loads((Path(folder) / RUN_FILE).read_text(encoding="utf-8")))
            return cls(**{f.name: content[f.name] for f in dataclasses.fields(cls) if f.name in content})
        except (OSError, ValueError, TypeError) as error:
            problem = f"has no readable {RUN_FILE}, which a run leaves beside its weights ({type(error).__name__})."
            raise HubError("folder", str(folder), problem, "Give the output_dir of a run, or a checkpoint.") from error


def _evaluated_set(entry: Mapping[str, float]) -> str | None:
    """The name of the set that a logged entry evaluates; "" for the only one, None if it is no evaluation."""
    for key in entry:
        if match := re.fullmatch(r"eval_(?:(.+)_)?runtime", key):
            return match[1] or ""
    return "" if "eval_loss" in entry else None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is either the old one or the new one, and no other name of the old one changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"_{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
