"""Grow a larger classifier from the weaker one you have, and train it with Distillation from Weak Teacher.

    python examples/run_classification_dwt.py      # the built-in example: about a minute on one CPU core
    python examples/run_classification_dwt.py --teacher me/weak-classifier --num_hidden_layers 6 \
        --dataset_name stanfordnlp/imdb --validation_split test
    python examples/run_classification_dwt.py my_run.yaml --max_steps 500   # flags from a YAML or JSON file, then more

The built-in example tells a speech from a novel by eight words: it cuts the shipped text into labelled pieces, and
fine-tunes the shipped masked LM on them as the weak teacher, in ./outputs/classification-teacher. Its student ends
with a lower held-out loss than that teacher, as a plain transformers checkpoint in ./outputs/classification.
Its last lines are classes of two texts. All flags of `transformers.TrainingArguments` and
`hf_dwt.DistillationArguments` work too.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_dwt import DistillationError
from hf_dwt.programs import PROGRAMS, run_program
from hf_dwt.programs.flags import Defaults

# ---- the built-in example: values where you name neither teacher nor student, and data where you name none ----

DATA = Path(__file__).resolve().parent / "data"
FOLDER = Path("outputs/classification-data")
TEACHER = "outputs/classification-teacher"
EXAMPLE_TEXT = {"train_file": str(FOLDER / "train.jsonl"), "validation_file": str(FOLDER / "valid.jsonl")}
# The first words of the novel, which stands behind the speeches in each file.
NOVEL = {"train": "Call me Ishmael.", "valid": "It was a clear steel-blue day."}
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "learning_rate": 2e-3,
    "warmup_steps": 0.05,  # below 1: a share of the steps
    "weight_decay": 0.01,
    "logging_steps": 50,
    "save_steps": 200,
    "save_total_limit": 1,
}
TEACHER_STEPS = 60
EVERY = 32  # words from the beginning of a piece to that of the next
EXAMPLE: dict[str, Any] = {
    "teacher": [TEACHER],
    "hidden_size": 128,
    "max_steps": 400,
    **TRAINING,
    "eval_strategy": "steps",
    "eval_steps": 100,
    "output_dir": "outputs/classification",
    "classify": "we will lower taxes for families this year|the captain looked at the sea and was silent",
}


def make_data() -> None:
    """Pieces of eight words of each book as JSON lines, each with its label."""
    if (FOLDER / "valid.jsonl").is_file():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for split, first in NOVEL.items():
        lines = (DATA / f"{split}.txt").read_text(encoding="utf-8").splitlines()
        begin = next(number for number, line in enumerate(lines) if line.startswith(first))
        rows = []
        for number, line in enumerate(lines):
            words, label = line.split(), "novel" if number >= begin else "speech"
            pieces = (words[i : i + 8] for i in range(0, len(words) - 7, EVERY))
            rows += [json.dumps({"text": " ".join(piece), "label": label}) for piece in pieces]
        (FOLDER / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")


def make_teacher() -> None:
    """The shipped masked LM, fine-tuned for a few steps by the same program: a student without a teacher."""
    if (Path(TEACHER) / "results.json").is_file():
        return
    make_data()  # the student may have data of yours
    print("The weak teacher first.")
    flags = {"student": DATA / "weak_teacher", "output_dir": TEACHER, "max_steps": TEACHER_STEPS}
    flags |= {**TRAINING, **EXAMPLE_TEXT}
    run_program(PROGRAMS["classification"], [f"--{name}={value}" for name, value in flags.items()])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    defaults = Defaults(EXAMPLE, EXAMPLE_TEXT, make_teacher, make_data)
    purpose = (__doc__ or "").split("\n")[0]
    return run_program(PROGRAMS["classification"], argv, defaults=defaults, purpose=purpose)


if __name__ == "__main__":
    try:
        main()
    except DistillationError as error:
        sys.exit(f"error: {error}")
