"""Planted domains: does each way to weigh several teachers find the one that knows the text at hand?

    python examples/planted_domains.py            # about 25 minutes on one CPU core; goes on where it was stopped
    python examples/planted_domains.py --quick    # seconds: that it runs, not what it finds

Two corpora: the shipped one (speeches and a novel), and the source code of Python's standard library on this machine,
which is read and not copied. Three teachers: one trained on each corpus, and the first with the rows of its vocabulary
permuted, which knows nothing. A student that starts from random weights reads both corpora, mixed. Three seeds, of
teachers and students alike.

A run is in the file of results as soon as it ends; `--report` prints the table and the marks of what is there.
"""

import argparse
import math
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paired
from paired import arguments, interval, keep, mean_of, opened, parser_of

# Models this small run up to ten times slower on two threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from hf_dwt.teachers import SeveralTeachers

HERE = Path(__file__).resolve().parent
DOMAINS = ("prose", "code")
Teachers = dict[str, "PreTrainedModel"]
Blocks = dict[tuple[str, str], Any]  # of a domain and a split


def several(teachers: Teachers, weighting: Any, **settings: Any) -> "SeveralTeachers":
    from hf_dwt.teachers import SeveralTeachers

    return SeveralTeachers(teachers, weighting, **settings)


def reinforced(teachers: Teachers) -> "SeveralTeachers":
    from hf_dwt.teachers import ReinforcedSelection

    return several(teachers, ReinforcedSelection())


# arm -> what the student is given as teacher
ARMS: dict[str, Callable[[Teachers], Any]] = {
    "none": lambda teachers: None,
    "prose": lambda teachers: teachers["prose"],
    "code": lambda teachers: teachers["code"],
    "permuted": lambda teachers: teachers["permuted"],
    "equal": lambda teachers: several(teachers, "equal"),
    "cross_entropy row": lambda teachers: several(teachers, "cross_entropy", over="row"),
    "cross_entropy example": lambda teachers: several(teachers, "cross_entropy"),
    "cross_entropy example, cold": lambda teachers: several(teachers, "cross_entropy", temperature=0.25),
    "cross_entropy batch": lambda teachers: several(teachers, "cross_entropy", over="batch"),
    "perplexity": lambda teachers: several(teachers, "perplexity"),
    "perplexity batch": lambda teachers: several(teachers, "perplexity", over="batch"),
    "policy": reinforced,
    "prose, auto": lambda teachers: teachers["prose"],
    "code, auto": lambda teachers: teachers["code"],
    "cross_entropy example, auto": lambda teachers: several(teachers, "cross_entropy"),
    "policy, auto": reinforced,
}
SINGLE = ("prose", "code", "permuted")
AUTO = ", auto"
"""Behind the name of an arm whose weights of both terms follow the teacher margin; the others keep 1 to 1."""


# ---- text ----


def texts() -> dict[str, tuple[str, str]]:
    """Domain -> (training text, held-out text)."""
    shipped = [(HERE / "data" / f"{split}.txt").read_text(encoding="utf-8") for split in ("train", "valid")]
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    split: tuple[list[str], list[str]] = ([], [])
    for number, file in enumerate(files):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        split[number % 10 == 9].append("\n".join(line for line in lines if line.isascii() and line.strip()))
    return {"prose": (shipped[0], shipped[1]), "code": ("\n".join(split[0]), "\n".join(split[1]))}


def blocks(options: argparse.Namespace, folder: Path) -> tuple["PreTrainedTokenizerFast", Blocks]:
    """A tokenizer of both corpora, and for each domain as many blocks of token ids to train and to evaluate on."""
    from make_weak_teacher import read_blocks, train_tokenizer

    found, files = texts(), {}
    for domain, parts in found.items():
        for split, text in zip(("train", "valid"), parts, strict=True):
            files[domain, split] = folder / f"{domain}-{split}.txt"
            files[domain, split].write_text(text[: options.characters], encoding="utf-8")
    both = folder / "both.txt"
    both.write_text("\n".join(files[domain, "train"].read_text() for domain in DOMAINS), encoding="utf-8")
    tokenizer = train_tokenizer(both, options.vocab_size, options.length)
    data = {key: read_blocks(file, tokenizer, options.length) for key, file in files.items()}
    for split, most in (("train", sys.maxsize), ("valid", options.held_out)):
        count = min(most, *(len(data[domain, split]) for domain in DOMAINS))
        for domain in DOMAINS:
            data[domain, split] = data[domain, split].select(range(count))
    return tokenizer, data


# ---- models ----


def new_model(options: argparse.Namespace, tokenizer: "PreTrainedTokenizerFast", size: int) -> "PreTrainedModel":
    """A causal one, which learns from every position: a masked one of this size takes three times as many steps."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=options.length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    return LlamaForCausalLM(config)


def permuted(model: "PreTrainedModel", first: int) -> "PreTrainedModel":
    """The same with the rows of its vocabulary exchanged, behind the special tokens; the head is tied to them."""
    import copy

    import torch

    scrambled: Any = copy.deepcopy(model)
    rows = scrambled.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.arange(first), first + torch.randperm(len(rows) - first, generator=generator)])
    with torch.no_grad():
        rows.copy_(rows[order])
    return scrambled


def trained(
    options: argparse.Namespace,
    tokenizer: "PreTrainedTokenizerFast",
    data: Blocks,
    teacher: Any,
    seed: int,
    *,
    size: int,
    steps: int,
    domains: Sequence[str] = DOMAINS,
    schedule: str = "constant",
) -> tuple["PreTrainedModel", dict[str, float]]:
    """A model trained on the text of those domains, and its figures on the held-out text of each."""
    from datasets import concatenate_datasets
    from transformers import DataCollatorForLanguageModeling, set_seed

    from hf_dwt import DistillationTrainer
    from hf_dwt.training.opening import PrintAssessment

    set_seed(seed)
    text: Dataset = concatenate_datasets([data[domain, "train"] for domain in domains])
    with tempfile.TemporaryDirectory() as out:
        args = arguments(
            out,
            max_steps=steps,
            per_device_train_batch_size=16,
            learning_rate=3e-3 if size <= 64 else 2e-3,
            lr_scheduler_type="linear",
            warmup_steps=max(1, steps // 20),
            soft_weight_schedule=schedule,
            logging_steps=max(1, steps // 10),
            seed=seed,
        )
        held_out: Any = {domain: data[domain, "valid"] for domain in DOMAINS}
        run = DistillationTrainer(
            new_model(options, tokenizer, size),
            args,
            teacher_model=teacher,
            teacher_processing_class=tokenizer if teacher is not None else None,
            train_dataset=text,  # type: ignore[arg-type]  # whose type the library does not annotate
            eval_dataset=held_out,
            processing_class=tokenizer,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        )
        run.remove_callback(PrintAssessment)
        began = time.perf_counter()
        run.train()
        seconds = time.perf_counter() - began
        figures = {key.removeprefix("eval_"): value for key, value in run.evaluate(held_out).items()}
        weights = [entry for entry in run.state.log_history if "teacher_weight_permuted" in entry]
    figures = {key: round(value, 5) for key, value in figures.items() if "_loss" in key or "_weight" in key}
    if weights:  # of training, where both domains are in a batch
        figures["trained_weight_permuted"] = round(statistics.mean(e["teacher_weight_permuted"] for e in weights), 5)
    model: Any = run.model
    return model, {**figures, "seconds": round(seconds, 1)}


def teachers_of(
    options: argparse.Namespace, tokenizer: "PreTrainedTokenizerFast", data: Blocks, seed: int
) -> Teachers:
    found: Teachers = {}
    for domain in DOMAINS:
        own: dict[str, Any] = {"steps": options.teacher_steps, "domains": [domain]}
        found[domain], _ = trained(options, tokenizer, data, None, 100 + seed, size=64, **own)
    return {**found, "permuted": permuted(found["prose"], len(tokenizer.all_special_ids))}


# ---- results ----


def by_seed(runs: dict[str, Any], arm: str) -> dict[str, dict[str, float]]:
    """Seed -> figures."""
    return {seed: runs[key] for key in sorted(runs) for name, _, seed in [key.rpartition(" / ")] if name == arm}


def losses(runs: dict[str, Any], arm: str) -> dict[str, float]:
    """The held-out loss of each seed, a mean over both domains."""
    found = by_seed(runs, arm).items()
    return {seed: statistics.mean(run[f"{domain}_loss"] for domain in DOMAINS) for seed, run in found}


def difference(runs: dict[str, Any], arm: str, other: str) -> tuple[float, float]:
    """By how much `arm` is above `other`, paired by seed: the mean, and half of its 95 % interval."""
    own, others = losses(runs, arm), losses(runs, other)
    pairs = [own[seed] - others[seed] for seed in own.keys() & others.keys()]
    return interval(pairs)


def table(runs: dict[str, Any]) -> str:
    lines = [
        "| teachers | held-out loss | less than equal | weight on the right one: prose, code | on the permuted one |",
        "|---|---|---|---|---|",
    ]
    for arm in [arm for arm in ARMS if by_seed(runs, arm)]:
        gap, half = difference(runs, "equal", arm) if by_seed(runs, "equal") else (math.nan, math.nan)
        right = [mean_of(runs, arm, f"{domain}_teacher_weight_{domain}") for domain in DOMAINS]
        wrong = [mean_of(runs, arm, f"{domain}_teacher_weight_permuted") for domain in DOMAINS]
        cells = [arm, f"{statistics.mean(losses(runs, arm).values()):.3f}", f"{gap:+.3f} ± {half:.3f}"]
        cells += [", ".join(f"{value:.2f}" for value in right), ", ".join(f"{value:.3f}" for value in wrong)]
        lines.append(f"| {' | '.join('-' if 'nan' in cell and '±' not in cell else cell for cell in cells)} |")
    return "\n".join(lines)


def marks(runs: dict[str, Any]) -> list[tuple[str, bool]]:
    """What the rules are held to, and whether it holds."""
    means = {arm: statistics.mean(losses(runs, arm).values()) for arm in SINGLE if by_seed(runs, arm)}
    best = min(means, key=means.__getitem__, default="none")
    found = []
    for arm in ("cross_entropy example", "cross_entropy example, cold", "policy"):
        if not by_seed(runs, arm):
            continue
        for domain in DOMAINS:
            right, wrong = (mean_of(runs, arm, f"{domain}_teacher_weight_{name}") for name in (domain, "permuted"))
            found.append((f"{arm}, {domain}: {right:.3f} >= 0.8 on the right teacher", right >= 0.8))
            found.append((f"{arm}, {domain}: {wrong:.3f} <= 0.05 on the permuted one", wrong <= 0.05))
        gap, half = difference(runs, arm, "equal")
        found.append((f"{arm}: {gap:+.3f} ± {half:.3f} nats below equal weights", gap + half < 0))
        gap, half = difference(runs, arm, best)
        found.append((f"{arm}: {gap:+.3f} ± {half:.3f} nats below the best single teacher ({best})", gap < 0))
    for arm in ("cross_entropy example, auto", "policy, auto"):
        gap, half = difference(runs, arm, f"{best}, auto")
        found.append((f"{arm}: {gap:+.3f} ± {half:.3f} nats beside {best}, auto", gap + half < 0))
    return found


report = partial(paired.report, tables={"planted domains": table}, marks=marks)


# ---- the whole ----


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__, HERE / "planted_domains.json")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=300, help="of a student")
    parser.add_argument("--teacher_steps", type=int, default=400)
    options = parser.parse_args(argv)
    options.vocab_size, options.length, options.size = 512, 64, 128
    options.characters, options.held_out = 2_200_000, 640
    if options.quick:
        options.seeds, options.steps, options.teacher_steps = 1, 4, 4
        options.characters, options.held_out, options.size = 60_000, 8, 64
    return options


def main(argv: list[str] | None = None) -> dict[str, Any]:
    options = parse(argv)
    if options.report:
        report(options.results, options.page)
        return {}
    settings = {name: value for name, value in vars(options).items() if isinstance(value, int)}
    settings = {name: value for name, value in settings.items() if name not in ("report", "quick", "seeds")}
    content = opened(options.results, settings)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, data = blocks(options, Path(folder))
        for seed in range(options.seeds):
            left = [arm for arm in options.arms if f"{arm} / {seed}" not in content["runs"]]
            teachers = teachers_of(options, tokenizer, data, seed) if left else {}
            for arm in left:
                own: dict[str, Any] = {
                    "steps": options.steps,
                    "schedule": "auto" if arm.endswith(AUTO) else "constant",
                }
                _, figures = trained(options, tokenizer, data, ARMS[arm](teachers), seed, size=options.size, **own)
                keep(options.results, content, f"{arm} / {seed}", figures)
    report(options.results)
    return content


if __name__ == "__main__":
    main()
