"""The record of a program. Imports neither torch nor transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..parts import Part
from .options import DataArguments

if TYPE_CHECKING:
    from datasets import DatasetDict
    from peft import PeftConfig
    from transformers import DataCollator, PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Model:
    """What a program's data depend on.

    tokenizer: of the data.
    config: of the student.
    length: tokens of an example, at most.
    seed: of whatever is drawn.
    """

    tokenizer: "PreTrainedTokenizerBase"
    config: "PreTrainedConfig"
    length: int
    seed: int


Examples = Callable[[Any, Model], "DatasetDict"]
Collate = Callable[[Any, Model], "DataCollator"]


@dataclass(frozen=True)
class Program(Part[[Any, Model], "DatasetDict"]):
    """A task's program. Its function makes examples of a data set: splits "train" and "validation".

    The function gets an instance of `options` first, as `collate`, `show` and `loading` do. The promise says what the
    last lines of the program show.

    Args:
        auto_class: the class of `transformers` that loads its models.
        options: its flags of data, a dataclass.
        collate: makes the collator.
        show: prints what the saved student, loaded by stock classes alone from a folder, makes of some input.
        loading: arguments of `from_pretrained` for a checkpoint that is given as the student, by its id or path.
        adapter: makes the config of the adapter that learns in place of the whole student.
        figures: those of an evaluation that its table shows.
        unit: what its examples are, in results.json.
    """

    auto_class: str = ""
    options: type[DataArguments] = DataArguments
    collate: Collate = None  # type: ignore[assignment]  # a field behind those of Part needs a default
    show: Callable[[Any, str], None] = lambda options, folder: None
    loading: Callable[[Any, str], dict[str, Any]] = lambda options, checkpoint: {}
    adapter: Callable[[Any], "PeftConfig"] | None = None
    figures: tuple[str, ...] = ("loss", "perplexity", "accuracy")
    unit: str = "blocks"
