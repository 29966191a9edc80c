"""A teacher that learns beside the student: does the student gain, and is it by following the student?

    python examples/online_teacher.py            # about 20 minutes on one CPU core; goes on where it was stopped
    python examples/online_teacher.py --quick    # seconds: that it runs, not what it finds

The shipped weak teacher and corpus; a masked ModernBERT of twice the teacher's width from random weights; three
seeds.

    none         no teacher
    frozen       the teacher as it is
    online       OnlineTeacher: a LoRA module learns from the labels and follows the student (follow=0.5)
    labels       the same module learns from the labels alone (follow=0): is it the following that counts?
    trained on   the whole teacher is trained on as long as the student first, then frozen: a teacher that merely
                 trained longer
    frozen, auto; online, auto    both under the adaptive schedule, where the others have constant weights

online, labels and trained on also run at equal seconds: with as many steps as the time of the frozen arm allows, by
the processor's time of the first seed, that of training the teacher on included. A run is in the file of results as
soon as it ends; `--report` prints the table and the marks of what is there.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paired
from paired import Runs, arguments, difference, keep, mean_of, of_seeds, opened, parser_of

# Models this small run up to ten times slower on two threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
WEAK = HERE / "data" / "weak_teacher"
EQUAL = ", equal seconds"
"""Behind the name of an arm."""
FIGURES = ("teacher_own_loss", "teacher_hard_loss", "teacher_soft_loss", "teacher_margin")


def online(follow: float) -> Any:
    from peft import LoraConfig

    from hf_dwt.teachers import OnlineTeacher

    return OnlineTeacher(WEAK, LoraConfig(r=8, target_modules="all-linear"), learning_rate=1e-3, follow=follow)


# arm -> what the student is given as teacher, from the teacher that was trained on
ARMS: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "none": lambda _: None,
    "frozen": lambda _: WEAK,
    "online": lambda _: online(0.5),
    "labels": lambda _: online(0.0),
    "trained on": lambda longer: longer(),
    "frozen, auto": lambda _: WEAK,
    "online, auto": lambda _: online(0.5),
}
TIMED = ("online", "labels", "trained on")
AUTO = ("online, auto", "frozen, auto")


def data_of(options: argparse.Namespace) -> tuple["PreTrainedTokenizerFast", "Dataset", "Dataset"]:
    from make_weak_teacher import read_blocks
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(WEAK)
    train, valid = (read_blocks(HERE / "data" / f"{name}.txt", tokenizer, 64) for name in ("train", "valid"))
    return tokenizer, train, valid.select(range(min(len(valid), options.held_out)))


def trained(
    options: argparse.Namespace,
    data: Any,
    model: "PreTrainedModel",
    teacher: Any,
    seed: int,
    steps: int,
    schedule: str,
) -> tuple["PreTrainedModel", dict[str, Any]]:
    """The model, trained, and its figures."""
    from transformers import DataCollatorForLanguageModeling, set_seed

    from hf_dwt import DistillationTrainer
    from hf_dwt.training.opening import PrintAssessment

    tokenizer, train, valid = data
    set_seed(seed)
    with tempfile.TemporaryDirectory() as out:
        args = arguments(
            out,
            max_steps=steps,
            learning_rate=2e-3,
            lr_scheduler_type="linear",
            warmup_steps=max(1, steps // 20),
            soft_weight_schedule=schedule,
            logging_steps=max(1, steps // 10),
            seed=seed,
        )
        run = DistillationTrainer(
            model,
            args,
            teacher_model=teacher,
            train_dataset=train,
            eval_dataset=valid,
            processing_class=tokenizer,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        )
        run.remove_callback(PrintAssessment)
        began = time.process_time()
        run.train()
        seconds = time.process_time() - began
        found = run.evaluate()
        logs = [entry for entry in run.state.log_history if "grad_norm" in entry]
    figures: dict[str, Any] = {"steps": steps, "seconds": round(seconds, 1)}
    figures |= {name: round(found[f"eval_{name}"], 5) for name in ("loss", "teacher_loss") if f"eval_{name}" in found}
    figures |= {name: [round(e[name], 4) for e in logs] for name in FIGURES if name in logs[0]}
    trained_model: Any = run.model
    return trained_model, figures


def run_of(options: argparse.Namespace, data: Any, arm: str, seed: int, runs: Runs, longer: Any) -> dict[str, Any]:
    from hf_dwt import from_weak_teacher

    name, steps = arm.removesuffix(EQUAL), options.steps
    extra = 0.0
    if arm.endswith(EQUAL):  # by what the first seed took for the same steps
        frozen, own = (runs[f"{each} / 0"]["seconds"] for each in ("frozen", name))
        steps = max(1, round(steps * frozen / own))
    teacher = ARMS[name](lambda: longer(seed, steps)[0])
    if name == "trained on":
        extra = longer(seed, steps)[1]["seconds"]
    student: Any = from_weak_teacher(WEAK, init="random", hidden_size=options.size, seed=seed)
    schedule = "auto" if name.endswith("auto") else options.schedule
    _, figures = trained(options, data, student, teacher, seed, steps, schedule)
    return {**figures, "seconds": round(figures["seconds"] + extra, 1)}


# ---- results ----


def curve(runs: Runs, arm: str, figure: str) -> list[float]:
    """The mean over seeds at each log."""
    found = [run[figure] for key, run in runs.items() if key.rpartition(" / ")[0] == arm and figure in run]
    return [statistics.mean(each) for each in zip(*found, strict=True)]


def table(runs: Runs) -> str:
    lines = [
        "| teacher | steps | seconds | held-out loss | beside frozen | teacher's held-out loss | its own loss "
        "| its divergence from the student |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in [*ARMS, *(f"{name}{EQUAL}" for name in TIMED)]:
        if not of_seeds(runs, arm, "loss"):
            continue
        gap, half = difference(runs, arm, "frozen")
        cells = [arm, f"{mean_of(runs, arm, 'steps'):.0f}", f"{mean_of(runs, arm, 'seconds'):.0f}"]
        cells += [
            f"{mean_of(runs, arm, 'loss'):.4f}",
            f"{gap:+.4f} ± {half:.4f}",
            f"{mean_of(runs, arm, 'teacher_loss'):.3f}",
        ]
        for figure in ("teacher_own_loss", "teacher_soft_loss"):
            found = curve(runs, arm, figure)
            cells.append(f"{found[0]:.3f} to {found[-1]:.3f}" if found else "-")
        lines.append(f"| {' | '.join('-' if cell == 'nan' else cell for cell in cells)} |")
    return "\n".join(lines)


def marks(runs: Runs) -> list[tuple[str, bool]]:
    """What the arms are held to, and whether it holds."""
    found = []
    own = curve(runs, "online", "teacher_own_loss")
    found.append((f"the module's own loss falls: {own[0]:.3f} to {own[-1]:.3f}", own[-1] < own[0]))
    near, far = (curve(runs, arm, "teacher_soft_loss")[-1] for arm in ("online", "labels"))
    found.append((f"following brings it nearer to the student: {near:.4f} < {far:.4f} nats", near < far))
    for arm, other in (("online", "frozen"), ("online", "labels"), ("online", "trained on"), ("online", "none"), AUTO):
        gap, half = difference(runs, arm, other)
        found.append((f"equal steps: {arm} {gap:+.4f} ± {half:.4f} nats beside {other}", gap + half < 0))
    for arm in TIMED:
        gap, half = difference(runs, f"{arm}{EQUAL}", "frozen")
        found.append((f"equal seconds: {arm} {gap:+.4f} ± {half:.4f} nats beside frozen", gap + half < 0))
    return found


report = partial(paired.report, tables={"online teacher": table}, marks=marks)


# ---- the whole ----


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__, HERE / "online_teacher.json")
    parser.add_argument("--steps", type=int, default=600, help="of a student")
    parser.add_argument("--schedule", default="constant", help="of both weights, of the arms that name none")
    options = parser.parse_args(argv)
    options.size, options.held_out = 128, 320
    if options.quick:
        options.seeds, options.steps, options.held_out = 1, 10, 8
    return options


def main(argv: list[str] | None = None) -> dict[str, Any]:
    options = parse(argv)
    if options.report:
        report(options.results, options.page)
        return {}
    settings = {name: getattr(options, name) for name in ("steps", "schedule", "size", "held_out")}
    content = opened(options.results, settings)
    runs, data = content["runs"], data_of(options)

    @cache
    def longer(seed: int, steps: int) -> tuple[Any, dict[str, Any]]:
        from transformers import AutoModelForMaskedLM

        weak = AutoModelForMaskedLM.from_pretrained(WEAK)
        return trained(options, data, weak, None, 100 + seed, steps, options.schedule)

    for seed in range(options.seeds):
        for arm in [*ARMS, *(f"{name}{EQUAL}" for name in TIMED)]:
            if (key := f"{arm} / {seed}") not in runs:
                keep(options.results, content, key, run_of(options, data, arm, seed, runs, longer))
    report(options.results)
    return content


if __name__ == "__main__":
    main()
