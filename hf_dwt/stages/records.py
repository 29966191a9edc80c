"""`stage.json` in the folder of a stage: what the stage is, and whether it is finished."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..arguments import DistillationArguments
from ..errors import ArgumentError, DistillationError
from ..publish.describe import non_default_settings
from ..publish.run_record import write_whole
from ..training.resume import WITHOUT_EFFECT
from .stage import Stage, data_words, named

STAGE_FILE = "stage.json"
_FORMAT = 1


def describe(
    stage: Stage, args: DistillationArguments, source: object, teacher: str, dataset: object
) -> dict[str, object]:
    """What decides the result of a stage, as JSON. Models and data are known by name and length alone.

    Args:
        stage: as the user gave it.
        args: of its run.
        source: what its student starts from.
        teacher: in words.
        dataset: that it trains on.
    """
    settings = {k: v for k, v in non_default_settings(args).items() if not WITHOUT_EFFECT.match(k)}
    found = {
        "steps": stage.steps,
        "student": named(source),
        "grow": None if stage.grow is None else {name: named(value) for name, value in stage.grow.items()},
        "task": stage.task,
        "num_labels": stage.num_labels,
        "optimizer": stage.optimizer,
        "teacher": teacher,
        "dataset": data_words(dataset),
        "mask": stage.mask,
        **{f"args.{name}": value for name, value in settings.items() if name != "max_steps"},
    }
    plain: dict[str, object] = json.loads(json.dumps(found, default=str))
    return plain


def is_finished(folder: Path) -> bool:
    """Whether the stage of a folder has its student there."""
    return _read(folder).get("state") == "finished"


def write_record(folder: Path, description: Mapping[str, object], finished: bool) -> None:
    """Write `stage.json`."""
    content = {"format": _FORMAT, "state": "finished" if finished else "running", "stage": description}
    write_whole(folder / STAGE_FILE, json.dumps(content, indent=1) + "\n")


def other_plan_problems(output_dir: object, stages: Mapping[Path, Mapping[str, object]]) -> list[DistillationError]:
    """Stages in the folder of the run that are of another plan: another name, or something else in them.

    A finished stage behind one that is not was made from a student that is no longer there, and would hide what the
    stage in front of it becomes.

    Args:
        output_dir: of the run.
        stages: folder of each stage -> its description.
    """
    problems: list[DistillationError] = []
    fix = "Give another output_dir, or remove that folder and those of all stages behind it."
    for file in sorted(Path(str(output_dir)).glob(f"*/{STAGE_FILE}")):
        folder = file.parent
        found = _read(folder).get("stage")
        if folder not in stages or not isinstance(found, dict):
            names = ", ".join(one.name for one in stages)
            problem = f"has a stage {folder.name!r} of another plan: the stages of this one are {names}."
            problems.append(ArgumentError("output_dir", str(output_dir), problem, fix))
            continue
        here = stages[folder]
        for name in sorted(found.keys() | here.keys()):
            if found.get(name) != here.get(name):
                problem = f"has {name}={found.get(name)!r} in {folder.name!r}, where this plan has {here.get(name)!r}."
                problems.append(ArgumentError("output_dir", str(output_dir), problem, fix))
    gone = ""
    for folder in stages:
        if not is_finished(folder):
            gone = gone or folder.name
        elif gone:
            problem = f"has a finished {folder.name!r}, made from a student of {gone!r} that is no longer there."
            problems.append(ArgumentError("output_dir", str(output_dir), problem, fix))
    return problems


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
