"""A classifier of texts into exclusive classes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .options import DataArguments, flag
from .reading import load_splits, require_column
from .record import Model, Program

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import DataCollator, PreTrainedConfig


@dataclass
class ClassificationArguments(DataArguments):
    """Those of all programs, and of labels."""

    label_column: str = flag("The column of the labels: names or numbers.", "label")
    classify: str | None = flag("Texts that the trained student classifies, separated by |.")


def _labelled(options: ClassificationArguments, model: Model) -> "DatasetDict":
    """Texts as token ids, cut to `model.length`, with labels as the student's config numbers them.

    Raises:
        DataError: no such column, or labels that the student has no class for.
    """
    splits = load_splits(options, model.seed)
    require_column(splits, "text_column", options.text_column)
    names = _names(splits, options.label_column)
    classes = {str(name): int(number) for name, number in (model.config.label2id or {}).items()}
    if not _are_named(model.config) and len(classes) == len(names):
        classes = {name: number for number, name in enumerate(names.values())}
    if strange := [name for name in names.values() if name not in classes]:
        problem = f"has labels that the student has no class for: {', '.join(strange[:5])}."
        fix = f"Its classes are {', '.join(classes)}: rename the labels, or take models of these."
        raise DataError("--label_column", options.label_column, problem, fix)

    def tokenised(batch: dict[str, list[Any]]) -> dict[str, Any]:
        ids = model.tokenizer(batch[options.text_column], truncation=True, max_length=model.length)
        return {**ids, "labels": [classes[names[value]] for value in batch[options.label_column]]}

    return splits.map(tokenised, batched=True, remove_columns=splits["train"].column_names, desc="Tokenising")


def _names(splits: "DatasetDict", column: str) -> dict[Any, str]:
    """Value of a label -> its name, in the order of the values."""
    require_column(splits, "label_column", column)
    values = sorted({value for split in splits.values() for value in split.unique(column)})
    named = getattr(splits["train"].features[column], "names", None)
    return {value: named[value] if named else str(value) for value in values}


def _are_named(config: "PreTrainedConfig") -> bool:
    """Whether the classes of a config have names of their own, not LABEL_0 and so on."""
    return not all(name == f"LABEL_{number}" for number, name in (config.id2label or {}).items())


def _new_head(options: ClassificationArguments, checkpoint: str) -> dict[str, Any]:
    """The classes of the data for a checkpoint that has none."""
    from transformers import AutoConfig

    if _are_named(AutoConfig.from_pretrained(checkpoint)):
        return {}
    names = [*_names(load_splits(options, 0), options.label_column).values()]
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def _padded(options: ClassificationArguments, model: Model) -> "DataCollator":
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(model.tokenizer)


def _classify(options: ClassificationArguments, folder: str) -> None:
    from transformers import pipeline

    texts = options.classify.split("|") if options.classify else []
    if texts:
        for text, found in zip(texts, pipeline("text-classification", model=folder)(texts), strict=True):
            print(f"{text}  {found['label']} {found['score']:.0%}")


CLASSIFICATION = Program(
    "classification",
    "classifier of texts",
    _labelled,
    "the classes of the texts of --classify",
    auto_class="AutoModelForSequenceClassification",
    options=ClassificationArguments,
    collate=_padded,
    show=_classify,
    loading=_new_head,
    figures=("loss", "accuracy"),
    unit="examples",
)
