"""What a caller gives to `assess_teacher`: all of it is checked before a teacher is loaded."""

import inspect
from collections.abc import Mapping

import torch
from torch import nn

from ..batches.examples import Examples
from ..errors import DataError, DistillationError, SetupError, raise_all, unknown_argument
from ..growth import plan_growth
from ..growth.arguments import LOADING, check_arguments
from ..kinds import COUNT, FUNCTION, PROCESSOR, SEED, SOURCE, Kind


def check(given: Mapping[str, object], loading: Mapping[str, object]) -> None:
    """Raise unless the arguments of `assess_teacher`, and of `from_pretrained` in `loading`, are legal and known.

    Raises:
        DistillationError: naming the argument; several problems at once as `SetupError`.
    """
    names, foreign = [*given, *LOADING], {name: value for name, value in loading.items() if name not in LOADING}
    problems = [unknown_argument(name, value, names, "assess_teacher") for name, value in foreign.items()]
    problems += [kind.error(name, given[name]) for name, kind in _KINDS.items() if not kind.is_right(given[name])]
    try:
        first_of(given["dataset"], reads_text=given["data_collator"] is None)
    except DataError as error:
        problems.append(error)
    raise_all(problems + _growth_problems(given, {name: loading[name] for name in loading if name in LOADING}))


def first_of(dataset: object, reads_text: bool = False) -> object:
    """The first example.

    Args:
        reads_text: whether it must be text, or have a column "text" or "input_ids".

    Raises:
        DataError: nothing to pick from, or other columns.
    """
    fix = "Give a list or a map-style data set."
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(repr, list(dataset)[:4]))
        given = f"Give one of its values: {splits}." if splits else fix
        raise DataError("dataset", type(dataset).__name__, "is a dict, and no data set.", given)
    if isinstance(dataset, str | bytes) or not isinstance(dataset, Examples) or not len(dataset):
        raise DataError("dataset", dataset, "has no examples that can be picked.", fix)
    try:
        first = dataset[0]
    except Exception as error:
        problem = f"has no example 0 ({type(error).__name__}: {error})."
        raise DataError("dataset", type(dataset).__name__, problem, fix) from error
    if not reads_text or isinstance(first, str):
        return first
    if not isinstance(first, Mapping):
        problem = f"has examples of type {type(first).__name__}."
        raise DataError("dataset", type(dataset).__name__, problem, "Give strings, or dicts with a column 'text'.")
    if "input_ids" not in first and not isinstance(first.get("text"), str):
        columns = list(map(str, first)) or [""]
        raise DataError(
            "dataset",
            type(dataset).__name__,
            f"has no text in a column 'text' and no column 'input_ids'; its columns are {', '.join(columns)}.",
            f"Rename the one with the text, such as dataset.rename_column({columns[0]!r}, 'text').",
        )
    return first


def _growth_problems(given: Mapping[str, object], loading: Mapping[str, object]) -> list[DistillationError]:
    """Sizes of a student that cannot be, and values that from_pretrained does not take."""
    taken, ours = inspect.signature(plan_growth).parameters, ("teacher", "init", "seed")
    known = [name for name in taken if name not in ours][:-1]
    sizes = given["student"] if isinstance(given["student"], Mapping) else {}
    foreign = {str(name): value for name, value in sizes.items() if name not in known}
    problems = [unknown_argument(name, value, known, "a student") for name, value in foreign.items()]
    arguments = {name: sizes.get(name, parameter.default) for name, parameter in taken.items()} | {"teacher": "any"}
    try:
        check_arguments(plan_growth, arguments, loading)
    except SetupError as error:
        return problems + error.problems
    except DistillationError as error:
        return [*problems, error]
    return problems


def _is_device(value: object) -> bool:
    try:
        return isinstance(value, str | int | torch.device) and bool(torch.device(value))
    except (RuntimeError, TypeError):
        return False


# argument -> what it must be
_KINDS: dict[str, Kind] = {
    "teacher": SOURCE,
    "student": Kind(
        lambda value: isinstance(value, nn.Module | Mapping),
        "is {given}, not a student.",
        "Give a model, or the sizes of one: {'hidden_size': 512}.",
    ).or_none(),
    "data_collator": FUNCTION._replace(fix="Give a function from a list of examples to a batch.").or_none(),
    "processing_class": PROCESSOR.or_none(),
    "samples": COUNT,
    "batch_size": COUNT,
    "seed": SEED,
    "device": Kind(_is_device, "is no device.", "Give 'cpu', 'cuda', or None.").or_none(),
}
