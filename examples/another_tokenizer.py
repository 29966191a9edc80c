"""What the embeddings of an older teacher are worth to a student with another tokenizer.

    python examples/another_tokenizer.py                        # masked: some three minutes on one CPU core
    python examples/another_tokenizer.py --task causal          # trains a causal teacher first, which is kept
    python examples/another_tokenizer.py --seeds 0 1 2 --steps 600 --results FILE.jsonl

The teacher reads 512 WordPieces, the student 1,024. Each arm is a student of one shape that starts otherwise:

    transplanted  grown from the teacher; embeddings and head are made from the teacher's by the texts of tokens
    random rows   grown from the teacher; embeddings and head are the student's own initialisation
    scratch       nothing of the teacher

Held-out figures are bits per character (loss in bits x tokens / characters), so that tokenizers compare. Of a masked
model they are bits per masked character.
"""

import argparse
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from make_weak_teacher import DATA, read_blocks, train_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LENGTH = 64
CAUSAL_STEPS = 1500


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("masked", "causal"), default="masked")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--vocab_size", type=int, default=1024, help="of the student's tokenizer")
    parser.add_argument("--init", default="clone", help="of the grown students: see hf_dwt.from_weak_teacher")
    parser.add_argument(
        "--learning_rate", type=float, default=4e-3, help="of the grown students; half of it of scratch"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--evaluations", type=int, default=3, help="while training; one more before it")
    parser.add_argument("--held_out", type=int, default=512, help="blocks of held-out text that are evaluated")
    parser.add_argument("--train_file", type=Path, default=DATA / "train.txt")
    parser.add_argument("--valid_file", type=Path, default=DATA / "valid.txt")
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/another_tokenizer"))
    parser.add_argument("--results", type=Path, help="JSON lines, to which the figures of each arm are added")
    return parser.parse_args(argv)


def find_teacher(options: argparse.Namespace) -> str:
    """The shipped masked teacher; or a causal one of the same size and tokenizer, trained once."""
    if options.task == "masked":
        return str(DATA / "weak_teacher")
    folder: Path = options.work_dir / "causal_teacher"
    if not (folder / "model.safetensors").exists():
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

        tokenizer = AutoTokenizer.from_pretrained(DATA / "weak_teacher")
        set_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            tie_word_embeddings=True,
        )
        model = LlamaForCausalLM(config)
        train(model, tokenizer, options, steps=CAUSAL_STEPS, seed=0)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


# ---- the arms: how a student starts ----


def grown(teacher: str, tokenizer: "PreTrainedTokenizerBase", options: argparse.Namespace, **more: Any) -> Any:
    from hf_dwt import from_weak_teacher

    growth = {"tokenizer": tokenizer, "hidden_size": options.hidden_size, "init": options.init, **more}
    return from_weak_teacher(teacher, **growth)


def random_rows(teacher: str, tokenizer: "PreTrainedTokenizerBase", options: argparse.Namespace, seed: int) -> Any:
    """What the teacher knows but the meaning of tokens: parameters with a row for each are drawn anew."""
    student = grown(teacher, tokenizer, options, seed=seed)
    own = dict(grown(teacher, tokenizer, options, seed=seed, init="random").named_parameters())
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if student.config.vocab_size in parameter.shape:
                parameter.copy_(own[name])
    return student


ARMS: dict[str, Callable[..., Any]] = {
    "transplanted": lambda teacher, tokenizer, options, seed: grown(teacher, tokenizer, options, seed=seed),
    "random rows": random_rows,
    "scratch": lambda *given, seed: grown(*given, seed=seed, init="random"),
}


# ---- training and its figures ----


def train(
    model: "PreTrainedModel", tokenizer: Any, options: argparse.Namespace, steps: int, seed: int, rate: float = 1.0
) -> dict[int, float]:
    """Step -> held-out bits per character; without a teacher, on the path of distillation."""
    from transformers import DataCollatorForLanguageModeling

    from hf_dwt import DistillationArguments, DistillationTrainer

    blocks, density = zip(*(text_blocks(f, tokenizer) for f in (options.train_file, options.valid_file)), strict=True)
    trainer = DistillationTrainer(
        model=model,
        teacher_model=None,
        args=DistillationArguments(
            output_dir=str(options.work_dir / "run"),
            max_steps=steps,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=rate * options.learning_rate,
            warmup_steps=0.05,
            weight_decay=0.01,
            eval_strategy="steps",
            eval_steps=max(1, steps // options.evaluations),
            eval_on_start=True,
            save_strategy="no",
            logging_steps=steps,
            report_to="none",
            seed=seed,
            use_cpu=True,
        ),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=options.task == "masked", mlm_probability=0.15),
        train_dataset=blocks[0],
        eval_dataset=blocks[1].select(range(min(options.held_out, len(blocks[1])))),
        processing_class=tokenizer,
    )
    trainer.train()
    losses = {int(entry["step"]): entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    return {step: loss / math.log(2) * density[1] for step, loss in losses.items()}


def text_blocks(file: Path, tokenizer: Any) -> tuple["Dataset", float]:
    """Blocks of tokens, and tokens per character."""
    blocks = read_blocks(file, tokenizer, LENGTH)
    paragraphs = file.read_text(encoding="utf-8").splitlines()
    tokens = sum(map(len, tokenizer(paragraphs, truncation=False, verbose=False)["input_ids"]))
    return blocks, tokens / sum(map(len, paragraphs))


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    options = parse(argv)
    teacher = find_teacher(options)
    tokenizer = train_tokenizer(options.train_file, options.vocab_size, LENGTH)
    rows = []
    for seed in options.seeds:
        for arm in options.arms:
            student = ARMS[arm](teacher, tokenizer, options, seed=seed)
            rate = 0.5 if arm == "scratch" else 1.0
            figures = train(student, tokenizer, options, options.steps, seed, rate)
            tokens = str(student.growth_report.tokens)
            rows.append({"task": options.task, "arm": arm, "seed": seed, "init": options.init, "tokens": tokens})
            rows[-1]["bits per character"] = {step: round(bits, 4) for step, bits in figures.items()}
            print(json.dumps(rows[-1]))
            if options.results:
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    return rows


if __name__ == "__main__":
    main()
