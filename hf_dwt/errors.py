"""Errors that name the argument, its value, what would go wrong and what to do instead."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

__all__ = [
    "ArgumentError",
    "CacheError",
    "DataError",
    "DistillationError",
    "GrowthError",
    "GrowthNotPreservedError",
    "HubError",
    "SetupError",
    "TaskError",
    "TeacherError",
    "VocabularyError",
]

Item = TypeVar("Item")
Made = TypeVar("Made")


class DistillationError(ValueError):
    """Base of every error that hf_dwt raises about its input.

    Args:
        argument: name of the argument (or column, file, attribute) that is wrong.
        value: the value it has; shown shortened.
        problem: what is wrong with it, a sentence.
        fix: what to do instead, a sentence.

    With one argument it has that message: so a data loader makes an error of its worker again.
    """

    def __init__(self, argument: str, value: object = None, problem: str = "", fix: str = "") -> None:
        self.argument, self.value, self.problem, self.fix = argument, value, problem, fix
        super().__init__(f"{argument}={_short(value)}: {problem} {fix}" if problem else argument)


class ArgumentError(DistillationError):
    """A field of `DistillationArguments` or `TrainingArguments` that distillation cannot run with."""


class TeacherError(DistillationError):
    """A teacher that cannot be loaded, or that has nothing to teach."""


class CacheError(DistillationError):
    """A cache of a teacher's targets that is broken, or does not fit the run."""


class VocabularyError(DistillationError):
    """Student and teacher do not mean the same thing by the same token id or class."""


class TaskError(DistillationError):
    """A model whose task hf_dwt does not distil."""


class DataError(DistillationError):
    """A data set or batch without what the loss needs."""


class GrowthError(DistillationError):
    """A student that cannot be built from its teacher."""


class HubError(DistillationError):
    """A model that cannot be put on the Hub: the repository, the token, or what the Hub answers.

    transient: whether the same may succeed later as it is.
    """

    transient = False


class GrowthNotPreservedError(GrowthError):
    """A student that would not compute what its teacher does: names the axis or module, and why."""


class SetupError(DistillationError):
    """Several problems found before the first step, in `problems`."""

    def __init__(self, problems: Sequence[DistillationError]) -> None:
        self.problems = list(problems)
        lines = [f"{n}. {type(p).__name__}: {p}" for n, p in enumerate(self.problems, start=1)]
        ValueError.__init__(self, f"{len(lines)} problems, found before the first step:\n" + "\n".join(lines))


def unknown_name(
    argument: str,
    name: object,
    known: Iterable[str],
    otherwise: str = "",
    error: type[DistillationError] = ArgumentError,
) -> DistillationError:
    """The error for a name that is in no registry, with the nearest that is; `otherwise` is what else may be given."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.4)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    also = f"; or {otherwise}" if otherwise else ""
    return error(argument, name, f"is unknown.{guess}", f"Available: {', '.join(known)}{also}.")


# Names that arguments had before, or have elsewhere: spelling alone would suggest another one.
_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "group_by_length": "train_sampling_strategy",
    "no_cuda": "use_cpu",
    "teacher": "teacher_model",
    "teacher_tokenizer": "teacher_processing_class",
    "tokenizer": "processing_class",
    "warmup_ratio": "warmup_steps",
}


def unknown_argument(
    name: str, value: object, known: Iterable[str], of: str, error: type[DistillationError] = ArgumentError
) -> DistillationError:
    """The error for an argument that `of` does not take, with the nearest of those that it takes."""
    names = list(known)
    renamed = _RENAMED.get(name)
    close = [renamed] if renamed in names else difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    fix = f"Did you mean {close[0]!r}?" if close else f"Drop it, or look up its name in the documentation of {of}."
    shown = type(value).__name__ if "tok" in name else value  # no secret in a message
    return error(name, shown, f"is no argument of {of}.", fix)


def require_known_arguments(given: Mapping[str, object], known: Iterable[str], of: str) -> None:
    """Raise an ArgumentError for each given name that is not among the known ones."""
    names = list(known)
    raise_all([unknown_argument(name, value, names, of) for name, value in given.items() if name not in names])


def first_line(error: BaseException) -> str:
    """The first line of the message of another library's error, to be quoted; its class where there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def raise_all(problems: Sequence[DistillationError]) -> None:
    """Raise nothing, the one problem, or all of them together as a `SetupError`."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise SetupError(problems)


def problems_of(error: DistillationError) -> list[DistillationError]:
    """The problems that an error stands for."""
    return error.problems if isinstance(error, SetupError) else [error]


@contextmanager
def arguments_as(renamed: Callable[[str], str]) -> Iterator[None]:
    """In the block the arguments that errors name have other names: those that the caller of the block knows."""
    try:
        yield
    except DistillationError as error:
        each = problems_of(error)
        raise_all([type(one)(renamed(one.argument), one.value, one.problem, one.fix) for one in each])


def of_each(argument: str, items: Iterable[Item], function: Callable[[int, Item], Made]) -> list[Made]:
    """What `function` makes of (number, item); all that it refuses is raised together, under `argument[number]`."""
    made: list[Made] = []
    problems: list[DistillationError] = []
    for number, item in enumerate(items):
        try:
            with arguments_as(f"{argument}[{number}].{{}}".format):
                made.append(function(number, item))
        except DistillationError as error:
            problems += problems_of(error)
    raise_all(problems)
    return made


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
