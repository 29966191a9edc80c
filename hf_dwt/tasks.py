"""Which tasks are distilled, and what differs between them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto as auto

from .errors import TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # whose import takes seconds

IGNORED = -100  # the label of a position that does not count, everywhere in transformers


@dataclass(frozen=True)
class Task:
    """One task.

    name: the Hub's name of the task, or the field's where the Hub has none.
    auto_class: the class of `transformers` that loads a model for it.
    classes: names of the model classes that have its head.
    shifts: whether the logits of a position predict the next one's label.
    vocabulary: whether the classes are the vocabulary: then tokenizers must agree, and rows are gathered before
        the head; otherwise the classes are the labels of a data set.
    """

    name: str
    auto_class: str
    classes: frozenset[str]
    shifts: bool = False
    vocabulary: bool = True


def _task(name: str, auto_class: str, mapping: Mapping[str, Any], **options: bool) -> Task:
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
    ),
    _task(
        "token-classification",
        "AutoModelForTokenClassification",
        auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        vocabulary=False,
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
    return next((task for task in TASKS if not task.classes.isdisjoint(named)), None)


def find_task(model: nn.Module, argument: str = "model") -> Task:
    """The task of a model, by its class or a class that it derives from.

    Raises:
        TaskError: the model has no head of a supported task, or its classification is not into exclusive classes.
    """
    names = [cls.__name__ for cls in model_class(model).__mro__]
    supported = ", ".join(task.name for task in TASKS)
    for task in TASKS:
        if any(name in task.classes for name in names):
            break
    else:
        raise TaskError(
            argument,
            names[0],
            "has no head of a task that is distilled here.",
            f"Use a model for one of: {supported}.",
        )
    config = plain_model(model).config
    if task is TASKS[0] and not config.is_encoder_decoder:
        return _WITHOUT_DECODER
    kind = getattr(config, "problem_type", None)
    if not task.vocabulary and (kind in ("regression", "multi_label_classification") or (config.num_labels or 0) < 2):
        raise TaskError(
            f"{argument}.config.problem_type",
            kind or "regression",
            "has no distribution over exclusive classes to teach.",
            "Use problem_type='single_label_classification' with two or more labels.",
        )
    return task
