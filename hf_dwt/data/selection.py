"""Which examples a teacher supervises, or a student sees: a data set with a mark on each, or with fewer of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import datasets
import numpy as np
import torch
from torch import Tensor, nn

from ..batches.collation import default_collator
from ..batches.seeds import Collator
from ..errors import ArgumentError, DataError, DistillationError, arguments_as, first_line, raise_all
from ..forward.rows import SOFT
from ..kinds import COUNT, FLAG, FUNCTION, SEED, SOURCE, Bounds
from ..tasks import Task, find_task, model_class, require_classes
from ..teachers.loading import TeacherSource, load_teacher, load_teacher_tokenizer, shown_task
from .criteria import get_criterion
from .scoring import Scorer, scores_of

SHARES = Bounds(0, 1, above=True)


@runtime_checkable
class HasScores(Protocol):
    """What `hf_dwt.attribution.attribute` returns."""

    @property
    def by_example(self) -> np.ndarray: ...


Scores = HasScores | np.ndarray | Tensor | Sequence[float]
By = str | Scores | Callable[[datasets.Dataset], Any]


def select(
    dataset: datasets.Dataset,
    teacher: TeacherSource | None = None,
    *,
    by: By = "salt",
    share: float = 0.5,
    drop: bool = False,
    by_kwargs: Mapping[str, Any] | None = None,
    student: nn.Module | None = None,
    data_collator: Collator | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> datasets.Dataset:
    """The data set, in which a column of truth values marks the examples with the highest scores; or these alone.

    The column is `soft_row_weight`, from which the trainer reads that the other examples have the hard term alone:
    the teacher supervises the share that is marked. Its own data collator has to keep the column, as
    `DataCollatorForLanguageModeling` does.

    Args:
        dataset: as the trainer gets it.
        teacher: Hub id, path or model; not needed where `by` is no name. It has the student's tokenizer.
        by: the name of a criterion of `hf_dwt.data.criteria.CRITERIA`; what `attribute` returned, whose means over
            queries count; a number for each example; or a function from the data set to a number for each. The
            examples with the highest are chosen.
        share: of the examples that is chosen, above 0, up to 1; at least one.
        drop: return the chosen examples alone, in their order, in place of a mark.
        by_kwargs: parameters of the criterion.
        student: what the teacher is compared with, for `by="disagreement"`.
        data_collator: as the trainer's; by default that of the task, with the teacher's tokenizer.
        batch_size: examples that a model takes at a time.
        seed: of the masks, which are drawn for each example alone.

    Raises:
        ArgumentError: an unknown criterion or parameter, a share that is none, or as many scores as there are no
            examples.
        DataError: no `datasets.Dataset`, one without examples, with such a column, or that makes no batches.
        TeacherError: a teacher that cannot be loaded, or predicts NaN.
        VocabularyError: a token of the data set that a model does not know.

    Scores by name are kept as `datasets` keeps the results of `map`: of a data set that lies in a file they are
    computed once for the same weights, collator and seed.
    """
    given = {name: value for name, value in locals().items() if name != "dataset"}
    raise_all([*_data_problems(dataset, drop), *_problems(given)])
    if isinstance(by, str):
        scores = _by_name(dataset, teacher, by, by_kwargs, student, data_collator, batch_size, seed)
    else:
        scores = _as_scores(by, len(dataset), _called(by, dataset))
    order = np.argsort(-scores, kind="stable")[: max(1, round(share * len(dataset)))]
    if drop:
        return dataset.select(sorted(order.tolist()))
    marks = np.zeros(len(dataset), dtype=bool)
    marks[order] = True
    return dataset.add_column(SOFT, marks.tolist())


def _by_name(
    dataset: datasets.Dataset,
    teacher: TeacherSource | None,
    by: str,
    parameters: Mapping[str, Any] | None,
    student: nn.Module | None,
    collator: Collator | None,
    batch_size: int,
    seed: int,
) -> np.ndarray:
    assert teacher is not None
    criterion, task = get_criterion(by, parameters), _task_of(teacher, student)
    with arguments_as(lambda name: name.replace("teacher_model", "teacher")):
        model = load_teacher(teacher, task)
    if student is not None and (own := find_task(student, "student")).name != task.name:
        problem = f"is a model for {own.name}, and the teacher one for {task.name}."
        raise ArgumentError("student", model_class(student).__name__, problem, "Give models of one task.")
    if not isinstance(teacher, nn.Module) and torch.cuda.is_available():
        model = model.to("cuda")
    collate = collator or default_collator(task, load_teacher_tokenizer(teacher))
    compared = student if criterion.record.needs_student else None
    return scores_of(dataset, Scorer(criterion, task, model, compared, collate, batch_size, seed))


def _task_of(teacher: TeacherSource, student: nn.Module | None) -> Task:
    if isinstance(teacher, nn.Module):
        return require_classes(find_task(teacher, "teacher"), "teacher", type(teacher).__name__)
    if student is not None:
        return require_classes(find_task(student, "student"), "student", type(student).__name__)
    if (shown := shown_task(teacher)) is not None:
        return require_classes(shown, "teacher", teacher)
    problem = "shows no task: there is no model, or its config names no class with the head of one."
    fix = "Check the path; or load it with the class of its task, such as AutoModelForMaskedLM, and give the model."
    raise ArgumentError("teacher", teacher, problem, fix)


def _called(by: Any, dataset: datasets.Dataset) -> object:
    """What `by` gives for the data set: a function's result, or the scores that it has or is."""
    if isinstance(by, HasScores):
        return by.by_example
    if not FUNCTION.is_right(by):
        return by
    try:
        return by(dataset)
    except DistillationError:
        raise
    except Exception as error:
        problem = f"raised {type(error).__name__}: {first_line(error)}"
        raise ArgumentError("by", by, problem, "Give a function from the data set to a number for each.") from error


def _as_scores(by: object, count: int, found: Any) -> np.ndarray:
    """(n,) numbers.

    Raises:
        ArgumentError: they are none, or not as many as there are examples.
    """
    fix = f"Give {count} numbers, one for each example; the highest are chosen."
    try:
        values = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError("by", by, f"gives a {type(found).__name__}, and no numbers.", fix) from error
    if values.shape != (count,):
        raise ArgumentError("by", by, f"gives scores of shape {values.shape} for {count} examples.", fix)
    if np.isnan(values).any():
        raise ArgumentError("by", by, f"gives NaN, for example {int(np.isnan(values).argmax())}.", fix)
    return values


def _data_problems(dataset: object, drop: object) -> list[DistillationError]:
    if not isinstance(dataset, datasets.Dataset):
        fix = "Give a datasets.Dataset: Dataset.from_list(examples)."
        return [DataError("dataset", type(dataset).__name__, "is none that can be marked or selected from.", fix)]
    if not len(dataset):
        return [DataError("dataset", "Dataset", "has no examples.", "Check its path, split or filter.")]
    if SOFT in dataset.column_names and not drop:
        return [DataError(SOFT, "a column", "is there already.", "Remove it first.")]
    return []


def _problems(given: Mapping[str, Any]) -> list[DistillationError]:
    """What is wrong with the other arguments, before any model is loaded."""
    problems: list[DistillationError] = []
    kinds = {"drop": FLAG, "batch_size": COUNT, "seed": SEED, "teacher": SOURCE.or_none()}
    kinds["data_collator"] = FUNCTION._replace(is_right=lambda value: value is None or callable(value))
    problems += [kind.error(name, given[name]) for name, kind in kinds.items() if not kind.is_right(given[name])]
    by, parameters, share = given["by"], given["by_kwargs"], given["share"]
    if share not in SHARES:
        problems.append(ArgumentError("share", share, "is no share of the examples.", f"Give a number {SHARES}."))
    if not isinstance(by, str):
        if parameters:
            fix = "Name a criterion, or bind them with functools.partial."
            problems.append(ArgumentError("by_kwargs", parameters, "have no criterion to go to.", fix))
        if given["student"] is not None:
            problems.append(ArgumentError("student", "a model", "has no effect where by has scores.", "Drop it."))
        return problems
    try:
        record = get_criterion(by, parameters).record
    except DistillationError as error:
        return [*problems, error]
    if given["teacher"] is None:
        problems.append(ArgumentError("teacher", None, f"is needed for by={by!r}.", "Give it."))
    if record.needs_student and not isinstance(given["student"], nn.Module):
        shown = type(given["student"]).__name__
        problems.append(ArgumentError("student", shown, f"is needed as a model for by={by!r}.", "Give it."))
    if given["student"] is not None and not record.needs_student:
        problems.append(ArgumentError("student", "a model", f"has no effect with by={by!r}.", "Drop it."))
    return problems
