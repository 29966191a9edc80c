"""Data sets that a file of stages names: text that is loaded by `datasets` and tokenised."""

import inspect
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from ..errors import DataError, first_line, raise_all, unknown_argument

_OWN = {"text_column": "text", "label_column": None, "max_length": None}
_LONGEST = 512


def load_text(given: object, tokenizer: PreTrainedTokenizerBase, positions: int | None) -> datasets.Dataset:
    """Tokenised text: blocks without padding, or with a column of labels an example for each text.

    Args:
        given: a text file, one paragraph a line; or a dict of arguments of `datasets.load_dataset`, with `split`, and
            of `text_column` ("text"), `label_column` (of classes; none for language models) and `max_length`.
        positions: that the model has; None where it does not say.

    Raises:
        DataError: it cannot be loaded, lacks a column, or does not fill a block.
    """
    spec = _spec(given)
    own = {name: spec.pop(name, default) for name, default in _OWN.items()}
    try:
        loaded = datasets.load_dataset(**spec)
    except Exception as error:  # of whichever reader or server it is
        problem = f"cannot be loaded: {first_line(error)}"
        raise DataError("path", spec["path"], problem, "Give what load_dataset takes.") from error
    if isinstance(loaded, datasets.DatasetDict | datasets.IterableDatasetDict):
        problem = f"is open, and there are {', '.join(map(str, loaded))}."
        raise DataError("split", None, problem, "Name one.")
    for name in ("text_column", "label_column"):
        if own[name] is not None and own[name] not in loaded.column_names:
            problem = f"is no column; there are {', '.join(loaded.column_names)}."
            raise DataError(name, own[name], problem, "Name one of them.")
    most = min(number for number in (tokenizer.model_max_length, positions, _LONGEST) if number)
    length = own["max_length"] or most
    return _examples(loaded, tokenizer, own["text_column"], own["label_column"], length)


def _spec(given: object) -> dict[str, Any]:
    """Arguments of `load_dataset`, with those of `_OWN` that are given."""
    if isinstance(given, str):
        given = {"path": "text", "data_files": given, "split": "train"}
        if not Path(given["data_files"]).is_file():
            fix = "Give a file of text, or a dict of arguments of load_dataset."
            raise DataError("file", given["data_files"], "There is no such file.", fix)
    if not isinstance(given, Mapping) or "path" not in given:
        fix = "Give a file of text, or a dict of arguments of load_dataset with `path`."
        raise DataError("path", given, "is missing: no data set is named.", fix)
    known = [name for name in inspect.signature(datasets.load_dataset).parameters if "config_kwargs" not in name]
    known += list(_OWN)
    foreign = {str(key): value for key, value in given.items() if key not in known}
    raise_all([unknown_argument(key, value, known, "load_dataset", DataError) for key, value in foreign.items()])
    return {str(key): value for key, value in given.items()}


def _examples(
    loaded: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, text: str, label: str | None, length: int
) -> datasets.Dataset:
    def one_each(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        return {**tokenizer(batch[text], truncation=True, max_length=length), "labels": batch[label or ""]}

    def blocks(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        # Joined first and cut afterwards: no paragraph is too long, so the tokenizer need not warn.
        read = tokenizer(batch[text], truncation=False, verbose=False, return_special_tokens_mask=True)
        joined = {name: list(chain.from_iterable(read[name])) for name in ("input_ids", "special_tokens_mask")}
        starts = range(0, len(joined["input_ids"]) - length + 1, length)
        return {name: [values[i : i + length] for i in starts] for name, values in joined.items()}

    make = blocks if label is None else one_each
    made = loaded.map(make, batched=True, remove_columns=loaded.column_names, desc="Tokenising")
    if not len(made):
        problem = f"holds no example: its text does not fill a block of {length} tokens."
        raise DataError("max_length", length, problem, "Lower it, or give more text.")
    return made
