"""Growth in stages: is a path through several sizes worth more than one jump, and do Adam's moments matter on it?

    python examples/grow_in_stages.py            # about 25 minutes on one CPU core; goes on where it was stopped
    python examples/grow_in_stages.py --quick    # seconds: that it runs, not what it finds

The shipped weak teacher and corpus, ModernBERT; three seeds; every arm ends at one size, and is evaluated at a mask
rate of 15 %.

Progressive distillation with masked features (PMD, arXiv 2401.12997), upwards: three sizes, each the next one's
teacher.

    rising              masks of 5, 10 and 20 %, hidden_term="masked_features"
    fixed rate          15 % in each stage
    no feature term     rising, with the soft term alone
    one jump            the last size at once, at 15 %; with as many steps, as many operations, as many seconds

Adam's moments when the teacher is trained on, alone, and then an exact clone of it: grown with the parameters, or
fresh; with and without a warm-up.

A run is in the file of results as soon as it ends; `--report` prints the tables of what is there.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paired
from paired import Runs, arguments, interval, keep, of_seeds, opened, parser_of

# Models this small run up to ten times slower on two threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from hf_dwt.stages import Stages

HERE = Path(__file__).resolve().parent
WEAK = HERE / "data" / "weak_teacher"
SIZES = ({"hidden_size": 96}, {"hidden_size": 128}, {"num_hidden_layers": 4})
SHARES = (0.25, 0.25, 0.5)
"""Of the steps, of each size."""
RISING, FIXED = (0.05, 0.10, 0.20), (0.15, 0.15, 0.15)
JUMP = "one jump"


def path(steps: int, masks: tuple[float, ...], **arguments: Any) -> "Stages":
    from hf_dwt.stages import progressive

    given = {"hidden_weight": 10.0, **arguments}  # of a small mean: see docs/hidden-terms.md
    return progressive(SIZES, masks, [round(steps * share) for share in SHARES], **given)


def jump(steps: int) -> "Stages":
    from hf_dwt.stages import Stage, Stages

    sizes = {name: size for each in SIZES for name, size in each.items()}
    return Stages([Stage(grow=sizes, mask=0.15, steps=steps)])


def cloned(steps: int, optimizer: str, **arguments: Any) -> "Stages":
    from hf_dwt.stages import Stage, Stages

    shared: dict[str, Any] = {"mask": 0.15, "steps": steps // 2, "soft_weight": 0.0}
    grow = {"hidden_size": 128, "init": "clone"}
    return Stages([Stage(**shared), Stage(grow=grow, optimizer=optimizer, **shared, **arguments)])


# arm -> its stages, for a number of steps
PATHS: dict[str, Callable[[int], "Stages"]] = {
    "rising": lambda steps: path(steps, RISING),
    "fixed rate": lambda steps: path(steps, FIXED),
    "no feature term": lambda steps: path(steps, RISING, hidden_term=None, hidden_weight=None),
    JUMP: jump,
    f"{JUMP}, equal operations": jump,
    f"{JUMP}, equal seconds": jump,
}
MOMENTS: dict[str, Callable[[int], "Stages"]] = {
    f"{optimizer}{words}": partial(cloned, optimizer=optimizer, **more)
    for words, more in (("", {}), (", no warm-up", {"warmup_steps": 0}))
    for optimizer in ("fresh", "grown")
}
ARMS = {**PATHS, **MOMENTS}


def run_of(options: argparse.Namespace, data: Any, arm: str, seed: int, runs: Runs) -> dict[str, Any]:
    """Run the stages of an arm: the held-out loss of its last student, and what it has cost."""
    from study.run import Account
    from transformers import DataCollatorForLanguageModeling

    from hf_dwt import DistillationTrainer
    from hf_dwt.stages import run_stages

    tokenizer, train, valid = data
    steps = options.steps
    if arm.startswith(f"{JUMP}, "):  # by what the first seed has cost
        figure = "flops" if arm.endswith("operations") else "seconds"
        ours, its = (runs[f"{each} / 0"][figure] for each in ("rising", JUMP))
        steps = max(1, round(steps * ours / its))
    account, stages = Account(), ARMS[arm](steps)
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(
            folder,
            learning_rate=options.learning_rate,
            warmup_steps=0.05,
            logging_steps=max(1, steps // 20),
            eval_strategy="steps" if arm in MOMENTS else "no",
            eval_steps=max(1, steps // 16),
            seed=seed,
        )
        shared: dict[str, Any] = {"args": args, "processing_class": tokenizer, "eval_dataset": valid}
        start = str(WEAK) if arm in MOMENTS else None  # which is trained on, and grows then
        student = run_stages(stages, start, teacher=str(WEAK), train_dataset=train, callbacks=[account], **shared)
        last = max(Path(folder).glob(f"{len(stages)}-*/run.json"))
        log = json.loads(last.read_text(encoding="utf-8"))["curve"]
        curve = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        loss = DistillationTrainer(student, data_collator=collator, **shared).evaluate()["eval_loss"]
    taken = sum(stage.steps for stage in stages)
    seconds = account.spent[1] / account.steps * taken
    figures = {"loss": round(loss, 5), "steps": taken, "seconds": round(seconds, 1), "flops": account.flops}
    return {**figures, **({"curve": [round(each, 4) for each in curve]} if curve else {})}


# ---- results ----


def difference(runs: Runs, arm: str, other: str, place: int | None = None) -> tuple[float, float]:
    """By how much the loss of `arm` is above that of `other`, paired by seed: the mean, and half its 95 % interval.

    Args:
        place: of their curves; the loss at the end without one.
    """
    own, others = (of_seeds(runs, each, "loss" if place is None else "curve") for each in (arm, other))
    pairs = [(own[seed], others[seed]) for seed in sorted(own.keys() & others.keys())]
    return interval([a - b if place is None else a[place] - b[place] for a, b in pairs])


def table(runs: Runs) -> str:
    lines = ["| path | steps | operations | seconds | held-out loss | beside rising |", "|---|---|---|---|---|---|"]
    for arm in [arm for arm in PATHS if of_seeds(runs, arm, "loss")]:
        steps, flops, seconds, loss = (
            statistics.mean(of_seeds(runs, arm, each).values()) for each in ("steps", "flops", "seconds", "loss")
        )
        gap, half = difference(runs, arm, "rising")
        beside = "" if arm == "rising" else f"{gap:+.4f} ± {half:.4f}"
        lines.append(f"| {arm} | {steps:.0f} | {flops:.2e} | {seconds:.0f} | {loss:.4f} | {beside} |")
    return "\n".join(lines)


def moments_table(runs: Runs) -> str:
    """Grown moments beside fresh ones, at the first, the second and the last evaluation of the stage."""
    lines = ["| warm-up | beside fresh: first evaluation | second | at the end |", "|---|---|---|---|"]
    for words in ("", ", no warm-up"):
        if not of_seeds(runs, f"grown{words}", "loss"):
            continue
        places = (0, 1, None)
        cells = ["{:+.4f} ± {:.4f}".format(*difference(runs, f"grown{words}", f"fresh{words}", at)) for at in places]
        lines.append(f"| {'5 %' if not words else 'none'} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"growth in stages": table, "moments": moments_table}


report = partial(paired.report, tables=TABLES)


# ---- the whole ----


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__, HERE / "grow_in_stages.json")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=600, help="of all stages together")
    parser.add_argument("--learning_rate", type=float, default=4e-3, help="the best of grown starts in docs/paper.md")
    options = parser.parse_args(argv)
    options.held_out = 320
    if options.quick:
        options.seeds, options.steps, options.held_out = 1, 16, 8
    return options


def main(argv: list[str] | None = None) -> dict[str, Any]:
    options = parse(argv)
    if not options.report:
        from make_weak_teacher import read_blocks
        from transformers import PreTrainedTokenizerFast

        settings = {name: getattr(options, name) for name in ("steps", "learning_rate", "held_out")}
        content = opened(options.results, settings)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(WEAK)
        train, valid = (read_blocks(HERE / "data" / f"{name}.txt", tokenizer, 64) for name in ("train", "valid"))
        data = tokenizer, train, valid.select(range(min(len(valid), options.held_out)))
        for seed in range(options.seeds):
            for arm in options.arms:
                if (key := f"{arm} / {seed}") not in content["runs"]:
                    keep(options.results, content, key, run_of(options, data, arm, seed, content["runs"]))
    report(options.results, options.page)
    return {} if options.report else content


if __name__ == "__main__":
    main()
