"""From what a user gives as teacher to teachers that are run: loaded, compared with the student, and put together."""

import re
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import TrainingArguments

from ...arguments import DistillationArguments
from ...errors import ArgumentError, DistillationError, SetupError, TeacherError
from ...hub_access import HOW, no_connection
from ...objective.divergences import is_forward_kl
from ...objective.divergences.forward_kl import FORWARD_KL
from ...tasks import Outcome, Task
from ...teachers import Teacher
from ...teachers.columns import ColumnTeacher
from ...teachers.composed import ComposedTeacher, FittedTeacher, Student, TeacherSource
from ...teachers.frozen import KnownTokens
from ...teachers.loading import load_teacher, load_teacher_tokenizer
from ...teachers.online import OnlineTeacher
from ...teachers.vocabulary import class_count, label_problems, shared_vocabulary
from .misuse import warn_of_larger_teacher
from .validation import column_problems, padding_problems, teacher_problems, warn_of_fewer_positions


@dataclass(frozen=True)
class OneTeacher:
    """A loaded model, or an object that is a teacher already.

    shared_classes: P, the number of first classes that student and teacher have in common.
    known: the tokens that the teacher knows where the student's tokenizer has more, or None.
    reads_batches: whether the student's batches are in its tokens.
    """

    teacher: nn.Module | Teacher
    shared_classes: int = 0
    known: KnownTokens | None = None
    reads_batches: bool = True


@dataclass(frozen=True)
class Composition:
    """What a composed teacher is made of, by name."""

    source: ComposedTeacher
    parts: "Mapping[str, OneTeacher | Composition]" = field(default_factory=dict)


Loaded = OneTeacher | Composition


def put_together(loaded: Loaded, run: Callable[[str, OneTeacher], Teacher], name: str = "") -> Teacher:
    """The teacher of a run.

    Args:
        loaded: of `SourceCheck`.
        run: makes a teacher of each model or object, by its name; "" where it is the only one.
        name: of the whole.
    """
    if isinstance(loaded, OneTeacher):
        return run(name, loaded)
    parts = {key: put_together(part, run, ".".join(filter(None, (name, key)))) for key, part in loaded.parts.items()}
    return loaded.source.opened(parts)


@dataclass
class SourceCheck:
    """Loads the teachers of a run, and collects what is wrong with them.

    Args:
        student: the model that learns.
        task: its task.
        args, options: of the run.
        tokenizer: the student's.
        teacher_tokenizer: as the user gave it.
    """

    student: nn.Module
    task: Task
    args: TrainingArguments
    options: DistillationArguments
    tokenizer: Any = None
    teacher_tokenizer: Any = None
    problems: list[DistillationError] = field(default_factory=list)

    def load(self, source: TeacherSource, compare: bool = True, alone: bool = True) -> Loaded | None:
        """What a source stands for; None, with its problems noted, where something is wrong with it.

        Args:
            source: of the teacher, or of one that it is made of.
            compare: whether its token ids must mean what the student's do.
            alone: whether it is the whole teacher of the run.
        """
        if isinstance(source, ComposedTeacher):
            parts: dict[str, Loaded] = {}
            for name, part in source.sources.items():
                before = len(self.problems)
                if (found := self.load(part, compare and source.same_tokenizer, alone=False)) is not None:
                    parts[name] = found
                self.problems[before:] = [_of_source(name, problem) for problem in self.problems[before:]]
            if len(parts) < len(source.sources):
                return None
            if isinstance(source, OnlineTeacher):
                self._try_module(source, *parts.values())
            fitted = self._fitted(source, parts, alone) if isinstance(source, FittedTeacher) else copy(source)
            return None if fitted is None else Composition(fitted, parts)
        if isinstance(source, ColumnTeacher):
            self.problems += column_problems(self.options, self.task, alone)
            return OneTeacher(source.of_student(class_count(self.student, self.task), self.task.shifts))
        try:
            # options.__post_init__ turned JSON into a dict
            teacher = load_any_teacher(source, self.task, self.options.teacher_model_init_kwargs)  # type: ignore[arg-type]
        except TeacherError as error:
            self.problems.append(error)
            return None
        return self._model(source, teacher, compare) if isinstance(teacher, nn.Module) else OneTeacher(teacher)

    def _try_module(self, source: OnlineTeacher, part: Loaded) -> None:
        """Note what the model of a teacher that learns cannot have, before anything is made for the run."""
        if not isinstance(part, OneTeacher) or not isinstance(part.teacher, nn.Module):
            return
        try:
            source.with_module(part.teacher)
        except DistillationError as error:
            problems = error.problems if isinstance(error, SetupError) else [error]
            self.problems += [type(p)(f"teacher_model.{p.argument}", p.value, p.problem, p.fix) for p in problems]

    def _fitted(self, source: FittedTeacher, parts: Mapping[str, Loaded], alone: bool) -> ComposedTeacher | None:
        """A teacher that depends on the student, for this one; `alone` if it is the whole teacher of the run."""
        (name, part), name_of_class = next(iter(parts.items())), type(source).__name__
        if not alone:
            problem = "teaches other rows than other teachers, and cannot be put together with them."
            self.problems.append(TeacherError("teacher_model", name_of_class, problem, "Give it alone."))
            return None
        if not isinstance(part, OneTeacher) or not isinstance(part.teacher, nn.Module):
            problem, fix = "is no model.", f"Give {name_of_class} an id, a path or a model."
            self.problems.append(TeacherError("teacher", type(source.sources[name]).__name__, problem, fix))
            return None
        # A class of a whole text has no position: what the teacher predicts for it is whole.
        self.problems += self._option_problems(name_of_class) if self.task.by_position else []
        try:
            return source.fitted(
                Student(self.student, self.task, self.tokenizer),
                self._tokenizer_of(source.sources[name]),
                part.teacher,
            )
        except SetupError as error:
            self.problems += error.problems
        except DistillationError as error:
            self.problems.append(error)
        return None

    def _option_problems(self, name: str) -> list[DistillationError]:
        """Options that read all of the teacher's distribution, where the student's vocabulary has but a part of it."""
        options, wanted = self.options, []
        if options.teacher_correction is not None:
            wanted.append(("teacher_correction", options.teacher_correction, "Drop it."))
        if not is_forward_kl(options.soft_term):
            wanted.append(("soft_term", options.soft_term, f"Use soft_term={FORWARD_KL.name!r}."))
        problem = f"cannot be had with {name}, whose soft term is on the tokens that both vocabularies have."
        return [ArgumentError(argument, value, problem, fix) for argument, value, fix in wanted]

    def _tokenizer_of(self, source: Any) -> Any:
        """The teacher's tokenizer, as the user gave it or as it was saved."""
        if self.teacher_tokenizer is not None:
            return self.teacher_tokenizer
        return load_teacher_tokenizer(source, self.options.teacher_model_init_kwargs)  # type: ignore[arg-type]

    def _model(self, source: Any, teacher: nn.Module, compare: bool) -> OneTeacher | None:
        student, task = self.student, self.task
        found = teacher_problems(student, teacher, task) + padding_problems(teacher, task, self.args, "teacher_model")
        if found:
            self.problems += found
            return None
        if not task.vocabulary and task.outcome is not Outcome.CHOICE:
            self.problems += label_problems(student, teacher)
        warn_of_larger_teacher(student, teacher)
        if not compare or not task.reads_text:
            return OneTeacher(teacher, class_count(teacher, task), reads_batches=compare)
        vocabulary = shared_vocabulary(student, teacher, self.tokenizer, self._tokenizer_of(source))
        self.problems += vocabulary.problems
        warn_of_fewer_positions(student, teacher)
        return OneTeacher(
            teacher, vocabulary.classes if task.vocabulary else class_count(student, task), vocabulary.known
        )


def _of_source(name: str, problem: DistillationError) -> DistillationError:
    """A problem of one of several teachers, which it names."""
    if not name or isinstance(problem, SetupError):
        return problem
    argument, found = re.subn(r"\bteacher_model\b", f"teacher_model[{name!r}]", problem.argument, count=1)
    argument = argument if found else f"{problem.argument} (teacher {name!r})"
    return type(problem)(argument, problem.value, problem.problem, problem.fix)


def load_any_teacher(source: TeacherSource, task: Task, init_kwargs: dict[str, Any] | None) -> nn.Module | Teacher:
    """A loaded model from an id, path or model; an object that is a teacher already as it is."""
    if isinstance(source, Teacher) and not isinstance(source, nn.Module):
        return source
    if away := no_connection(source, init_kwargs or {}):
        raise TeacherError("teacher_model", source, away, HOW)
    return load_teacher(source, task, init_kwargs)  # type: ignore[arg-type]  # composed teachers are taken apart


def widest(loaded: Loaded | None) -> int:
    """The most classes that a teacher and the student have in common; 0 where none is a model."""
    if isinstance(loaded, Composition):
        return max((widest(part) for part in loaded.parts.values()), default=0)
    return 0 if loaded is None else loaded.shared_classes
