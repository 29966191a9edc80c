"""Grow a larger masked language model from the weaker one you have, and train it with Distillation from Weak Teacher.

    python examples/run_mlm_dwt.py                 # the built-in example: under two minutes on one CPU core
    python examples/run_mlm_dwt.py --baseline      # the same, beside the same model trained from scratch
    python examples/run_mlm_dwt.py --teacher google/bert_uncased_L-2_H-128_A-2 --hidden_size 256 \
        --num_hidden_layers 4 --dataset_name Salesforce/wikitext --dataset_config_name wikitext-2-raw-v1
    python examples/run_mlm_dwt.py my_run.yaml --max_steps 500    # flags from a YAML or JSON file, then more flags

The built-in example ends at least 0.25 nats below its teacher on held-out text, and leaves a plain transformers
checkpoint in ./student. All flags of `transformers.TrainingArguments` and `hf_dwt.DistillationArguments` work too.
"""

import copy
import json
import os
import sys
import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import HfArgumentParser, TrainerCallback

from hf_dwt import DistillationArguments, DistillationError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hf_dwt import DistillationTrainer

# ---- the built-in example ----
# These values replace the defaults below when you name neither teacher nor student (they suit that tiny teacher, not
# yours), and this text is used when you name no data. Any flag you give wins.

DATA = Path(__file__).resolve().parent / "data"
EXAMPLE: dict[str, Any] = {
    "teacher": [str(DATA / "weak_teacher")],  # 2 layers x 64, made by make_weak_teacher.py
    "hidden_size": 128,
    "max_steps": 600,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "learning_rate": 4e-3,  # best for this start; from scratch half of it is (docs/paper.md)
    "baseline_learning_rate": 2e-3,
    "warmup_steps": 0.05,  # below 1: a share of the steps
    "weight_decay": 0.01,
    "logging_steps": 40,
    "eval_strategy": "steps",
    "eval_steps": 40,
    "eval_on_start": True,
    "save_steps": 100,
    "save_total_limit": 1,
    "fill_mask": "we must help the american [MASK].|i ask the [MASK] to pass this bill.|we have work [MASK] do.",
}
EXAMPLE_TEXT = {"train_file": str(DATA / "train.txt"), "validation_file": str(DATA / "valid.txt")}

# ---- flags ----

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def flag(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


_TEACHERS = "Hub id or path of the weak teacher; --teacher A --teacher B for several, the student growing from A."


@dataclass
class ModelArguments:
    teacher: list[str] | None = field(default=None, metadata={"help": _TEACHERS, "action": "extend"})
    student: str | None = flag("Train this checkpoint instead of growing one; without --teacher, alone.")
    hidden_size: int | None = flag("Of the student; sizes not given follow.")
    num_hidden_layers: int | None = flag("Of the student.")
    num_attention_heads: int | None = flag("Of the student.")
    intermediate_size: int | None = flag("Of the student.")
    init: str = flag("How the student starts: see hf_dwt.from_weak_teacher.", "remap")
    rest: str | None = flag("What fills the weights that the teacher does not have: see there.")
    baseline: bool = flag("Also train the same architecture from scratch, without a teacher.", False)
    baseline_learning_rate: float | None = flag("Its own learning rate; default: the student's.")


@dataclass
class DataArguments:
    dataset_name: str | None = flag("Any dataset of the datasets library.")
    dataset_config_name: str | None = flag("Its configuration.")
    train_split: str = flag("Its split to train on.", "train")
    validation_split: str = flag("Its split to hold out.", "validation")
    text_column: str = flag("Its column that holds the text.", "text")
    train_file: str | None = flag("Instead of a dataset: a text file, one paragraph a line.")
    validation_file: str | None = flag("Another, held out.")
    holdout: float = flag("Share of the training text that is held out if nothing else is.", 0.05)
    max_seq_length: int | None = flag("Default: what tokenizer and model take, up to 512.")
    mlm_probability: float = flag("Share of tokens to predict.", 0.15)
    curve_samples: int = flag("Held-out blocks evaluated while training; the final figures use all.", 512)
    fill_mask: str | None = flag("Sentences with [MASK] that the trained student completes, separated by |.")


def parse(argv: list[str]) -> tuple[ModelArguments, DataArguments, DistillationArguments]:
    """Flags; a YAML or JSON file before them is read as flags too, so that types agree and later flags win."""
    kinds: Any = (ModelArguments, DataArguments, DistillationArguments)
    usage, purpose = "%(prog)s [FILE.yaml] [--flag VALUE ...]", (__doc__ or "").split("\n")[0]
    parser = HfArgumentParser(kinds, usage=usage, description=purpose, allow_abbrev=False)
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        argv = flags_from_file(argv[0], parser) + argv[1:]
    given = {flag.split("=")[0].lstrip("-").replace("-", "_") for flag in argv if flag.startswith("--")}
    parser.set_defaults(output_dir="student")
    if not given & {"teacher", "student"}:
        parser.set_defaults(**EXAMPLE)
    if not given & {"dataset_name", "train_file"}:
        parser.set_defaults(**EXAMPLE_TEXT)
    try:
        model_args, data_args, args = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except (DistillationError, ValueError) as error:
        parser.error(str(error))
    if not model_args.student and not any(getattr(model_args, size) for size in SIZES):
        parser.error("say what to train: --hidden_size or --num_hidden_layers to grow, or a checkpoint as --student")
    for file in (data_args.train_file, data_args.validation_file):
        if file and not Path(file).is_file():
            parser.error(f"no such file: {file}")
    return model_args, data_args, args


def flags_from_file(path: str, parser: HfArgumentParser) -> list[str]:
    import yaml

    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, yaml.YAMLError) as error:
        parser.error(str(error))
    if not isinstance(entries, dict):
        parser.error(f"{path}: expected lines of 'flag: value'")
    argv: list[str] = []
    for name, value in entries.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            argv += [f"--{name}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
    return argv


# ---- data and models ----


def load_blocks(options: DataArguments, tokenizer: "PreTrainedTokenizerBase", length: int, seed: int) -> "DatasetDict":
    """Training and held-out text as blocks of `length` tokens without padding."""
    from datasets import DatasetDict, load_dataset

    train, held_out = options.train_split, options.validation_split
    if options.dataset_name:
        raw = load_dataset(options.dataset_name, options.dataset_config_name)
    else:
        files = {train: options.train_file, held_out: options.validation_file}
        raw = load_dataset("text", data_files={split: file for split, file in files.items() if file})
    if held_out not in raw:
        parts = raw[train].train_test_split(options.holdout, seed=seed)
        raw = {train: parts["train"], held_out: parts["test"]}
    raw = DatasetDict({"train": raw[train], "validation": raw[held_out]})
    if options.text_column not in (columns := raw["train"].column_names):
        sys.exit(f"error: no column {options.text_column!r}; --text_column may be one of {', '.join(columns)}")

    def cut(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        # Joined first and cut afterwards: no paragraph is too long, so the tokenizer need not warn.
        text = tokenizer(batch[options.text_column], truncation=False, verbose=False, return_special_tokens_mask=True)
        joined = {name: list(chain.from_iterable(text[name])) for name in ("input_ids", "special_tokens_mask")}
        starts = range(0, len(joined["input_ids"]) - length + 1, length)
        return {name: [values[i : i + length] for i in starts] for name, values in joined.items()}

    blocks = raw.map(cut, batched=True, remove_columns=columns, desc="Tokenising")
    if empty := [split for split in blocks if not len(blocks[split])]:
        sys.exit(f"error: the {empty[0]} text does not fill a block of {length} tokens; lower --max_seq_length")
    return blocks


def make_student(options: ModelArguments, seed: int, loading: dict[str, Any]) -> "PreTrainedModel":
    """The checkpoint that was named, or a student grown from the teacher."""
    from transformers import AutoModelForMaskedLM

    from hf_dwt import from_weak_teacher

    if options.student:
        return AutoModelForMaskedLM.from_pretrained(options.student)
    given = {name: getattr(options, name) for name in (*SIZES, "rest") if getattr(options, name) is not None}
    # The class is said because not every checkpoint's config names one.
    given["auto_class"] = AutoModelForMaskedLM
    teacher = (options.teacher or [""])[0]
    return from_weak_teacher(teacher, init=options.init, seed=seed, **given, **loading)


# ---- training, and what it cost ----


class Clock(TrainerCallback):
    """Seconds of training (the teacher's share included, evaluation and saving not), noted at every evaluation."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A resumed run finds the seconds it had spent in the history that its checkpoint kept.
        self.seconds = max((entry.get("seconds", 0.0) for entry in state.log_history), default=0.0)
        self.on_save()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.start

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.log_history[-1]["seconds"] = round(self.seconds, 2)
        self.on_save()

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter() - self.seconds  # as if no time had passed since the last step


def train(trainer: "DistillationTrainer", held_out: "Dataset") -> dict[str, Any]:
    """Train, save and measure: a row of the table, with the curve of the held-out loss."""
    from hf_dwt.training.resume import last_whole_checkpoint

    clock = Clock()
    trainer.add_callback(clock)
    resume = trainer.args.resume_from_checkpoint
    if resume == "last":  # if there is one: the same command starts and restarts
        resume = last_whole_checkpoint(str(trainer.args.output_dir))
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    trainer.save_state()
    keys = ("step", "seconds", "eval_loss", "eval_teacher_loss")
    history = {entry["step"]: entry for entry in trainer.state.log_history if "eval_loss" in entry}  # one per step
    curve = [{key: entry[key] for key in keys if key in entry} for entry in history.values()]
    looked_at: Any = trainer.eval_dataset
    figures = {**measure(trainer, held_out), "seconds": round(clock.seconds, 1)}
    return {**figures, "curve_blocks": len(looked_at), "curve": curve}


def measure(trainer: "DistillationTrainer", held_out: "Dataset") -> dict[str, Any]:
    """Loss, perplexity and accuracy on all held-out blocks, with the masks that every model gets."""
    model: Any = trainer.model
    figures = trainer.evaluate(held_out)  # type: ignore[arg-type]
    row = {name: round(figures[f"eval_{name}"], 4) for name in ("loss", "perplexity", "accuracy")}
    return {"parameters": model.num_parameters(), "blocks": len(held_out), **row}


def seconds_of(teacher: str) -> float | None:
    """How long the teacher was trained, if Trainer.save_metrics left that beside it."""
    record = Path(teacher) / "all_results.json"
    return json.loads(record.read_text(encoding="utf-8")).get("train_runtime") if record.is_file() else None


def show(results: dict[str, Any], student: str, fill_mask: str | None) -> None:
    """The table, and what the student, loaded back by stock transformers alone, makes of some sentences."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    print(f"\n{'held out':10}{'parameters':>12}{'loss':>9}{'perplexity':>12}{'accuracy':>10}{'training':>10}")
    for name, row in results.items():
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        figures = f"{row['loss']:>9.3f}{row['perplexity']:>12.2f}{row['accuracy']:>10.3f}"
        print(f"{name:10}{row['parameters']:>12,}{figures}{seconds:>10}")
    tokenizer = AutoTokenizer.from_pretrained(student)
    fill = pipeline("fill-mask", model=AutoModelForMaskedLM.from_pretrained(student), tokenizer=tokenizer, top_k=3)
    for sentence in fill_mask.split("|") if fill_mask else ():
        guesses = fill(sentence.replace("[MASK]", tokenizer.mask_token))
        print(f"{sentence}  " + ", ".join(f"{guess['token_str']} {guess['score']:.0%}" for guess in guesses))


# ---- the whole ----


def main(argv: list[str] | None = None) -> dict[str, Any]:
    model_args, data_args, args = parse(sys.argv[1:] if argv is None else argv)

    # Imported here so that --help and a mistyped flag answer before anything is loaded.
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, set_seed

    from hf_dwt import DistillationTrainer
    from hf_dwt.teachers import SeveralTeachers

    if model_args.teacher == EXAMPLE["teacher"] and "OMP_NUM_THREADS" not in os.environ:
        # A step of models this small takes up to ten times longer on two threads than on one.
        torch.set_num_threads(1)
        print("The example's models are tiny: one thread is fastest. Set OMP_NUM_THREADS for another number.")
    args.dataloader_pin_memory &= args.device.type != "cpu"  # torch warns otherwise

    loading: Any = args.teacher_model_init_kwargs or {}
    student = make_student(model_args, args.seed, loading)
    teachers = model_args.teacher or []
    tokenizer = AutoTokenizer.from_pretrained(teachers[0] if teachers else model_args.student)
    source: Any = SeveralTeachers(teachers) if len(teachers) > 1 else next(iter(teachers), None)
    longest = min(tokenizer.model_max_length, getattr(student.config, "max_position_embeddings", 512), 512)
    with args.main_process_first(desc="tokenisation"):
        blocks = load_blocks(data_args, tokenizer, data_args.max_seq_length or longest, args.seed)
    held_out = blocks["validation"]
    some = held_out.select(range(0, len(held_out), max(1, len(held_out) // data_args.curve_samples)))
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=data_args.mlm_probability)

    def trainer_of(model: "PreTrainedModel", teacher: Any = None, **changes: Any) -> DistillationTrainer:
        own = copy.copy(args)
        vars(own).update(changes)
        if teacher is None and teachers:  # the teacher's own figures, and the baseline
            own.hidden_term = own.hidden_weight = own.hidden_layers = own.hidden_term_kwargs = None
        data: dict[str, Any] = {"train_dataset": blocks["train"], "eval_dataset": some, "data_collator": collator}
        return DistillationTrainer(model, own, teacher_model=teacher, processing_class=tokenizer, **data)

    results: dict[str, Any] = {}
    if args.teacher_cache_only:  # of the run that the same flags without it start
        print(f"The teacher's cache: {trainer_of(student, source).build_teacher_cache()}")
        return results
    for number, name in enumerate(teachers):
        teacher = AutoModelForMaskedLM.from_pretrained(name, **loading)
        row = measure(trainer_of(teacher, push_to_hub=False), held_out)
        results[f"teacher {number}" if len(teachers) > 1 else "teacher"] = {**row, "seconds": seconds_of(name)}
    trainer = trainer_of(student, source)
    results["student"] = train(trainer, held_out)
    if model_args.baseline:
        set_seed(args.seed)
        scratch = AutoModelForMaskedLM.from_config(student.config)
        apart: dict[str, Any] = {"output_dir": f"{args.output_dir}-baseline", "push_to_hub": False}
        apart["learning_rate"] = model_args.baseline_learning_rate or args.learning_rate
        resume = args.resume_from_checkpoint and "last"
        results["baseline"] = train(trainer_of(scratch, resume_from_checkpoint=resume, **apart), held_out)
        figures = ("loss", "perplexity", "accuracy")
        trainer.recorder.baseline = {name: results["baseline"][name] for name in figures}  # for the card
        trainer.recorder.save(trainer.args, trainer.state)

    if trainer.is_world_process_zero():
        place = Path(str(args.output_dir))
        (place / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        show(results, str(place), data_args.fill_mask)
    if args.push_to_hub:
        print(f"On the Hub: {trainer.push_to_hub()}")
    return results


if __name__ == "__main__":
    try:
        main()
    except DistillationError as error:
        sys.exit(f"error: {error}")
