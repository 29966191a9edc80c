"""Which tasks are distilled, and what differs between them."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto as auto

from .errors import TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # whose import takes seconds

IGNORED = -100  # the label of a position that does not count, everywhere in transformers


class Outcome(Enum):
    """What a model predicts at a row, so what both terms of the objective are."""

    CLASS = "one of exclusive classes, the same for each row"
    CHOICE = "one of what its example offers: answers, or positions of its text"
    LABEL = "whether one of several independent labels holds: an example has a row for each"
    NUMBER = "a number: an example has a row for each of its numbers"


_OUTCOMES = {"regression": Outcome.NUMBER, "multi_label_classification": Outcome.LABEL}


@dataclass(frozen=True)
class Task:
    """One task.

    name: the Hub's name of the task, or the field's where the Hub has none.
    auto_class: the class of `transformers` that loads a model for it.
    classes: names of the model classes that have its head.
    shifts: whether the logits of a position predict the next one's label.
    vocabulary: whether the classes are the vocabulary: then tokenizers must agree, and rows are gathered before
        the head; otherwise the classes are the labels of a data set.
    outcome: what is predicted at a row; that of a classifier is by its `config.problem_type`, see `find_task`.
    by_position: whether a row is a position of the text; otherwise it belongs to the example as a whole.
    reads_text: whether inputs are token ids.
    labels: the entries of a batch that rows are made from.
    """

    name: str
    auto_class: str
    classes: frozenset[str]
    shifts: bool = False
    vocabulary: bool = True
    outcome: Outcome = Outcome.CLASS
    by_position: bool = True
    reads_text: bool = True
    labels: tuple[str, ...] = ("labels",)


def _task(name: str, auto_class: str, mapping: Mapping[str, Any], **options: Any) -> Task:
    names = (entry if isinstance(entry, tuple) else (entry,) for entry in mapping.values())
    return Task(name, auto_class, frozenset(n for group in names for n in group), **options)


# In order: an encoder-decoder such as BART stands in the masked LM's list too, but its labels feed a decoder.
TASKS = (
    _task("text2text-generation", "AutoModelForSeq2SeqLM", auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    _task("fill-mask", "AutoModelForMaskedLM", auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    _task("text-generation", "AutoModelForCausalLM", auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, shifts=True),
    _task(
        "text-classification",
        "AutoModelForSequenceClassification",
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        vocabulary=False,
        by_position=False,
    ),
    _task(
        "token-classification",
        "AutoModelForTokenClassification",
        auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        vocabulary=False,
    ),
    _task(
        "image-classification",
        "AutoModelForImageClassification",
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        vocabulary=False,
        by_position=False,
        reads_text=False,
    ),
    _task(
        "multiple-choice",
        "AutoModelForMultipleChoice",
        auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
        vocabulary=False,
        outcome=Outcome.CHOICE,
        by_position=False,
    ),
    _task(
        "question-answering",
        "AutoModelForQuestionAnswering",
        auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        vocabulary=False,
        outcome=Outcome.CHOICE,
        by_position=False,
        labels=("start_positions", "end_positions"),
    ),
)


# Transformers lists language models that read audio or images with the encoder-decoders. They have no decoder beside
# them: what they write follows what they read, and their own loss is that of the next token.
_WITHOUT_DECODER = replace(TASKS[0], shifts=True)


def plain_model(model: nn.Module) -> "PreTrainedModel":
    """The transformers model inside a peft wrapper, a compiled one and those of DDP, FSDP and DeepSpeed, or the model.

    `find_task` refuses whatever is no model of transformers; until then no more than its class may be read.
    """
    inner: Any = model
    # As accelerate's `extract_model_from_parallel` does, without the import of DeepSpeed, and in any order.
    while isinstance(wrapped := getattr(inner, "_orig_mod", getattr(inner, "module", None)), nn.Module):
        inner = wrapped
    base: PreTrainedModel = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return base


def model_class(model: nn.Module) -> type[nn.Module]:
    """The class of the transformers model: FSDP 2 makes one of its own from it, and gives it to the model."""
    from torch.distributed.fsdp import FSDPModule  # which every model of transformers has imported

    classes: list[type[nn.Module]] = [*type(plain_model(model)).__mro__]
    return next(cls for cls in classes if not issubclass(cls, FSDPModule))


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile(model)` or `model.compile()` was called: its forward is then one graph without hooks."""
    return hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None


def config_parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A config, and those of the parts of a composite model."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from config_parts(value)


def named_task(config: PreTrainedConfig) -> Task | None:
    """The task of the class that a checkpoint's config names; None where that is none of a task distilled here."""
    named = config.architectures or ()
    task = next((task for task in TASKS if not task.classes.isdisjoint(named)), None)
    return None if task is None else _with_outcome(task, config)


def find_task(model: nn.Module, argument: str = "model") -> Task:
    """The task of a model, by its class or a class that it derives from, and by its `config.problem_type`.

    As in transformers a classifier without a problem type and with one label is a regression; with more it has
    exclusive classes, since its config does not show the type of the labels.

    Raises:
        TaskError: the model has no head of a supported task, or fewer than two exclusive classes.
    """
    names = [cls.__name__ for cls in model_class(model).__mro__]
    supported = ", ".join(task.name for task in TASKS)
    task = next((task for task in TASKS if any(name in task.classes for name in names)), None)
    if task is None or not _takes_labels(task, model):
        raise TaskError(
            argument,
            names[0],
            "has no head of a task that is distilled here.",
            f"Use a model for one of: {supported}.",
        )
    config = plain_model(model).config
    if task is TASKS[0] and not config.is_encoder_decoder:
        return _WITHOUT_DECODER
    task = _with_outcome(task, config)
    if task.outcome is Outcome.CLASS and not task.vocabulary and (config.num_labels or 0) < 2:
        raise TaskError(
            f"{argument}.config.num_labels",
            config.num_labels,
            "are too few exclusive classes.",
            "Give it two or more labels, or set config.problem_type='regression'.",
        )
    return task


def require_classes(task: Task, argument: str, value: object) -> Task:
    """The task, if its rows have one of exclusive classes, the same for each row.

    Raises:
        TaskError: they have not.
    """
    if task.outcome is not Outcome.CLASS:
        problem = f"predicts at a row {task.outcome.value}; exclusive classes are needed here."
        raise TaskError(argument, value, problem, "Use a model of another task, or of another problem_type.")
    return task


def _with_outcome(task: Task, config: PreTrainedConfig) -> Task:
    """The task with the outcome of that model: only classifiers of whole examples have a problem type."""
    if task.outcome is not Outcome.CLASS or task.by_position:
        return task
    kind = getattr(config, "problem_type", None) or ("regression" if config.num_labels == 1 else "")
    return replace(task, outcome=_OUTCOMES.get(kind, Outcome.CLASS))


def _takes_labels(task: Task, model: nn.Module) -> bool:
    """Whether a model's forward takes the task's labels: LXMERT answers questions by classes, not by positions."""
    return task.labels == ("labels",) or set(task.labels) <= set(
        inspect.signature(plain_model(model).forward).parameters
    )
