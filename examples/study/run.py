"""One cell of a study: its models, its run, and what that cost."""

import argparse
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from study.cells import NONE, TUNING_SEED, Cell, Study
from study.downstream import TaskData, fine_tuned

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

EVALUATIONS = 30  # points of a curve

# ---- data and models ----


def prepared(study: Study, options: argparse.Namespace) -> "tuple[PreTrainedTokenizerFast, Dataset, Dataset]":
    """Tokenizer, training blocks and held-out blocks: kept in the working folder, since a large text takes minutes."""
    from datasets import Dataset, disable_progress_bars
    from filelock import FileLock
    from make_weak_teacher import read_blocks, train_tokenizer
    from transformers import PreTrainedTokenizerFast

    digest = hashlib.blake2b(f"{study.vocabulary} {study.length}".encode(), digest_size=6)
    files = (options.train_file, options.valid_file)
    for file in files:
        digest.update(file.read_bytes())
    folder: Path = options.work_dir / f"text-{digest.hexdigest()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            disable_progress_bars()  # the study has one of its own
            unfinished = folder.with_suffix(".unfinished")
            tokenizer = train_tokenizer(options.train_file, study.vocabulary, study.length)
            tokenizer.save_pretrained(unfinished)
            for file, name in zip(files, ("train", "valid"), strict=True):
                read_blocks(file, tokenizer, study.length).save_to_disk(unfinished / name)
            unfinished.rename(folder)
    blocks = (Dataset.load_from_disk(folder / name) for name in ("train", "valid"))
    return PreTrainedTokenizerFast.from_pretrained(folder), *blocks


class Bench:
    """What the cells of a study share, made once: tokenizer, text, teachers."""

    def __init__(self, study: Study, options: argparse.Namespace) -> None:
        self.study, self.options = study, options
        self.tasks = [TaskData(path) for path in options.tasks or ()]
        self.tokenizer, self.train, self.valid = prepared(study, options)

    def teacher(self, name: str) -> str:
        """The folder of a teacher, trained now if it is not there; of several processes, by one."""
        from filelock import FileLock

        folder: Path = self.options.work_dir / name
        with FileLock(f"{folder}.lock"):
            if not (folder / "all_results.json").exists():
                self._train_teacher(name, folder)
        return str(folder)

    def _train_teacher(self, name: str, folder: Path) -> None:
        import make_weak_teacher

        study = self.study
        steps, seed = study.teachers[name]
        flags = {"output_dir": folder, "max_steps": steps, "seed": seed, "learning_rate": study.teacher_rate}
        flags |= {"vocab_size": study.vocabulary, "max_seq_length": study.length, **study.small}
        flags |= {"model_type": study.model_type, "batch_size": study.batch}
        gpu = ["--gpu"] if study.arguments.get("bf16") else []
        options = make_weak_teacher.parse([f"--{flag}={value}" for flag, value in flags.items()] + gpu)
        make_weak_teacher.train(options, self.tokenizer, self.train, self.valid)

    def unigram(self) -> float:
        """The loss in nats, on the held-out text, of who knows its frequencies alone."""
        import torch

        from hf_dwt.assess.measure import unigram_loss

        tokens = torch.tensor([token for block in self.valid["input_ids"] for token in block])
        tokens = tokens[~torch.isin(tokens, torch.tensor(self.tokenizer.all_special_ids))]
        return unigram_loss(tokens, tokens)

    def part(self, share: float) -> "Dataset":
        """The first share of the training text."""
        return self.train.select(range(round(share * len(self.train))))

    def student(self, cell: Cell) -> "PreTrainedModel":
        from transformers import AutoModelForMaskedLM

        from hf_dwt import from_weak_teacher

        teacher = self.teacher(cell.teacher)
        if cell.init == "teacher":
            return AutoModelForMaskedLM.from_pretrained(teacher)
        sizes: dict[str, Any] = dict(self.study.students[cell.student])
        return from_weak_teacher(teacher, init=cell.init, seed=cell.seed, depth=cell.depth, **sizes)

    def voice(self, cell: Cell) -> Any:
        """The teacher of a cell, or what speaks in its place."""
        from transformers import AutoConfig, AutoModelForMaskedLM, set_seed

        if cell.voice == "random_features":
            set_seed(100 + cell.seed)
            return AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(self.teacher(cell.teacher)))
        if not cell.is_taught or cell.voice == "smoothing":
            return None
        if cell.voice == "virtual":
            return Virtual(len(self.tokenizer))
        if cell.voice == "unigram":
            return Unigram(self.train["input_ids"], len(self.tokenizer))
        return self.teacher(cell.teacher)


class Virtual:
    """A teacher without knowledge: 0.99 on the truth, the rest uniform (Yuan et al., 2020, arXiv 1909.11723)."""

    columns: frozenset[str] = frozenset()

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def targets(self, batch: Any, rows: Any) -> Any:
        from hf_dwt.objective import Targets

        n = len(rows.labels)
        spread = rows.labels.new_full((n, self.classes), math.log(0.01 / (self.classes - 1)), dtype=float).float()
        return Targets(spread.scatter(1, rows.labels.unsqueeze(1), math.log(0.99)))


class Unigram:
    """A teacher that knows how often each token occurs and reads nothing: smoothing towards the frequencies."""

    columns: frozenset[str] = frozenset()

    def __init__(self, blocks: Iterable[list[int]], classes: int) -> None:
        import torch

        counts = Counter(token for block in blocks for token in block)
        self.logits = torch.tensor([counts[token] + 0.5 for token in range(classes)]).log()

    def targets(self, batch: Any, rows: Any) -> Any:
        from hf_dwt.objective import Targets

        return Targets(self.logits.expand(len(rows.labels), -1))


# ---- a run ----


class Account(TrainerCallback):
    """What training has cost so far, noted at every evaluation; evaluation itself is not counted.

    seconds: by the wall. cpu_seconds: of this process, which is what the wall would show on a machine with nothing
    else to do. flops: counted in one step of `EVERY`, which is left out of the seconds since counting slows it, and
    taken for those between.
    """

    EVERY = 50

    def __init__(self) -> None:
        self.steps, self.flops, self.spent = 0, 0.0, (0.0, 0.0)
        self._counting: Any = None
        self._per_step = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._since = _now()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        if state.global_step % self.EVERY == 0:
            self._counting = FlopCounterMode(display=False)
            self._counting.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = _now()
        if self._counting is not None:
            self._counting.__exit__(None, None, None)
            self._per_step, self._counting = float(self._counting.get_total_flops()), None
        else:
            self.steps += 1
            wall, cpu = (b - a for a, b in zip(self._since, now, strict=True))
            self.spent = self.spent[0] + wall, self.spent[1] + cpu
        self.flops += self._per_step
        self._since = now

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        wall, cpu = (spent / max(1, self.steps) * state.global_step for spent in self.spent)
        state.log_history[-1] |= {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "flops": self.flops}
        self._since = _now()


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


CURVE = ("step", "seconds", "cpu_seconds", "flops", "eval_loss")


def run(cell: Cell, rate: float, bench: Bench) -> dict[str, Any]:
    """Train a cell: its line of the results."""
    import torch
    from transformers import DataCollatorForLanguageModeling, set_seed

    from hf_dwt import DistillationArguments, DistillationTrainer
    from hf_dwt.callbacks import DrawRun
    from study.candidates import CANDIDATES

    study = bench.study
    steps = study.steps if cell.init != "teacher" else equal_steps(study, bench, cell)
    soft: dict[str, Any] = {"soft_weight": 0.0 if cell.soft == NONE else cell.weight}
    if cell.soft != NONE:
        soft |= {"soft_weight_schedule": cell.soft, "soft_weight_schedule_kwargs": dict(cell.schedule)}
    arguments: dict[str, Any] = {
        "output_dir": str(bench.options.work_dir / "runs" / cell.key),
        "max_steps": steps,
        "per_device_train_batch_size": study.batch,
        "per_device_eval_batch_size": 64,
        "learning_rate": rate,
        "warmup_steps": 0.05,
        "weight_decay": 0.01,
        "label_smoothing_factor": 0.1 if cell.voice == "smoothing" else 0.0,
        "logging_steps": max(1, steps // EVALUATIONS),
        "eval_strategy": "steps",
        "eval_steps": max(1, steps // EVALUATIONS),
        "eval_on_start": True,
        "save_strategy": "no",
        "seed": cell.seed,
        "disable_tqdm": True,
        "report_to": [],
        **CANDIDATES.get(cell.voice, {}),
        "dataloader_pin_memory": torch.cuda.is_available(),
        **study.arguments,
    }
    set_seed(cell.seed)
    account = Account()
    trainer = DistillationTrainer(
        bench.student(cell),
        DistillationArguments(**arguments, **soft),
        teacher_model=bench.voice(cell),
        processing_class=bench.tokenizer,
        train_dataset=bench.part(cell.share),
        eval_dataset=bench.valid.select(range(0, len(bench.valid), max(1, len(bench.valid) // 192))),
        data_collator=DataCollatorForLanguageModeling(bench.tokenizer, mlm_probability=0.15),
        callbacks=[account],
    )
    trainer.remove_callback(DrawRun)  # the report draws
    trainer.train()
    curve = {e["step"]: {k: e[k] for k in CURVE} for e in trainer.state.log_history if "eval_loss" in e}
    weights = [(e["step"], e["soft_weight"]) for e in trainer.state.log_history if "soft_weight" in e]
    loss = trainer.evaluate(bench.valid, metric_key_prefix="all")["all_loss"]  # type: ignore[arg-type]
    teacher = json.loads((Path(bench.teacher(cell.teacher)) / "all_results.json").read_text(encoding="utf-8"))
    figures = {"loss": round(loss, 4), "teacher_loss": teacher["eval_loss"]}
    row = {**figures, "rate": rate, "steps": steps, "curve": list(curve.values()), "weights": weights}
    if bench.tasks and cell.seed != TUNING_SEED:
        row["tasks"] = fine_tuned(trainer.model, bench.tokenizer, bench.tasks, study, cell.seed)
    return row


def equal_steps(study: Study, bench: Bench, cell: Cell) -> int:
    """How many steps of the teacher itself cost the operations of the student's run: by their parameters and layers.

    The bodies dominate at these sizes, so the ratio of the parameters outside the embeddings is taken.
    """
    from transformers import AutoModelForMaskedLM

    from hf_dwt import from_weak_teacher

    large: dict[str, Any] = {"init": "random", **study.students["wide"]}
    teacher = AutoModelForMaskedLM.from_pretrained(bench.teacher(cell.teacher))
    student = from_weak_teacher(bench.teacher(cell.teacher), **large)
    ratio = student.num_parameters(exclude_embeddings=True) / teacher.num_parameters(exclude_embeddings=True)
    return round(study.steps * ratio)
