"""What an older teacher is worth to a student with another tokenizer: its embeddings, and what it teaches.

    python examples/another_tokenizer.py --quick                # a few steps of one seed: whether it runs
    python examples/another_tokenizer.py --results FILE.json    # three seeds: some 20 minutes on one CPU core
    python examples/another_tokenizer.py --tasks causal --seeds 0 --steps 600

The teacher reads 512 WordPieces, the student 1,024; a causal teacher is trained first, and kept. Each arm is a student
of one shape that starts otherwise:

    transplanted  grown from the teacher; embeddings and head are made from the teacher's by the texts of tokens
    random rows   grown from the teacher; embeddings and head are the student's own initialisation
    scratch       nothing of the teacher

and learns alone or, where the arm is "... taught", beside the teacher (`hf_dwt.teachers.OtherTokenizer`), under the
adaptive schedule.

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

import paired
import torch
from make_weak_teacher import DATA, read_blocks, train_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LENGTH = 64
CAUSAL_STEPS = 1500


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=("masked", "causal"), default=["masked", "causal"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[arm for arm in ARMS if "scratch" not in arm])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one seed and few steps")
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
    parser.add_argument("--causal_steps", type=int, default=CAUSAL_STEPS, help="of the causal teacher")
    parser.add_argument("--soft_weight", type=float, default=1.0, help="of the arms that are taught")
    parser.add_argument("--schedule", default="auto", help="of the arms that are taught: soft_weight_schedule")
    parser.add_argument("--results", type=Path, help="JSON: the figures of all arms, written after each")
    options = parser.parse_args(argv)
    if options.quick:
        options.seeds, options.steps, options.held_out, options.causal_steps = [0], 20, 64, 20
    return options


def find_teacher(task: str, options: argparse.Namespace) -> str:
    """The shipped masked teacher; or a causal one of the same size and tokenizer, trained once."""
    if task == "masked":
        return str(DATA / "weak_teacher")
    folder: Path = options.work_dir / f"causal_teacher_{options.causal_steps}"
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
        train(model, task, tokenizer, options, steps=options.causal_steps, seed=0)
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
ARMS |= {f"{arm}, taught": start for arm, start in ARMS.items()}
BASELINE = "random rows"


# ---- training and its figures ----


def train(
    model: "PreTrainedModel",
    task: str,
    tokenizer: Any,
    options: argparse.Namespace,
    steps: int,
    seed: int,
    rate: float = 1.0,
    teacher: str | None = None,
) -> tuple[dict[int, float], float | None]:
    """Step -> held-out bits per character, and the share of rows that the teacher has taught.

    Without a teacher this is on the path of distillation.
    """
    from transformers import DataCollatorForLanguageModeling

    from hf_dwt import DistillationArguments, DistillationTrainer
    from hf_dwt.teachers import OtherTokenizer

    blocks, density = zip(*(text_blocks(f, tokenizer) for f in (options.train_file, options.valid_file)), strict=True)
    trainer = DistillationTrainer(
        model=model,
        teacher_model=None if teacher is None else OtherTokenizer(teacher),
        args=DistillationArguments(
            output_dir=str(options.work_dir / "run"),
            max_steps=steps,
            soft_weight=options.soft_weight,
            soft_weight_schedule=options.schedule,
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
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=task == "masked", mlm_probability=0.15),
        train_dataset=blocks[0],
        eval_dataset=blocks[1].select(range(min(options.held_out, len(blocks[1])))),
        processing_class=tokenizer,
    )
    trainer.train()
    history = trainer.state.log_history
    losses = {int(entry["step"]): entry["eval_loss"] for entry in history if "eval_loss" in entry}
    shares = [entry["teacher_rows"] for entry in history if "teacher_rows" in entry]
    return {step: loss / math.log(2) * density[1] for step, loss in losses.items()}, shares[-1] if shares else None


def text_blocks(file: Path, tokenizer: Any) -> tuple["Dataset", float]:
    """Blocks of tokens, and tokens per character."""
    blocks = read_blocks(file, tokenizer, LENGTH)
    paragraphs = file.read_text(encoding="utf-8").splitlines()
    tokens = sum(map(len, tokenizer(paragraphs, truncation=False, verbose=False)["input_ids"]))
    return blocks, tokens / sum(map(len, paragraphs))


def run(task: str, arm: str, seed: int, teacher: str, tokenizer: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one arm."""
    student = ARMS[arm](teacher, tokenizer, options, seed=seed)
    rate, source = 0.5 if "scratch" in arm else 1.0, teacher if "taught" in arm else None
    bits, share = train(student, task, tokenizer, options, options.steps, seed, rate, source)
    row = {"task": task, "arm": arm, "seed": seed, "init": options.init, "tokens": str(student.growth_report.tokens)}
    if share is not None:
        row["rows taught"] = round(share, 4)
    return {**row, "bits per character": {step: round(value, 4) for step, value in bits.items()}}


def summary(rows: list[dict[str, Any]]) -> str:
    """A table: for each arm its bits at the end, and its gain over the baseline of the same seed, a 95 % interval."""
    ends = {(row["task"], row["arm"], row["seed"]): [*row["bits per character"].values()][-1] for row in rows}
    lines = [f"| task | arm | bits per character | below {BASELINE} |", "| --- | --- | --- | --- |"]
    for task, arm in dict.fromkeys((row["task"], row["arm"]) for row in rows):
        own = {seed: bits for (one, other, seed), bits in ends.items() if (one, other) == (task, arm)}
        gains = [ends[task, BASELINE, seed] - bits for seed, bits in own.items() if (task, BASELINE, seed) in ends]
        lines.append(f"| {task} | {arm} | {sum(own.values()) / len(own):.3f} | {interval(gains)} |")
    return "\n".join(lines)


def interval(gains: list[float]) -> str:
    """The mean and the half-width of its 95 % interval by Student's t."""
    if not gains:
        return ""
    mean, half = paired.interval(gains)
    return f"{mean:+.3f}" + ("" if len(gains) == 1 else f" ± {half:.3f}")


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    options = parse(argv)
    tokenizer = train_tokenizer(options.train_file, options.vocab_size, LENGTH)
    rows = []
    for task in options.tasks:
        teacher = find_teacher(task, options)
        for seed in options.seeds:
            for arm in options.arms:
                rows.append(run(task, arm, seed, teacher, tokenizer, options))
                print(json.dumps(rows[-1]))
                if options.results:
                    lines = ",\n".join(json.dumps(row) for row in rows)
                    options.results.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(summary(rows))
    return rows


if __name__ == "__main__":
    main()
