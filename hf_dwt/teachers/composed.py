"""Teachers that are made of others, or that learn: what the trainer has to know of them."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from ..objective import Targets
from ..objective.targets import Mixture, Watch
from ..tasks import Task
from .protocol import Teacher


@runtime_checkable
class ComposedTeacher(Protocol):
    """A teacher that is made of others, as a user gives it: nothing of it is loaded yet.

    Each run works on a shallow copy of it, which is opened: what that keeps is of the run alone.

    sources: what it is made of, by names that are used in logs and as names of folders; "" for the only one, which
        has the name of the whole.
    same_tokenizer: whether the token ids of its sources must mean what the student's do.
    caches: whether what its sources predict may be cached; with `needs_all_classes`, as formats that keep all classes.

    It may also have a `description` and `references` (`hf_dwt.parts.Reference`), for run.json and the card.
    """

    sources: "Mapping[str, TeacherSource]"
    same_tokenizer: bool
    caches: bool

    def opened(self, teachers: Mapping[str, Teacher]) -> Teacher:
        """The teacher that is run, from those of its sources by their names; may be called several times."""
        ...


TeacherSource: TypeAlias = str | os.PathLike[str] | nn.Module | Teacher | ComposedTeacher
"""Hub id, path, model, an object with the protocol of `hf_dwt.teachers.Teacher`, or a teacher made of such."""


class Shown:
    """The base of a teacher that a user makes: it is shown as the call that made it.

    Arguments with their defaults are left out. Models and other objects are shown by their class, functions by their
    name.
    """

    def __repr__(self) -> str:
        arguments: list[str] = []
        for parameter in inspect.signature(type(self)).parameters.values():
            value = vars(self)[parameter.name if parameter.name in vars(self) else "sources"]
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments += [f"{name}={_shown(one)}" for name, one in value.items()]
            elif parameter.default is parameter.empty:
                arguments.append(_shown(value))
            elif value is not parameter.default and value != parameter.default:
                arguments.append(f"{parameter.name}={_shown(value)}")
        return f"{type(self).__name__}({', '.join(arguments)})"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        parts = {name: _shown(one) for name, one in value.items()}
        return parts[""] if parts.keys() == {""} else f"{{{', '.join(f'{n!r}: {one}' for n, one in parts.items())}}}"
    if isinstance(value, str | os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, int | float | list | tuple | Shown) or value is None:
        return repr(value)
    return getattr(value, "__name__", type(value).__name__)


def single_sources(source: TeacherSource, name: str = "") -> Iterator[tuple[str, TeacherSource]]:
    """What a teacher is made of in the end, by the names that a run has for it; "" for the only one."""
    if not isinstance(source, ComposedTeacher):
        yield name, source
        return
    for key, part in source.sources.items():
        yield from single_sources(part, ".".join(filter(None, (name, key))))


class Student(NamedTuple):
    """What a composed teacher may have to know of the student.

    tokenizer: that of the data, `processing_class`; a processor, or None.
    """

    model: nn.Module
    task: Task
    tokenizer: Any


@runtime_checkable
class FittedTeacher(ComposedTeacher, Protocol):
    """A composed teacher of one model that depends on the student."""

    def fitted(self, student: Student, tokenizer: Any, model: nn.Module) -> ComposedTeacher:
        """The same for that student, given the teacher's own tokenizer, if it has one, and its loaded model.

        Raises:
            DistillationError: they do not go together.
        """
        ...


@dataclass(frozen=True)
class LearningPart:
    """What learns beside the student: in no state dict of the student, and in nothing that is pushed.

    module: its parameters with `requires_grad` learn; those of the first process are given to all.
    learning_rate: at its highest; it follows the student's schedule.
    weight_decay: of its AdamW.
    state: further tensors that it changes in place and that checkpoints keep.
    stepped: called at the end of each step on all processes, with a function that averages a tensor over them.
    """

    module: nn.Module
    learning_rate: float
    weight_decay: float = 0.0
    state: Mapping[str, Tensor] = field(default_factory=dict)
    stepped: Callable[[Callable[[Tensor], Tensor]], None] | None = None


class OwnLoss(Watch, Protocol):
    """A watch that has a loss of its own once it has seen all rows of a batch."""

    def loss(self) -> Tensor:
        """The sum over the rows of the batch, with a gradient on the learning parts alone; called once."""
        ...

    def figures(self) -> Mapping[str, Tensor]:
        """Named sums over the rows, for the log; names begin with "teacher_"."""
        ...


@runtime_checkable
class LearningTeacher(Protocol):
    """A teacher that learns. Its targets in training have watches that are `OwnLoss`es.

    learning_parts: by names that checkpoints know.
    """

    learning_parts: Mapping[str, LearningPart]

    def at(self, progress: float) -> None:
        """Called before each step with the progress of training, from 0 to 1."""
        ...


class MadeOf:
    """The base of a teacher that runs others: what they read, and what learns in them."""

    def __init__(self, teachers: Mapping[str, Teacher], learning: Mapping[str, LearningPart] | None = None) -> None:
        self.teachers = dict(teachers)
        self.columns = frozenset[str]().union(*(teacher.columns for teacher in self.teachers.values()))
        self.learning_parts: Mapping[str, LearningPart] = {
            **(learning or {}),
            **{
                f"{name}.{key}" if name else key: part
                for name, teacher in self.teachers.items()
                if isinstance(teacher, LearningTeacher)
                for key, part in teacher.learning_parts.items()
            },
        }

    def at(self, progress: float) -> None:
        """See `LearningTeacher`."""
        for teacher in self.teachers.values():
            if isinstance(teacher, LearningTeacher):
                teacher.at(progress)


def own_losses(targets: Targets, name: str = "") -> Iterator[tuple[str, OwnLoss]]:
    """The watches that have a loss, of targets and of those that they are mixed of; with the name of that part."""
    if isinstance(targets.logits, Mixture):
        for key, part in zip(targets.logits.names, targets.logits.parts, strict=True):
            yield from own_losses(part, f"{name}.{key}" if name else key)
    for _, watch in targets.watches:
        if hasattr(watch, "loss"):
            yield name, watch  # type: ignore[misc]  # a protocol with members cannot be asked for
