"""A causal language model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


def causal_blocks(options: CausalArguments, model: Model) -> "DatasetDict":
    """Blocks of text, of token ids alone."""
    return text_blocks(options, model).remove_columns("special_tokens_mask")  # which only masks want


def next_tokens(options: CausalArguments, model: Model) -> "DataCollator":
    """The collator that makes labels of all tokens."""
    from transformers import DataCollatorForLanguageModeling

    if model.tokenizer.pad_token is None:  # blocks are of one length, but the collator asks
        model.tokenizer.pad_token = model.tokenizer.eos_token
    return DataCollatorForLanguageModeling(model.tokenizer, mlm=False)


def go_on(options: CausalArguments, folder: str, model: Any) -> None:
    """Print what a model, whose tokenizer lies in a folder, goes on with."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt in options.prompts.split("|") if options.prompts else ():
        given = tokenizer(prompt, return_tensors="pt")
        ids, settings = given["input_ids"], {"max_new_tokens": options.new_tokens, "do_sample": False}
        settings["pad_token_id"] = tokenizer.pad_token_id
        made = model.generate(input_ids=ids, attention_mask=given["attention_mask"], **settings)
        print(f"{prompt} ... {tokenizer.decode(made[0][ids.shape[1] :], skip_special_tokens=True)}")


def _show(options: CausalArguments, folder: str) -> None:
    from transformers import AutoModelForCausalLM

    go_on(options, folder, AutoModelForCausalLM.from_pretrained(folder))


CLM = Program(
    "clm",
    "causal language model",
    causal_blocks,
    "how it goes on with each of --prompts",
    auto_class="AutoModelForCausalLM",
    options=CausalArguments,
    collate=next_tokens,
    show=_show,
)
