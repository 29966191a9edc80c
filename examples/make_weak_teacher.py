"""Train the weak teacher that ships in examples/data/weak_teacher, with stock transformers and nothing of hf_dwt.

    OMP_NUM_THREADS=1 python examples/make_weak_teacher.py

A ModernBERT for masked language modelling: 2 layers, hidden size 64, 512 WordPieces, trained from scratch on
examples/data/train.txt. ModernBERT, because a BERT of this size learns little but frequencies for thousands of steps.

About 70 s on one CPU core with these defaults (1,500 steps, seed 0); examples/data/README.md has the held-out loss.
How weak it is depends on the steps over which the learning rate falls: half a nat more with 1,000, a quarter less with
2,000.
"""

import argparse
import json
import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

# A model this small runs up to ten times slower on two threads than on one, and the sum of floats depends on them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DATA = Path(__file__).resolve().parent / "data"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=DATA / "weak_teacher")
    parser.add_argument("--train_file", type=Path, default=DATA / "train.txt", help="text, one paragraph a line")
    parser.add_argument("--valid_file", type=Path, default=DATA / "valid.txt")
    parser.add_argument("--max_steps", type=int, default=1500, help="fewer steps: a weaker teacher")
    parser.add_argument("--model_type", choices=("modernbert", "bert"), default="modernbert")
    parser.add_argument("--hidden_size", type=int, default=64)
    parser.add_argument("--num_hidden_layers", type=int, default=2)
    parser.add_argument("--num_attention_heads", type=int, default=4)
    parser.add_argument("--vocab_size", type=int, default=512)
    parser.add_argument("--max_seq_length", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=4e-3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--gpu", action="store_true", help="train on a GPU, in bf16")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def train_tokenizer(file: Path, vocab_size: int, length: int) -> "PreTrainedTokenizerFast":
    """BERT's own recipe (lower case, WordPiece, [CLS] text [SEP]), learned from the corpus."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train([str(file)], trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special))
    # The trainer finds the same pieces every time but numbers them anew: sorted, so that a seed gives one teacher.
    pieces = special + sorted(set(tokenizer.get_vocab()) - set(special))
    tokenizer.model = models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]")
    cls, sep = special.index("[CLS]"), special.index("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=length, **dict(zip(names, special, strict=True))
    )


def read_blocks(file: Path, tokenizer: "PreTrainedTokenizerFast", length: int) -> "Dataset":
    """The file as token ids without padding: paragraphs joined, then cut into blocks of `length`."""
    from datasets import Dataset

    paragraphs = file.read_text(encoding="utf-8").splitlines()
    ids = list(chain.from_iterable(tokenizer(paragraphs, truncation=False, verbose=False)["input_ids"]))
    return Dataset.from_dict({"input_ids": [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]})


def build_model(options: argparse.Namespace, tokenizer: "PreTrainedTokenizerFast") -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModelForMaskedLM

    gated = options.model_type == "modernbert"  # whose FFN has two matrices in the place of BERT's one
    ends = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    config = AutoConfig.for_model(
        options.model_type,
        vocab_size=len(tokenizer),
        hidden_size=options.hidden_size,
        intermediate_size=(2 if gated else 4) * options.hidden_size,
        num_hidden_layers=options.num_hidden_layers,
        num_attention_heads=options.num_attention_heads,
        max_position_embeddings=options.max_seq_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        **(ends if gated else {}),
    )
    return AutoModelForMaskedLM.from_config(config)


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = parse(argv)
    tokenizer = train_tokenizer(options.train_file, options.vocab_size, options.max_seq_length)
    texts = (read_blocks(f, tokenizer, options.max_seq_length) for f in (options.train_file, options.valid_file))
    return train(options, tokenizer, *texts)


def train(
    options: argparse.Namespace, tokenizer: "PreTrainedTokenizerFast", train: "Dataset", valid: "Dataset"
) -> dict[str, float]:
    """Train the teacher and leave it in `options.output_dir`: its record."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments, set_seed

    set_seed(options.seed)
    trainer = Trainer(
        model=build_model(options, tokenizer),
        args=TrainingArguments(
            output_dir=str(options.output_dir),
            max_steps=options.max_steps,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=options.learning_rate,
            warmup_steps=100,
            lr_scheduler_type="linear",
            weight_decay=0.01,
            logging_steps=100,
            save_strategy="no",
            seed=options.seed,
            use_cpu=not options.gpu,
            bf16=options.gpu,
        ),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        train_dataset=train,
        eval_dataset=valid,
        processing_class=tokenizer,
    )
    seconds = trainer.train().metrics["train_runtime"]
    set_seed(0)  # the masks of the held-out text
    loss = trainer.evaluate()["eval_loss"]

    trainer.save_model()
    (options.output_dir / "training_args.bin").unlink()  # a pickle, which nobody needs to load the model
    record = {
        "max_steps": options.max_steps,
        "seed": options.seed,
        "train_runtime": round(seconds, 1),
        "eval_loss": round(loss, 4),
    }
    # The name under which Trainer.save_metrics leaves its figures: run_mlm_dwt.py reads train_runtime from it.
    (options.output_dir / "all_results.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"held-out loss {loss:.4f} nats after {options.max_steps} steps in {seconds:.0f} s: {options.output_dir}")
    return record


if __name__ == "__main__":
    main()
