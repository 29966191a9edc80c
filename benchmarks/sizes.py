"""The sizes that are compared: data, and the models and batches made from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Size:
    """One student, its teacher, and the batches they see.

    student, teacher: (layers, hidden size).
    tokens: (examples, positions) of a batch.
    padding: examples of unequal length, padded to the longest of their batch.
    turn: steps in a row that a contender makes before the next one has its turn.
    contenders: the names that run at this size, or None for all that can.
    """

    family: str
    student: tuple[int, int]
    teacher: tuple[int, int]
    vocabulary: int
    tokens: tuple[int, int] = (8, 128)
    padding: bool = False
    turn: int = 1
    contenders: tuple[str, ...] | None = None


LARGEST = ("ours", "stock", "dense")
BARE = ("ours", "alone", "hidden", "sampled", "stock", "layers", "dense")

SIZES: dict[str, Size] = {
    "tiny": Size("bert", (4, 128), (2, 64), 8192, turn=4),
    "tiny-padded": Size("bert", (4, 128), (2, 64), 8192, padding=True, turn=4, contenders=BARE),
    "mini": Size("bert", (4, 256), (2, 128), 30522),
    "mini-padded": Size("bert", (4, 256), (2, 128), 30522, padding=True, contenders=BARE),
    "small": Size("bert", (4, 512), (4, 256), 30522, contenders=BARE),
    "base": Size("bert", (12, 768), (4, 768), 30522, contenders=LARGEST),
    "base-6x384": Size("bert", (12, 768), (6, 384), 30522, contenders=LARGEST),
    "gpt2": Size("gpt2", (4, 256), (2, 128), 50257, tokens=(8, 512), contenders=("ours", "dense")),
    # Half the examples: with 8, a run of all of these was stopped for want of memory at 19.6 GB.
    "gpt2-half": Size(
        "gpt2", (4, 256), (2, 128), 50257, tokens=(4, 512), contenders=("ours", "stock", "dense", "gkd")
    ),
    # Half the positions of gpt2: every tensor of logits of the dense step takes 1.2 GB, and it holds several.
    "qwen": Size("qwen", (4, 256), (2, 128), 151936, tokens=(4, 512), contenders=("ours", "dense")),
}
# Run when named, or on a GPU: what a GPU is bought for.
CAUSAL = ("ours", "alone", "stock", "dense", "torchdistill", "textbrewer", "modelopt", "liger", "gkd")
LARGE: dict[str, Size] = {
    "base-large": Size("bert", (12, 768), (6, 384), 30522, tokens=(128, 128)),
    "gpt2-large": Size("gpt2", (12, 768), (6, 384), 50257, tokens=(16, 512), contenders=CAUSAL),
    "qwen-large": Size("qwen", (12, 768), (6, 384), 151936, tokens=(8, 512), contenders=(*LARGEST, "liger", "gkd")),
}


def _bert(layers: int, hidden: int, vocabulary: int, positions: int) -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64 or 1,
            intermediate_size=4 * hidden,
            max_position_embeddings=positions,
        )
    )


def _gpt2(layers: int, hidden: int, vocabulary: int, positions: int) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=vocabulary, n_embd=hidden, n_layer=layers, n_head=hidden // 64, n_positions=positions)
    )


def _qwen(layers: int, hidden: int, vocabulary: int, positions: int) -> PreTrainedModel:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=max(1, hidden // 128),
            head_dim=64,
            intermediate_size=3 * hidden,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


FAMILIES: dict[str, Callable[[int, int, int, int], PreTrainedModel]] = {"bert": _bert, "gpt2": _gpt2, "qwen": _qwen}


def models(size: Size) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The student and its teacher, random: what they say does not change what it costs."""
    torch.manual_seed(0)
    build = FAMILIES[size.family]
    student, teacher = (build(*shape, size.vocabulary, size.tokens[1]) for shape in (size.student, size.teacher))
    return student, teacher.eval().requires_grad_(False)


def examples(size: Size, count: int) -> list[dict[str, list[int]]]:
    """`count` tokenised examples: of full length, or of lengths as sentences and short paragraphs have them.

    The lengths are log-normal with median 0.4 of the full length and deviation 0.6, cut off at the full length: most
    batches of 8 are nearly as long as the longest allowed, and a little less than half of their positions is padding.
    """
    generator = torch.Generator().manual_seed(1)
    longest = size.tokens[1]
    lengths = torch.full((count,), longest)
    if size.padding:
        drawn = 0.4 * longest * torch.exp(0.6 * torch.randn(count, generator=generator))
        lengths = drawn.long().clamp(4, longest)
    return [
        {"input_ids": torch.randint(8, size.vocabulary, (int(length),), generator=generator).tolist()}
        for length in lengths
    ]


def collator(size: Size) -> Callable[[list[Any]], dict[str, Tensor]]:
    """The stock collator, with a generator of its own, so that every contender sees the same masks."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    special = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "mask_token")}
    words = [*special.values(), *(f"w{number}" for number in range(size.vocabulary - len(special)))]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, special["unk_token"])),
        **special,
    )
    masked = size.family == "bert"
    return DataCollatorForLanguageModeling(
        tokenizer, mlm=masked, mlm_probability=MASKED_SHARE if masked else None, seed=0 if masked else None
    )
