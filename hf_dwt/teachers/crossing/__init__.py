"""A teacher of another tokenizer than the student's."""

import copy
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ...errors import DistillationError, TaskError, TeacherError, VocabularyError, raise_all
from ...objective.mapped import SharedClasses
from ...tasks import Task
from ...tokenization import saved_tokenizer
from ..composed import ComposedTeacher, Shown, Student, TeacherSource
from ..frozen import usable_positions
from ..protocol import Teacher
from ..vocabulary import class_count, vocabulary_size
from .reading import Reader
from .teacher import CrossingTeacher, Limits

TEACHER = ""


class OtherTokenizer(Shown):
    """A teacher of another tokenizer: `teacher_model=OtherTokenizer("older-model")`.

    The batch's token ids are read as text, which the teacher gets in its own tokens; special tokens go by their role.
    The soft term is on the rows where one token of the student's is one of the teacher's, for the same text, and
    compares both models on the S tokens that are the same text in both vocabularies:

        KL(p_T(token | a shared one) || p_S(token | a shared one))

    The other rows have the hard term alone; the share of rows with a soft term is logged as `teacher_rows`.

    For a masked language model that is exact: both predict which token stands there, given that it is one token in
    both vocabularies; what the student is to predict is masked in the teacher's text, and nothing else. For a causal
    one it is approximate: a token's probability counts all texts that begin with it and for which the vocabulary has
    no longer token, which are not the same texts for two vocabularies. Classifiers learn from the teacher's own
    classes, which are the student's. With the student's own tokenizer the soft term is the plain one.

    Comparing the tokens that two vocabularies share is one part of what TRL's GOLD trainer does (its hybrid loss); its
    other part, as ULD (Boizard et al., 2024, arXiv 2402.12030), compares sorted probabilities of the rest, whatever
    tokens they belong to. The conditional form, and its rows, are ours.

    Args:
        teacher: Hub id, path or model.
        tokenizer: the teacher's, a fast one, or its id or path; by default `teacher_processing_class` of the trainer,
            or the one saved with the teacher.

    Raises:
        TeacherError: the teacher is made of others.
    """

    same_tokenizer = False
    caches = False
    description = "reads and predicts tokens of its own tokenizer"
    why_not_cached = "they are made of another tokenizer's tokens"

    def __init__(
        self, teacher: TeacherSource, tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str] | None = None
    ) -> None:
        if isinstance(teacher, ComposedTeacher):
            problem, fix = "is made of other teachers.", "Give OtherTokenizer one model, its id or path."
            raise TeacherError("teacher", type(teacher).__name__, problem, fix)
        self.sources: Mapping[str, TeacherSource] = {TEACHER: teacher}
        self.tokenizer = tokenizer
        self._make: Callable[[Teacher], Teacher] | None = None

    def fitted(self, student: Student, tokenizer: Any, model: nn.Module) -> "OtherTokenizer":
        """The same for that student.

        Args:
            student: with its tokenizer.
            tokenizer: the teacher's, where none was given.
            model: the teacher, loaded.

        Raises:
            DistillationError: the two cannot be compared, or have nothing in common.
        """
        other: Any = tokenizer if self.tokenizer is None else self.tokenizer
        if isinstance(other, str | os.PathLike):
            saved = saved_tokenizer(os.fspath(other), {})
            if isinstance(saved, str):
                fix = "Give an id or path with one, or the tokenizer itself."
                raise TeacherError("tokenizer", os.fspath(other), f"cannot be loaded: {saved}", fix)
            other = saved
        raise_all(_problems(student, other))
        reader = Reader(student.tokenizer, other)
        size, task = class_count(student.model, student.task), student.task
        classes = _shared(reader, size, vocabulary_size(model), task)
        pad_id = getattr(other, "pad_token_id", None)
        limits = Limits(usable_positions(model), other.mask_token_id if _masks(task) else None, pad_id or 0)
        found = copy.copy(self)
        found._make = partial(CrossingTeacher, reader=reader, task=task, classes=classes, size=size, limits=limits)
        return found

    def opened(self, teachers: Mapping[str, Teacher]) -> Teacher:
        """The teacher, to be run on the student's batches."""
        assert self._make is not None  # the trainer has called `fitted`
        return self._make(teachers[TEACHER])


def _masks(task: Task) -> bool:
    return task.auto_class == "AutoModelForMaskedLM"


def _problems(student: Student, other: Any) -> list[DistillationError]:
    """Why texts cannot be read in two tokenizers."""
    problems: list[DistillationError] = []
    if student.task.auto_class == "AutoModelForSeq2SeqLM":
        problem = "has a text for the encoder and one for the decoder, which are not carried to another tokenizer."
        problems.append(TaskError("model", student.task.name, problem, "Take a teacher with the student's tokenizer."))
    if not isinstance(student.tokenizer, PreTrainedTokenizerBase):
        fix = "Give the trainer the tokenizer of the data: processing_class=tokenizer."
        problems.append(VocabularyError("processing_class", student.tokenizer, "shows no text of token ids.", fix))
    name = type(other).__name__
    if other is None:
        problem, fix = "is not saved with the teacher.", "Give it: OtherTokenizer(teacher, tokenizer)."
        problems.append(VocabularyError("tokenizer", None, problem, fix))
    elif not getattr(other, "is_fast", False):
        problem = "is no fast tokenizer: only these give the places of tokens in a text."
        problems.append(VocabularyError("tokenizer", name, problem, "Load it with AutoTokenizer, or convert it."))
    elif _masks(student.task) and other.mask_token_id is None:
        problem, fix = "has no mask, so nothing can be hidden from the teacher.", "Set its mask_token."
        problems.append(VocabularyError("tokenizer", name, problem, fix))
    return problems


def _shared(reader: Reader, own_size: int, other_size: int, task: Task) -> SharedClasses:
    """The classes that both have, in the student's order; of a classifier all."""
    if not task.vocabulary:
        return SharedClasses(torch.arange(own_size), torch.arange(own_size))
    pairs = sorted((i, j) for i, j in reader.shared.items() if i < own_size and j < other_size)
    if not any(i in reader.own.texts for i, _ in pairs):
        problem = "shares no token with the student's, so there is nothing that both predict."
        fix = "Take a teacher whose vocabulary has some of the same words."
        raise VocabularyError("tokenizer", f"{len(reader.other.texts)} tokens", problem, fix)
    own, other = zip(*pairs, strict=True)
    return SharedClasses(torch.tensor(own), torch.tensor(other))


__all__ = ["OtherTokenizer"]
