"""Grow a larger causal language model from the weaker one you have, and train it with Distillation from Weak Teacher.

    python examples/run_clm_dwt.py                 # the built-in example: under two minutes on one CPU core
    python examples/run_clm_dwt.py --teacher HuggingFaceTB/SmolLM2-135M --num_hidden_layers 40 \
        --dataset_name Salesforce/wikitext --dataset_config_name wikitext-2-raw-v1
    python examples/run_clm_dwt.py my_run.yaml --max_steps 500    # flags from a YAML or JSON file, then more flags

The built-in example trains a tiny weak teacher first, on the same text, and keeps it in ./outputs/clm-teacher. Its
student ends at least half a nat a token below that teacher on held-out text, as a plain transformers checkpoint in
./outputs/clm. Its last lines go on with beginnings of sentences. All flags of `transformers.TrainingArguments` and
`hf_dwt.DistillationArguments` work too.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_dwt import DistillationError
from hf_dwt.programs import PROGRAMS, run_program
from hf_dwt.programs.flags import Defaults

# ---- the built-in example: values where you name neither teacher nor student, and text where you name no data ----

DATA = Path(__file__).resolve().parent / "data"
TEACHER = "outputs/clm-teacher"
EXAMPLE_TEXT = {"train_file": str(DATA / "train.txt"), "validation_file": str(DATA / "valid.txt")}
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "learning_rate": 4e-3,
    "warmup_steps": 0.05,  # below 1: a share of the steps
    "weight_decay": 0.01,
    "logging_steps": 50,
    "save_steps": 200,
    "save_total_limit": 1,
}
TEACHER_STEPS = 250
EXAMPLE: dict[str, Any] = {
    "teacher": [TEACHER],
    "hidden_size": 128,
    "max_steps": 400,
    **TRAINING,
    "eval_strategy": "steps",
    "eval_steps": 100,
    "output_dir": "outputs/clm",
    "prompts": "we must|the whale|my fellow",
}


def make_teacher() -> None:
    """A Llama of 2 layers x 64 on the shipped tokenizer, trained by the same program: a student without a teacher."""
    if (Path(TEACHER) / "results.json").is_file():
        return
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    print("The weak teacher first.")
    tokenizer = AutoTokenizer.from_pretrained(DATA / "weak_teacher")
    begin = tokenizer.cls_token_id
    # A prompt goes on, so that nothing may stand behind it.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", begin)]
    )
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ids: dict[str, Any] = {
        "bos_token_id": begin,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    set_seed(0)
    start = f"{TEACHER}-start"
    LlamaForCausalLM(LlamaConfig(vocab_size=512, max_position_embeddings=64, **sizes, **ids)).save_pretrained(start)
    tokenizer.save_pretrained(start)
    flags = {"student": start, "output_dir": TEACHER, "max_steps": TEACHER_STEPS, **TRAINING, **EXAMPLE_TEXT}
    run_program(PROGRAMS["clm"], [f"--{name}={value}" for name, value in flags.items()])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    defaults, purpose = Defaults(EXAMPLE, EXAMPLE_TEXT, make_teacher), (__doc__ or "").split("\n")[0]
    return run_program(PROGRAMS["clm"], argv, defaults=defaults, purpose=purpose)


if __name__ == "__main__":
    try:
        main()
    except DistillationError as error:
        sys.exit(f"error: {error}")
