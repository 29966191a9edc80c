"""A masked language model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .options import DataArguments, flag
from .reading import text_blocks
from .record import Model, Program

if TYPE_CHECKING:
    from transformers import DataCollator


@dataclass
class MaskedArguments(DataArguments):
    """Those of all programs, and of masks."""

    mlm_probability: float = flag("Share of tokens to predict.", 0.15)
    fill_mask: str | None = flag("Sentences with [MASK] that the trained student completes, separated by |.")


def _masks(options: MaskedArguments, model: Model) -> "DataCollator":
    from transformers import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(model.tokenizer, mlm_probability=options.mlm_probability)


def _fill(options: MaskedArguments, folder: str) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder)
    fill = pipeline("fill-mask", model=AutoModelForMaskedLM.from_pretrained(folder), tokenizer=tokenizer, top_k=3)
    for sentence in options.fill_mask.split("|") if options.fill_mask else ():
        guesses = fill(sentence.replace("[MASK]", tokenizer.mask_token))
        print(f"{sentence}  " + ", ".join(f"{guess['token_str']} {guess['score']:.0%}" for guess in guesses))


MLM = Program(
    "mlm",
    "masked language model",
    text_blocks,
    "guesses for the masks of --fill_mask",
    auto_class="AutoModelForMaskedLM",
    options=MaskedArguments,
    collate=_masks,
    show=_fill,
)
