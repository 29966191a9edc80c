"""From what a user gives to batches: texts or examples, of any task."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..batches.collation import ExampleCollator
from ..batches.examples import Examples, fetched
from ..batches.seeds import Collator
from ..errors import DataError, TeacherError
from ..forward.calls import forward_arguments
from ..hub_access import HOW, no_connection
from ..tasks import Task, find_task, require_classes
from ..teachers.loading import TeacherSource, shown_task
from .arguments import first_of

COUNTED = 2048  # examples whose tokens are counted; a model is run on fewer


def task_of(teacher: TeacherSource, loading: Mapping[str, Any]) -> Task:
    """The task of a teacher, by its class or its config.

    Raises:
        TeacherError: no config that can be read, or no head of a task that is distilled.
    """
    if isinstance(teacher, nn.Module):
        return require_classes(find_task(teacher, "teacher"), "teacher", type(teacher).__name__)
    if away := no_connection(teacher, loading):
        raise TeacherError("teacher", teacher, away, HOW)
    if (shown := shown_task(teacher, dict(loading))) is not None:  # of an adapter too
        return require_classes(shown, "teacher", teacher)
    hub = ("revision", "token", "cache_dir", "subfolder", "trust_remote_code", "local_files_only")
    try:
        config = transformers.AutoConfig.from_pretrained(teacher, **{k: v for k, v in loading.items() if k in hub})
    except (OSError, ValueError, TypeError) as error:
        raise TeacherError(
            "teacher", teacher, f"has no config that can be read ({error}).", "Give a Hub id, a path or a model."
        ) from error
    names = config.architectures or []
    raise TeacherError(
        "teacher",
        teacher,
        f"names no class with the head of a task that is distilled ({', '.join(names) or 'none'}).",
        "Load it with the class of the task, such as AutoModelForMaskedLM, and give the model.",
    )


def examples_of(
    dataset: Examples, tokenizer: PreTrainedTokenizerBase | None, model: nn.Module, task: Task
) -> list[object]:
    """Up to about `COUNTED` examples of a data set, evenly spaced, or blocks of its texts.

    Raises:
        DataError: nothing to pick from, or text where labels are needed.
    """
    first = first_of(dataset)
    texts = isinstance(first, str) or (isinstance(first, Mapping) and "text" in first and "input_ids" not in first)
    if texts and (not task.vocabulary or task.auto_class == "AutoModelForSeq2SeqLM"):
        raise DataError("dataset", first, f"is text without labels, for {task.name}.", "Give examples with labels.")
    if texts:
        if tokenizer is None:
            problem = "is needed to read text, and the teacher has no tokenizer."
            raise DataError("processing_class", None, problem, "Give it.")
        examples = fetched(dataset, range(len(dataset)))
        strings = (one["text"] if isinstance(one, Mapping) else str(one) for one in examples)
        dataset = blocks(strings, tokenizer, longest(tokenizer, model))
        if not dataset:
            raise DataError("dataset", first, "does not fill a single block of tokens.", "Give more text.")
    return list(fetched(dataset, spaced(len(dataset), COUNTED)))


def spaced(count: int, samples: int) -> range:
    """At most about `samples` indices of `count`, evenly spaced."""
    return range(0, count, max(1, count // samples))


def longest(tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> int:
    """Tokens of a block: what tokenizer and model take, up to 512."""
    positions = getattr(model.config, "max_position_embeddings", None) or 512
    return int(min(tokenizer.model_max_length, positions, 512))


def blocks(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int) -> list[dict[str, list[int]]]:
    """Texts as blocks of `length` tokens without padding: joined, then cut."""
    strings = [text for text in texts if text.strip()]
    ids = tokenizer(strings, truncation=False, verbose=False)["input_ids"] if strings else []
    joined = list(chain.from_iterable(ids))
    return [{"input_ids": joined[i : i + length]} for i in range(0, len(joined) - length + 1, length)]


def collated(
    examples: Sequence[object], collator: Collator, models: Iterable[nn.Module], batch_size: int, seed: int
) -> list[dict[str, Tensor]]:
    """Batches of what the models read, and labels.

    Raises:
        DataError: batches without labels.
    """
    read = frozenset({"labels", "label", "label_ids"}).union(*(forward_arguments(model) for model in models))
    kept = [{k: v for k, v in one.items() if k in read} if isinstance(one, Mapping) else one for one in examples]
    collate, batches = ExampleCollator(collator, seed), []
    for start in range(0, len(kept), batch_size):
        batch = collate(kept[start : start + batch_size])
        if "labels" not in batch:
            raise DataError(
                "dataset",
                type(examples[0]).__name__,
                f"has no labels: its batches have {', '.join(sorted(batch))}.",
                "Give a data_collator that makes them.",
            )
        batches.append({name: value for name, value in batch.items() if isinstance(value, Tensor)})
    return batches


def special_ids(tokenizer: object) -> frozenset[int]:
    """Ids that stand for no text."""
    return frozenset(getattr(tokenizer, "all_special_ids", None) or ())
