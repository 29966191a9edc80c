"""Train a LoRA adapter of a larger causal language model with Distillation from Weak Teacher.

    python examples/run_lora_dwt.py                # the built-in example
    python examples/run_lora_dwt.py --teacher me/weak-but-fine-tuned --student HuggingFaceTB/SmolLM2-360M \
        --dataset_name Salesforce/wikitext --dataset_config_name wikitext-2-raw-v1
    python examples/run_lora_dwt.py my_run.yaml --lora_r 8    # flags from a YAML or JSON file, then more flags

The built-in example grows its student exactly from the tiny teacher of run_clm_dwt.py, and trains an adapter of it
alone; ./outputs/lora has the adapter, and ./outputs/lora/base the student that it belongs to, and peft alone loads
both. Its last lines are the size of the
adapter, and how the student goes on with beginnings of sentences. All flags of `transformers.TrainingArguments` and
`hf_dwt.DistillationArguments` work too.
"""

import sys
from collections.abc import Sequence
from typing import Any

from run_clm_dwt import EXAMPLE_TEXT, TEACHER, TRAINING, make_teacher

from hf_dwt import DistillationError
from hf_dwt.programs import PROGRAMS, run_program
from hf_dwt.programs.flags import Defaults

# ---- the built-in example: values where you name neither teacher nor student, and text where you name no data ----

EXAMPLE: dict[str, Any] = {
    "teacher": [TEACHER],
    "hidden_size": 128,
    "init": "clone",  # an adapter cannot repair a start that is worse than the teacher
    "max_steps": 300,
    **TRAINING,
    "eval_strategy": "steps",
    "eval_steps": 100,
    "output_dir": "outputs/lora",
    "prompts": "we must|the whale|my fellow",
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    defaults, purpose = Defaults(EXAMPLE, EXAMPLE_TEXT, make_teacher), (__doc__ or "").split("\n")[0]
    return run_program(PROGRAMS["lora"], argv, defaults=defaults, purpose=purpose)


if __name__ == "__main__":
    try:
        main()
    except DistillationError as error:
        sys.exit(f"error: {error}")
