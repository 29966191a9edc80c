"""Data sets by name or from files, and text as blocks of tokens."""

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .options import DataArguments
from .record import Model

if TYPE_CHECKING:
    from datasets import DatasetDict

_READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def load_splits(options: DataArguments, seed: int) -> "DatasetDict":
    """The data set or files that were named, as splits "train" and "validation".

    Args:
        options: what was named.
        seed: of the examples that are held out where no split is.
    """
    from datasets import DatasetDict, load_dataset

    train, held_out = options.train_split, options.validation_split
    if options.dataset_name:
        raw: Any = load_dataset(options.dataset_name, options.dataset_config_name)
    else:
        given = {train: options.train_file, held_out: options.validation_file}
        files = {split: file for split, file in given.items() if file}
        raw = load_dataset(_READERS.get(Path(files[train]).suffix, "text"), data_files=files)
    if held_out not in raw:
        parts = raw[train].train_test_split(options.holdout, seed=seed)
        raw = {train: parts["train"], held_out: parts["test"]}
    return DatasetDict({"train": raw[train], "validation": raw[held_out]})


def require_column(splits: "DatasetDict", flag: str, name: str) -> None:
    """Raise a DataError for a column that a flag names and that the data do not have."""
    if name not in (columns := splits["train"].column_names):
        raise DataError(
            f"--{flag}", name, "is no column of the data.", f"--{flag} may be one of {', '.join(columns)}."
        )


def text_blocks(options: DataArguments, model: Model) -> "DatasetDict":
    """Training and held-out text as blocks of `model.length` tokens without padding.

    Raises:
        DataError: no column of the text, or less text than a block.
    """
    splits = load_splits(options, model.seed)
    require_column(splits, "text_column", options.text_column)

    def cut(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        # Joined first and cut afterwards: no paragraph is too long, so the tokenizer need not warn.
        texts = batch[options.text_column]
        text = model.tokenizer(texts, truncation=False, verbose=False, return_special_tokens_mask=True)
        joined = {name: [*chain.from_iterable(text[name])] for name in ("input_ids", "special_tokens_mask")}
        starts = range(0, len(joined["input_ids"]) - model.length + 1, model.length)
        return {name: [values[i : i + model.length] for i in starts] for name, values in joined.items()}

    blocks = splits.map(cut, batched=True, remove_columns=splits["train"].column_names, desc="Tokenising")
    if empty := [split for split in blocks if not len(blocks[split])]:
        problem = f"The {empty[0]} text does not fill a block of {model.length} tokens."
        raise DataError("--max_seq_length", options.max_seq_length, problem, "Lower it, or give more text.")
    return blocks
