"""ERNIE-Tiny's four stages, upwards: is the path from general text to a task worth more than the task alone?

    python examples/study/gather.py TEXT --topics           # 9,033 leads of Wikipedia with eleven topics, 5 MB
    python examples/ernie_tiny.py --topics TEXT/topics.jsonl   # about 25 minutes on one CPU core; goes on
    python examples/ernie_tiny.py --topics TEXT/topics.jsonl --quick --results FILE

A masked ModernBERT of width 64 is pretrained on the leads and fine-tuned on their topics, on four fifths of both; the
student has width 128. All arms take as many steps; the learning rate of each is the best of `--rates` on another seed.

    four stages         hf_dwt.stages.ernie_tiny (arXiv 2106.02241): hidden states of the pretrained teacher, of the
                        fine-tuned one, on the texts of the task; then labels and predictions too
    without the second  the first is longer by as much
    the last alone      labels, predictions and hidden states of the fine-tuned teacher
    fine-tuning         labels alone
    grown, the last alone; grown, fine-tuning     the same, of students that start as the fine-tuned teacher

The other arms start from random weights. A run is in the file of results as soon as it ends; `--report` prints the
table.
"""

import argparse
import os
import statistics
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import paired
from paired import Runs, arguments, interval, keep, of_seeds, opened, parser_of

# Models this small run up to ten times slower on two threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from hf_dwt.stages import Stages

HERE = Path(__file__).resolve().parent
LENGTH, VOCABULARY, TUNING_SEED = 64, 1024, 1000
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


class Bench(NamedTuple):
    """What all arms share: data, and the teacher before and after its fine-tuning."""

    tokenizer: Any
    general: Any
    task: Any
    held_out: Any
    pretrained: str
    finetuned: str


def path(bench: Bench, steps: int, second: bool = True) -> "Stages":
    from hf_dwt.stages import Stages, ernie_tiny

    quarter = steps // 4
    stages = ernie_tiny(
        pretrained=bench.pretrained,
        finetuned=bench.finetuned,
        general=bench.general,
        task=bench.task,
        steps=[quarter if second else 2 * quarter, *3 * [quarter]],
        grow={"hidden_size": 128, "init": "random"},
        hidden_weight=10.0,  # of a small mean: see docs/hidden-terms.md
    )
    return stages if second else Stages([stages[0], *stages[2:]])


def last(bench: Bench, steps: int, taught: bool = True, **grow: Any) -> "Stages":
    """The last stage alone, or a plain fine-tuning."""
    from hf_dwt.stages import Stage, Stages

    terms = {"hidden_term": "masked_features", "hidden_weight": 10.0} if taught else {"soft_weight": 0.0}
    grow = {"hidden_size": 128, **grow}
    return Stages([Stage(steps=steps // 4 * 4, teacher=bench.finetuned, dataset=bench.task, grow=grow, **terms)])


ARMS: dict[str, Any] = {
    "four stages": path,
    "without the second": lambda bench, steps: path(bench, steps, second=False),
    "the last alone": lambda bench, steps: last(bench, steps, init="random"),
    "fine-tuning": lambda bench, steps: last(bench, steps, taught=False, init="random"),
    "grown, the last alone": last,
    "grown, fine-tuning": lambda bench, steps: last(bench, steps, taught=False),
}


def common(steps: int, rate: float, seed: int) -> dict[str, Any]:
    """Arguments of a run."""
    return {
        "max_steps": steps,
        "learning_rate": rate,
        "warmup_steps": 0.05,
        "logging_steps": max(1, steps // 8),
        "seed": seed,
    }


def prepared(options: argparse.Namespace, folder: Path) -> Bench:
    """Train the tokenizer and the teacher, twice."""
    from datasets import Dataset
    from make_weak_teacher import build_model, train_tokenizer
    from study.downstream import TaskData
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorForLanguageModeling,
        DataCollatorWithPadding,
        set_seed,
    )

    from hf_dwt import DistillationTrainer

    topics = TaskData(options.topics)
    text = folder / "train.txt"
    text.write_text("\n".join(line["text"] for n, line in enumerate(topics.lines) if n % 5), encoding="utf-8")
    tokenizer = train_tokenizer(text, VOCABULARY, LENGTH)
    task, held_out = (Dataset.from_list(part) for part in topics.parts(tokenizer, LENGTH))
    general, pretrained, finetuned = task.remove_columns("labels"), folder / "weak", folder / "weak-topics"

    def trained(model: Any, dataset: Any, collator: Any, rate: float, out: Path) -> float:
        args = arguments(str(folder / "run"), **common(options.teacher_steps, rate, 0))
        shared: dict[str, Any] = {"data_collator": collator, "processing_class": tokenizer}
        run = DistillationTrainer(model, args, train_dataset=dataset, eval_dataset=held_out, **shared)
        run.train()
        run.model.save_pretrained(out)  # type: ignore[operator]
        tokenizer.save_pretrained(out)
        return float(run.evaluate()["eval_accuracy"])

    set_seed(0)
    sizes = argparse.Namespace(**SMALL, max_seq_length=LENGTH, model_type="modernbert", seed=0)
    masked = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    trained(build_model(sizes, tokenizer), general, masked, 4e-3, pretrained)
    classifier = AutoModelForSequenceClassification.from_pretrained(pretrained, num_labels=len(topics.labels))
    accuracy = trained(classifier, task, DataCollatorWithPadding(tokenizer), 1e-3, finetuned)
    print(f"The fine-tuned teacher's held-out accuracy: {accuracy:.4f}", flush=True)
    return Bench(tokenizer, general, task, held_out, str(pretrained), str(finetuned))


def run_of(options: argparse.Namespace, bench: Bench, arm: str, rate: float, seed: int) -> dict[str, Any]:
    from study.run import Account
    from transformers import DataCollatorWithPadding

    from hf_dwt import DistillationTrainer
    from hf_dwt.stages import run_stages

    account, stages = Account(), ARMS[arm](bench, options.steps)
    shared: dict[str, Any] = {"processing_class": bench.tokenizer}
    shared["data_collator"] = DataCollatorWithPadding(bench.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(folder, **common(options.steps, rate, seed))
        student = run_stages(stages, args=args, callbacks=[account], **shared)
        found = DistillationTrainer(student, args, eval_dataset=bench.held_out, **shared).evaluate()
    steps = sum(stage.steps for stage in stages)
    seconds = account.spent[1] / account.steps * steps
    figures = {"accuracy": found["eval_accuracy"], "loss": found["eval_loss"], "rate": rate, "steps": steps}
    return {**figures, "seconds": round(seconds, 1), "flops": account.flops}


# ---- results ----


def table(runs: Runs) -> str:
    lines = [
        "| path | rate | operations | seconds | held-out accuracy, % | beside four stages |",
        "|---|---|---|---|---|---|",
    ]
    whole = of_seeds(runs, "four stages", "accuracy")
    for arm in [arm for arm in ARMS if of_seeds(runs, arm, "accuracy")]:
        own = of_seeds(runs, arm, "accuracy")
        rate, flops, seconds = (statistics.mean(of_seeds(runs, arm, e).values()) for e in ("rate", "flops", "seconds"))
        gap, half = interval([100 * (own[seed] - whole[seed]) for seed in sorted(own.keys() & whole.keys())])
        beside = "" if arm == "four stages" else f"{gap:+.2f} ± {half:.2f}"
        accuracy = 100 * statistics.mean(own.values())
        lines.append(f"| {arm} | {rate:g} | {flops:.2e} | {seconds:.0f} | {accuracy:.2f} | {beside} |")
    return "\n".join(lines)


report = partial(paired.report, tables={"ernie tiny": table})


# ---- the whole ----


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__, HERE / "ernie_tiny.json")
    parser.add_argument("--topics", type=Path, help='JSON lines {"text": ..., "label": ...}')
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=400, help="of all stages together")
    parser.add_argument("--teacher_steps", type=int, default=600, help="of the pretraining, and of the fine-tuning")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3])
    options = parser.parse_args(argv)
    if options.quick:
        options.seeds, options.steps, options.teacher_steps, options.rates = 1, 8, 4, [1e-3]
    if not options.report and options.topics is None:
        parser.error("--topics is needed: python examples/study/gather.py TEXT --topics makes TEXT/topics.jsonl")
    return options


def main(argv: list[str] | None = None) -> dict[str, Any]:
    options = parse(argv)
    if options.report:
        report(options.results, options.page)
        return {}
    settings = {name: getattr(options, name) for name in ("steps", "teacher_steps", "rates")}
    content = opened(options.results, settings)
    runs = content["runs"]
    with tempfile.TemporaryDirectory() as folder:

        @cache
        def bench() -> Bench:
            return prepared(options, Path(folder))

        def found(key: str, arm: str, rate: float, seed: int) -> dict[str, Any]:
            if key not in runs:
                keep(options.results, content, key, run_of(options, bench(), arm, rate, seed))
            return runs[key]

        for arm in options.arms:
            tried = {}
            for rate in options.rates if len(options.rates) > 1 else []:
                tried[rate] = found(f"{arm} at {rate:g} / {TUNING_SEED}", arm, rate, TUNING_SEED)["accuracy"]
            best = max(tried, key=tried.__getitem__, default=options.rates[0])
            for seed in range(options.seeds):
                found(f"{arm} / {seed}", arm, best, seed)
    report(options.results)
    return content


if __name__ == "__main__":
    main()
