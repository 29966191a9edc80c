"""Grow a larger masked language model from the weaker one you have, and train it with Distillation from Weak Teacher.

    python examples/run_mlm_dwt.py                 # the built-in example: under two minutes on one CPU core
    python examples/run_mlm_dwt.py --baseline      # the same, beside the same model trained from scratch
    python examples/run_mlm_dwt.py --teacher google/bert_uncased_L-2_H-128_A-2 --hidden_size 256 \
        --num_hidden_layers 4 --dataset_name Salesforce/wikitext --dataset_config_name wikitext-2-raw-v1
    python examples/run_mlm_dwt.py my_run.yaml --max_steps 500    # flags from a YAML or JSON file, then more flags

The built-in example ends at least 0.25 nats below its teacher on held-out text, and leaves a plain transformers
checkpoint in ./student. Its last lines are guesses for masked words. All flags of `transformers.TrainingArguments` and
`hf_dwt.DistillationArguments` work too.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_dwt import DistillationError
from hf_dwt.programs import PROGRAMS, run_program
from hf_dwt.programs.flags import Defaults, Flags
from hf_dwt.programs.flags import parse as parse_flags

# ---- the built-in example ----
# These values replace the defaults below when you name neither teacher nor student (they suit that tiny teacher, not
# yours), and this text is used when you name no data. Any flag you give wins.

DATA = Path(__file__).resolve().parent / "data"
EXAMPLE: dict[str, Any] = {
    "teacher": [str(DATA / "weak_teacher")],  # 2 layers x 64, made by make_weak_teacher.py
    "hidden_size": 128,
    "max_steps": 600,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "learning_rate": 4e-3,  # best for this start; from scratch half of it is (docs/paper.md)
    "baseline_learning_rate": 2e-3,
    "warmup_steps": 0.05,  # below 1: a share of the steps
    "weight_decay": 0.01,
    "logging_steps": 40,
    "eval_strategy": "steps",
    "eval_steps": 40,
    "eval_on_start": True,
    "save_steps": 100,
    "save_total_limit": 1,
    "fill_mask": "we must help the american [MASK].|i ask the [MASK] to pass this bill.|we have work [MASK] do.",
}
EXAMPLE_TEXT = {"train_file": str(DATA / "train.txt"), "validation_file": str(DATA / "valid.txt")}
DEFAULTS = Defaults(EXAMPLE, EXAMPLE_TEXT)
PURPOSE = (__doc__ or "").split("\n")[0]


def parse(argv: Sequence[str]) -> Flags:
    return parse_flags(PROGRAMS["mlm"], argv, DEFAULTS, PURPOSE)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_program(PROGRAMS["mlm"], argv, defaults=DEFAULTS, purpose=PURPOSE)


if __name__ == "__main__":
    try:
        main()
    except DistillationError as error:
        sys.exit(f"error: {error}")
