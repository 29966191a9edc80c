"""What is wrong with a list of stages and can be known before anything runs."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainingArguments

from ..arguments import DistillationArguments
from ..errors import ArgumentError, DataError, DistillationError, unknown_argument
from ..tasks import Task
from ..training.setup.misuse import collator_problems
from ..training.trainer import DistillationTrainer
from .stage import Stage

# Of one model, or of one run: stages have their own in place of each.
_NOT_HERE = {
    "model": "student",
    "teacher_model": "teacher",
    "model_init": "student",
    "optimizers": "optimizer_cls_and_kwargs",
    "peft_config": "",
}
_LABELS = ("labels", "label", "label_ids")


def run_problems(
    stages: Sequence[Stage], args: object, trainer_class: object, more: Mapping[str, object]
) -> list[DistillationError]:
    """Arguments of `run_stages` that are of another kind than they must be."""
    problems: list[DistillationError] = []
    if isinstance(stages, Stage) or not isinstance(stages, Sequence) or not stages:
        fix = "Give at least one: [Stage(steps=100)]."
        return [ArgumentError("stages", stages, "is no list of stages.", fix)]
    for number, stage in enumerate(stages):
        if not isinstance(stage, Stage):
            problem = f"is {type(stage).__name__}, and no stage."
            problems.append(ArgumentError(f"stages[{number}]", stage, problem, "Give Stage(steps=..., ...)."))
    if args is not None and not isinstance(args, TrainingArguments):
        problem = f"is of type {type(args).__name__}."
        problems.append(ArgumentError("args", args, problem, "Give DistillationArguments."))
    elif getattr(args, "teacher_cache_only", False):
        problem = "ends the program before the first step of the first stage."
        problems.append(ArgumentError("teacher_cache_only", True, problem, "Leave it out."))
    if not (isinstance(trainer_class, type) and issubclass(trainer_class, DistillationTrainer)):
        fix = "Give a class that derives from it."
        problems.append(ArgumentError("trainer_class", trainer_class, "is no DistillationTrainer.", fix))
        return problems
    known = [*inspect.signature(trainer_class).parameters, *inspect.signature(DistillationTrainer).parameters]
    for name, value in more.items():
        if name in _NOT_HERE:
            fix = f"Give {_NOT_HERE[name]}." if _NOT_HERE[name] else "Run a DistillationTrainer with it instead."
            problems.append(ArgumentError(name, value, "is of one run, and not of a list of stages.", fix))
        elif name not in known:
            problems.append(unknown_argument(name, value, [n for n in known if n not in _NOT_HERE], "run_stages"))
    return problems


def data_problems(
    task: Task, args: DistillationArguments, dataset: object, eval_dataset: object, collator: object
) -> list[DistillationError]:
    """Columns that a stage has to have and that its data lacks, and data to evaluate on.

    What a collator of the user's reads is its own affair: it is not known here.
    """
    problems = collator_problems(task, collator)
    if hasattr(collator, "mlm") and not task.vocabulary:
        problem, fix = f"makes labels of tokens, where a stage of {task.name} has classes.", "Give it a data_collator."
        problems.append(DataError("data_collator", type(collator).__name__, problem, fix))
    sets = {"dataset": dataset, **({"eval_dataset": eval_dataset} if eval_dataset is not None else {})}
    if isinstance(eval_dataset, Mapping) and not hasattr(eval_dataset, "column_names"):
        sets = {"dataset": dataset, **{f"eval_dataset[{name!r}]": one for name, one in eval_dataset.items()}}
    for name, one in sets.items():
        columns = _columns(one)
        for names in _wanted(collator) if columns is not None else ():
            if not set(names) & set(columns or ()):
                problem = f"has no column {names[0]!r}, which a stage of {task.name} needs"
                problem += f"; it has {', '.join(map(str, columns or ())) or 'none'}."
                fix = "Tokenise it." if names[0] == "input_ids" else "Add it, or give mask or a data_collator."
                problems.append(DataError(name, type(one).__name__, problem, fix))
    if args.eval_strategy != "no" and eval_dataset is None:
        problem = "has no data to evaluate on: the eval_dataset of the run goes with its train_dataset alone."
        fix = "Give the stage an eval_dataset, or eval_strategy='no'."
        problems.append(
            ArgumentError("eval_strategy", getattr(args.eval_strategy, "value", args.eval_strategy), problem, fix)
        )
    return problems


def _wanted(collator: object) -> list[tuple[str, ...]]:
    """Names of columns of which one has to be there, for each thing that a collator of transformers reads."""
    stock = collator is None or type(collator).__module__.startswith("transformers.")
    if not stock:
        return []
    makes_labels = hasattr(collator, "mlm")
    return [("input_ids",)] if makes_labels else [("input_ids", "inputs_embeds", "pixel_values"), _LABELS]


def _columns(dataset: Any) -> list[str] | None:
    """The names of a data set's columns; None where they are not known before it is read."""
    names = getattr(dataset, "column_names", None)
    if isinstance(names, list):
        return names
    if isinstance(dataset, Sequence) and dataset and isinstance(dataset[0], Mapping):
        return list(dataset[0])
    return None
