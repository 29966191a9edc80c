"""Small tokenizers of three families, trained on the shipped corpus."""

import json
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

DATA = Path(__file__).parents[1] / "examples" / "data"
FAMILIES = ("wordpiece", "byte-level", "unigram", "bpe with byte tokens")


def lines(file: str = "train.txt", count: int = 800) -> list[str]:
    return (DATA / file).read_text(encoding="utf-8").splitlines()[:count]


@cache
def trained(family: str, size: int = 700) -> PreTrainedTokenizerFast:
    """BERT's recipe, GPT-2's, T5's or Llama's; it is shared between tests: not to be changed."""
    if family == "wordpiece":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.train_from_iterator(lines(), trainers.WordPieceTrainer(vocab_size=size, special_tokens=special))
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    elif family == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(lines(), trainer)
        names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    elif family == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        special = ["<pad>", "</s>", "<unk>", "<mask>"]
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False
        )
        tokenizer.train_from_iterator(lines(), trainer)
        names = dict(zip(("pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(steps)
        # Llama has no pre-tokenizer; without one training would make pieces of several words.
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        special = ["<unk>", "<s>", "</s>"]
        first = special + [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=first, show_progress=False)
        tokenizer.train_from_iterator(lines(), trainer)
        stored = json.loads(tokenizer.to_str())  # tokens for bytes are not special
        stored["added_tokens"], stored["pre_tokenizer"] = stored["added_tokens"][: len(special)], None
        tokenizer = Tokenizer.from_str(json.dumps(stored))
        names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
