"""An adapter of a causal language model: LoRA, by peft."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .clm import CausalArguments, causal_blocks, go_on, next_tokens
from .options import flag
from .record import Program

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass
class LoraArguments(CausalArguments):
    """Those of causal LMs, and of the adapter."""

    lora_r: int = flag("Rank of the adapter.", 16)
    lora_alpha: int = flag("Its scale, times the rank.", 32)
    lora_target_modules: str = flag("Names of the modules that it changes, separated by commas.", "all-linear")


def _lora(options: LoraArguments) -> "PeftConfig":
    from peft import LoraConfig, TaskType

    names = options.lora_target_modules.split(",")
    return LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        target_modules=names[0] if names == ["all-linear"] else names,
        task_type=TaskType.CAUSAL_LM,
    )


def _show(options: LoraArguments, folder: str) -> None:
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(folder, is_trainable=True)
    learnt, whole = model.get_nb_trainable_parameters()
    print(f"The adapter has {learnt:,} of {whole:,} parameters.")
    go_on(options, folder, model.eval())


LORA = Program(
    "lora",
    "LoRA adapter of a causal language model",
    causal_blocks,
    "the size of the adapter, and how it goes on with each of --prompts",
    auto_class="AutoModelForCausalLM",
    options=LoraArguments,
    collate=next_tokens,
    show=_show,
    adapter=_lora,
)
