"""Which examples deserve the teacher: a chosen half beside a random half, and beside all of them.

    python examples/select_data.py            # about 12 minutes on one CPU core; goes on where it was stopped
    python examples/select_data.py --quick    # seconds: that it runs, not what it finds

The shipped weak teacher and corpus; a masked ModernBERT of twice the teacher's width from random weights; constant
weights; three seeds.

    none; all                                     the teacher supervises no example, or each
    random; salt; disagreement; attribution       it supervises half of them, the others have the hard term alone
    random, alone; salt, alone                    the student sees that half and no other, with the teacher

disagreement and attribution look at the student of `none`: how far it is from the teacher, and which examples lowered
its loss on some held-out blocks, which no figure is measured on. A run is in the file of results as soon as it ends;
`--report` prints the table and the marks of what is there; the last line is attribution's beside the random half.
"""

import argparse
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paired
from paired import Runs, arguments, difference, keep, of_seeds, opened, parser_of

# Models this small run up to ten times slower on two threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_dwt import DistillationTrainer

HERE = Path(__file__).resolve().parent
WEAK = HERE / "data" / "weak_teacher"
ALONE = ", alone"
"""Behind the name of an arm whose student sees the chosen half and no other."""
ARMS = ("none", "all", "random", "salt", "disagreement", "attribution", f"random{ALONE}", f"salt{ALONE}")
Data = dict[str, Any]


def data_of(options: argparse.Namespace) -> Data:
    """The tokenizer, and blocks to train on, to ask attribution for, and to evaluate on."""
    from make_weak_teacher import read_blocks
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(WEAK)
    train, valid = (read_blocks(HERE / "data" / f"{name}.txt", tokenizer, 64) for name in ("train", "valid"))
    train = train.select(range(min(len(train), options.blocks)))
    asked = valid.select(range(options.asked))
    evaluated = valid.select(range(options.asked, min(len(valid), options.asked + options.held_out)))
    return {"tokenizer": tokenizer, "train": train, "asked": asked, "valid": evaluated}


def collator_of(data: Data) -> Any:
    from transformers import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(data["tokenizer"], mlm_probability=0.15)


def trained(
    options: argparse.Namespace, data: Data, train: "Dataset", teacher: Any, seed: int, out: str
) -> tuple["DistillationTrainer", dict[str, Any]]:
    """A run at its end, and its figures."""
    from transformers import set_seed

    from hf_dwt import DistillationTrainer, from_weak_teacher
    from hf_dwt.training.opening import PrintAssessment

    set_seed(seed)
    args = arguments(
        out,
        max_steps=options.steps,
        learning_rate=2e-3,
        lr_scheduler_type="linear",
        warmup_steps=max(1, options.steps // 20),
        soft_weight_schedule="constant",
        logging_steps=options.steps,
        seed=seed,
    )
    student: Any = from_weak_teacher(WEAK, init="random", hidden_size=options.size, seed=seed)
    run = DistillationTrainer(
        student,
        args,
        teacher_model=teacher,
        train_dataset=train,  # type: ignore[arg-type]  # whose type the library does not annotate
        eval_dataset=data["valid"],
        processing_class=data["tokenizer"],
        data_collator=collator_of(data),
    )
    run.remove_callback(PrintAssessment)
    began = time.process_time()
    run.train()
    seconds = time.process_time() - began
    found = run.evaluate()
    return run, {"loss": round(found["eval_loss"], 5), "seconds": round(seconds, 1)}


def chosen(data: Data, arm: str, seed: int, plain: Callable[[], Any]) -> "Dataset":
    """The data set of an arm with a half that is chosen."""
    from hf_dwt.attribution import attribute
    from hf_dwt.data import select

    train, by, drop = data["train"], arm.removesuffix(ALONE), arm.endswith(ALONE)
    given: dict[str, Any] = {"share": 0.5, "drop": drop, "seed": seed}
    if by in ("salt", "disagreement"):
        more = {"student": plain().model} if by == "disagreement" else {}
        return select(train, WEAK, by=by, data_collator=collator_of(data), **more, **given)
    if by == "attribution":
        return select(train, by=attribute(plain(), data["asked"]), **given)
    draw = random.Random(seed)
    return select(train, by=[draw.random() for _ in range(len(train))], **given)


# ---- results ----


def table(runs: Runs) -> str:
    lines = [
        "| supervised by the teacher | held-out loss | beside the random half | beside all |",
        "|---|---|---|---|",
    ]
    for arm in [arm for arm in ARMS if of_seeds(runs, arm, "loss")]:
        random_half = f"random{ALONE}" if arm.endswith(ALONE) else "random"
        gaps = [difference(runs, arm, other) for other in (random_half, "all")]
        cells = [arm, f"{statistics.mean(of_seeds(runs, arm, 'loss').values()):.4f}"]
        cells += ["-" if math.isnan(gap) else f"{gap:+.4f} ± {half:.4f}" for gap, half in gaps]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def marks(runs: Runs) -> list[tuple[str, bool]]:
    """What a chosen half is held to, and whether it holds."""
    found = []
    for arm, other in [
        (f"salt{ALONE}", f"random{ALONE}"),
        *((name, "random") for name in ("salt", "disagreement", "attribution")),
    ]:
        gap, half = difference(runs, arm, other)
        found.append((f"{arm}: {gap:+.4f} ± {half:.4f} nats beside {other}", gap + half < 0))
    return found


report = partial(paired.report, tables={"chosen examples": table}, marks=marks)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__, HERE / "select_data.json")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=300, help="of a student")
    options = parser.parse_args(argv)
    options.size, options.blocks, options.asked, options.held_out = 128, 4000, 32, 320
    if options.quick:
        options.seeds, options.steps, options.blocks, options.asked, options.held_out = 1, 3, 64, 4, 8
    return options


def main(argv: list[str] | None = None) -> dict[str, Any]:
    options = parse(argv)
    if options.report:
        report(options.results, options.page)
        return {}
    settings = {name: getattr(options, name) for name in ("steps", "size", "blocks", "asked", "held_out")}
    content = opened(options.results, settings)
    runs, data = content["runs"], data_of(options)
    with tempfile.TemporaryDirectory() as out:

        @cache
        def plain(seed: int) -> tuple["DistillationTrainer", dict[str, Any]]:
            return trained(options, data, data["train"], None, seed, out)

        for seed in range(options.seeds):
            for arm in [arm for arm in options.arms if f"{arm} / {seed}" not in runs]:
                if arm == "none":
                    figures = plain(seed)[1]
                else:
                    train = data["train"] if arm == "all" else chosen(data, arm, seed, lambda: plain(seed)[0])  # noqa: B023
                    figures = trained(options, data, train, WEAK, seed, out)[1]
                keep(options.results, content, f"{arm} / {seed}", figures)
    report(options.results)
    return content


if __name__ == "__main__":
    main()
