"""A causal language model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .options import DataArguments, flag
from .reading import text_blocks
from .record import Model, Program

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import DataCollator


@dataclass
class CausalArguments(DataArguments):
    """Those of all programs, and of what is shown in the end."""

    prompts: str | None = flag("Beginnings that the trained student goes on with, separated by |.")
    new_tokens: int = flag("How many tokens it adds to each.", 24)


def _blocks(options: CausalArguments, model: Model) -> "DatasetDict":
    return text_blocks(options, model).remove_columns("special_tokens_mask")  # which only masks want


def _labels(options: CausalArguments, model: Model) -> "DataCollator":
    from transformers import DataCollatorForLanguageModeling

    if model.tokenizer.pad_token is None:  # blocks are of one length, but the collator asks
        model.tokenizer.pad_token = model.tokenizer.eos_token
    return DataCollatorForLanguageModeling(model.tokenizer, mlm=False)


def _go_on(options: CausalArguments, folder: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    for prompt in options.prompts.split("|") if options.prompts else ():
        given = tokenizer(prompt, return_tensors="pt")
        settings = {"max_new_tokens": options.new_tokens, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        made = model.generate(given["input_ids"], attention_mask=given["attention_mask"], **settings)
        print(f"{prompt} ... {tokenizer.decode(made[0][given['input_ids'].shape[1] :], skip_special_tokens=True)}")


CLM = Program(
    "clm",
    "causal language model",
    _blocks,
    "how it goes on with each of --prompts",
    auto_class="AutoModelForCausalLM",
    options=CausalArguments,
    collate=_labels,
    show=_go_on,
)
