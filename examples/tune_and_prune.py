"""A student tuned by few of its parameters, then pruned to three quarters of its operations: what does each cost?

    python examples/tune_and_prune.py            # about 15 minutes on one CPU core; goes on where it was stopped
    python examples/tune_and_prune.py --quick    # seconds: that it runs, not what it finds

The shipped weak teacher, grown to twice its width and trained on the shipped text, is the student. Then the language
changes: 64 frequent tokens change places with each other, in the text and in the rows of a weak teacher, which knows
the new language as well as the old. The student is tuned under that teacher by `hf_dwt.tuning.DualSparse`, loses
45.7 % of the neurons of its feed-forward layers (a quarter of the operations), and is tuned again; three seeds.

    before             the student as it was trained, in the new language
    LoRA, dual         tuned, without and with 16 sparse entries a matrix
    dual, again        tuned as long again, and not pruned
    pruned by change, by weight, at random       neurons of the lowest scores gone, then tuned again
    LoRA, pruned by change                       the same without sparse entries

A run is in the file of results as soon as it ends; `--report` prints the table and the marks of what is there. The
last line says whether a pruned student, baked and saved, is the same when transformers alone reads it.
"""

import argparse
import copy
import math
import os
import tempfile
import time
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paired
from paired import Runs, arguments, difference, keep, mean_of, of_seeds, opened, parser_of

# Models this small run up to ten times slower on two threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from datasets import Dataset

HERE = Path(__file__).resolve().parent
WEAK = HERE / "data" / "weak_teacher"
TARGETS = ["Wqkv", "Wi", "mlp.Wo"]
FFN = 0.457
"""Of the neurons; with them go a quarter of the operations at 64 tokens."""
MOVED = 64
"""Tokens that change places."""
PRUNED = {
    f"pruned {how}": by for how, by in (("by change", "change"), ("by weight", "weight"), ("at random", "random"))
}
ARMS = ("before", "LoRA", "dual", "dual, again", *PRUNED, "LoRA, pruned by change")


class Language:
    """The tokenizer, blocks of its text for training and held-out ones, and the weak teacher that knows it."""

    def __init__(self, options: argparse.Namespace, moved: bool) -> None:
        import torch
        from make_weak_teacher import read_blocks
        from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(WEAK)
        train, valid = (read_blocks(HERE / "data" / f"{name}.txt", self.tokenizer, 64) for name in ("train", "valid"))
        self.teacher = AutoModelForMaskedLM.from_pretrained(WEAK)
        new = torch.arange(self.teacher.config.vocab_size)
        if moved:
            counts = torch.bincount(torch.tensor(train["input_ids"]).flatten(), minlength=len(new))
            counts[self.tokenizer.all_special_ids] = 0
            frequent = counts.topk(MOVED).indices
            new[frequent] = frequent.roll(1)
        with torch.no_grad():
            for rows in (self.teacher.get_input_embeddings().weight, self.teacher.decoder.bias):  # the head is tied
                rows[new] = rows.clone()
        self.train = self._translated(train, new)
        self.valid = self._translated(valid.select(range(min(len(valid), options.held_out))), new)

    @staticmethod
    def _translated(text: "Dataset", new: Any) -> "Dataset":
        import torch
        from datasets import Dataset

        return Dataset.from_dict({"input_ids": new[torch.tensor(text["input_ids"])].tolist()})


def trainer_of(language: Language, model: Any, out: str, seed: int, steps: int, rate: float) -> Any:
    from transformers import DataCollatorForLanguageModeling, set_seed

    from hf_dwt import DistillationTrainer
    from hf_dwt.training.opening import PrintAssessment

    set_seed(seed)
    args = arguments(
        out,
        max_steps=steps,
        learning_rate=rate,
        lr_scheduler_type="linear",
        warmup_steps=max(1, steps // 20),
        logging_steps=max(1, steps // 10),
        seed=seed,
    )
    run = DistillationTrainer(
        model,
        args,
        teacher_model=language.teacher,
        train_dataset=language.train,
        eval_dataset=language.valid,
        processing_class=language.tokenizer,
        data_collator=DataCollatorForLanguageModeling(language.tokenizer, mlm_probability=0.15),
    )
    run.remove_callback(PrintAssessment)
    return run


def trained(language: Language, model: Any, seed: int, steps: int, rate: float) -> tuple[Any, dict[str, Any]]:
    """The model, trained for some steps, and its figures."""
    with tempfile.TemporaryDirectory() as out:
        run = trainer_of(language, model, out, seed, steps, rate)
        began = time.process_time()
        if steps:
            run.train()
        seconds = time.process_time() - began
        loss = run.evaluate()["eval_loss"]
    learns = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    figures = {"loss": round(loss, 5), "learns": learns, "steps": steps, "seconds": round(seconds, 1)}
    return run.model, figures


def reread(small: Any) -> float:
    """The largest difference of logits between a student with its adapter, and what is baked, saved and read again."""
    import torch
    from transformers import AutoModelForMaskedLM

    from hf_dwt.tuning import DualSparse

    with tempfile.TemporaryDirectory() as out:
        DualSparse().bake(small).save_pretrained(out)
        plain = AutoModelForMaskedLM.from_pretrained(out)
    ids = torch.arange(64)[None]
    with torch.no_grad():
        return float((plain.eval()(input_ids=ids).logits - small.eval()(input_ids=ids).logits).abs().max())


class Study:
    """The runs of one seed; what several of them start from is trained once."""

    def __init__(self, options: argparse.Namespace, old: Language, new: Language, seed: int) -> None:
        self.options, self.old, self.new, self.seed = options, old, new, seed
        self.tuned = cache(self._tuned)

    @cached_property
    def student(self) -> Any:
        from hf_dwt import from_weak_teacher

        grown = from_weak_teacher(WEAK, init="clone", hidden_size=self.options.size, seed=self.seed)
        return trained(self.old, grown, self.seed, self.options.full_steps, 2e-3)[0]

    def tuning(self, name: str) -> Any:
        from hf_dwt.tuning import DualSparse

        residual = 0 if name == "LoRA" else 16
        return DualSparse(rank=4, residual=residual, targets=TARGETS, alpha=8, seed=self.seed)

    def _tuned(self, name: str) -> tuple[Any, dict[str, Any]]:
        model = self.tuning(name).attach(copy.deepcopy(self.student))
        return self._tune(model)

    def _tune(self, model: Any) -> tuple[Any, dict[str, Any]]:
        return trained(self.new, model, self.seed, self.options.steps, 5e-3)

    def run(self, arm: str) -> dict[str, Any]:
        from hf_dwt.tuning import layer_flops

        if arm == "before":
            found = trained(self.new, copy.deepcopy(self.student), self.seed, 0, 0.0)[1]
            return {**found, "learns": 0}
        if arm in ("LoRA", "dual"):
            return self.tuned(arm)[1]
        name = arm.partition(",")[0] if "," in arm else "dual"
        model = self.tuned(name)[0]
        if arm == "dual, again":
            return self._tune(copy.deepcopy(model))[1]
        small = self.tuning(name).prune(model, ffn=FFN, by=PRUNED.get(arm, "change"))
        at_once = trained(self.new, small, self.seed, 0, 0.0)[1]["loss"]
        again, figures = self._tune(small)
        share = 1 - layer_flops(again, 64) / layer_flops(model, 64)
        return {**figures, "loss at once": at_once, "operations saved": share, "reread": reread(again)}


# ---- results ----


def table(runs: Runs) -> str:
    lines = [
        "| student | learns | operations | held-out loss when pruned | held-out loss, tuned | beside dual, again |",
        "|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        if not of_seeds(runs, arm, "loss"):
            continue
        gap, half = difference(runs, arm, "dual, again")
        saved, at_once = (mean_of(runs, arm, figure) for figure in ("operations saved", "loss at once"))
        cells = [arm, f"{mean_of(runs, arm, 'learns'):,.0f}"]
        cells += ["100 %" if math.isnan(saved) else f"{1 - saved:.1%}".replace("%", " %")]
        cells += ["" if math.isnan(at_once) else f"{at_once:.4f}", f"{mean_of(runs, arm, 'loss'):.4f}"]
        cells += [f"{gap:+.4f}" + ("" if math.isnan(half) else f" ± {half:.4f}")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def marks(runs: Runs) -> list[tuple[str, bool]]:
    """What the arms are held to, and whether it holds."""
    found = []
    for arm, other in (
        ("dual", "before"),
        ("dual", "LoRA"),
        ("pruned by change", "pruned at random"),
        ("pruned by weight", "pruned at random"),
        ("pruned by change", "pruned by weight"),
        ("pruned by change", "LoRA, pruned by change"),
    ):
        gap, half = difference(runs, arm, other)
        found.append((f"{arm} {gap:+.4f} ± {half:.4f} nats beside {other}", gap + half < 0))
    saved = [run["operations saved"] for run in runs.values() if "operations saved" in run]
    found.append(
        (f"operations saved: {min(saved):.2%} to {max(saved):.2%}", all(abs(s - 0.25) < 0.005 for s in saved))
    )
    most = max(run["reread"] for run in runs.values() if "reread" in run)
    found.append((f"baked, saved and read by transformers: logits differ by {most:.1e} at most", most < 1e-4))
    return found


report = partial(paired.report, tables={"tune and prune": table}, marks=marks)


# ---- the whole ----


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__, HERE / "tune_and_prune.json")
    parser.add_argument("--full-steps", type=int, default=600, help="of the student in the old language")
    parser.add_argument("--steps", type=int, default=300, help="of each tuning")
    options = parser.parse_args(argv)
    options.size, options.held_out = 128, 320
    if options.quick:
        options.seeds, options.full_steps, options.steps, options.held_out = 1, 6, 3, 8
    return options


def main(argv: list[str] | None = None) -> dict[str, Any]:
    options = parse(argv)
    if options.report:
        report(options.results, options.page)
        return {}
    settings = {name: getattr(options, name) for name in ("full_steps", "steps", "size", "held_out")}
    content = opened(options.results, settings)
    old, new = (Language(options, moved) for moved in (False, True))
    for seed in range(options.seeds):
        study = Study(options, old, new, seed)
        for arm in ARMS:
            if (key := f"{arm} / {seed}") not in content["runs"]:
                keep(options.results, content, key, study.run(arm))
    report(options.results)
    return content


if __name__ == "__main__":
    main()
