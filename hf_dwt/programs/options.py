"""Flags that all programs have, beside those of `DistillationArguments`. Imports neither torch nor transformers."""

from dataclasses import dataclass, field
from typing import Any

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def flag(text: str, default: Any = None) -> Any:
    """A field of a dataclass of flags, with its help."""
    return field(default=default, metadata={"help": text})


_TEACHERS = "Hub id or path of the weak teacher; --teacher A --teacher B for several, the student growing from A."


@dataclass
class ModelArguments:
    """Which models: see the help of each field."""

    program: str | None = flag("What a file of flags is for: the name of a program of `hf-dwt train`.")
    teacher: list[str] | None = field(default=None, metadata={"help": _TEACHERS, "action": "extend"})
    student: str | None = flag("Train this checkpoint instead of growing one; without --teacher, alone.")
    hidden_size: int | None = flag("Of the student; sizes not given follow.")
    num_hidden_layers: int | None = flag("Of the student.")
    num_attention_heads: int | None = flag("Of the student.")
    intermediate_size: int | None = flag("Of the student.")
    init: str = flag("How the student starts: see hf_dwt.from_weak_teacher.", "remap")
    rest: str | None = flag("What fills the weights that the teacher does not have: see there.")
    baseline: bool = flag("Also train the same architecture from scratch, without a teacher.", False)
    baseline_learning_rate: float | None = flag("Its own learning rate; default: the student's.")


@dataclass
class DataArguments:
    """Which data: see the help of each field."""

    dataset_name: str | None = flag("Any dataset of the datasets library.")
    dataset_config_name: str | None = flag("Its configuration.")
    train_split: str = flag("Its split to train on.", "train")
    validation_split: str = flag("Its split to hold out.", "validation")
    text_column: str = flag("Its column that holds the text.", "text")
    train_file: str | None = flag(
        "Instead of a dataset: a text file, one paragraph a line; or JSON lines, CSV, parquet."
    )
    validation_file: str | None = flag("Another, held out.")
    holdout: float = flag("Share of the training data that is held out if nothing else is.", 0.05)
    max_seq_length: int | None = flag("Default: what tokenizer and model take, up to 512.")
    curve_samples: int = flag("Held-out examples evaluated while training; the final figures use all.", 512)
