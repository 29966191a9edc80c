"""What a run does, under an engine or in one process: every case gives figures that both must share.

The learning rate is small: an optimiser such as AdamW spreads the rounding of a gradient near 0 over whole steps.
"""

import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedModel, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from hf_dwt import DistillationTrainer, from_weak_teacher
from hf_dwt.teachers import OnlineTeacher, SeveralTeachers
from tests.engines import Engine
from tests.models import tiny
from tests.training import CHECKPOINTING, Example, history, ragged_examples, trainer

FIGURES = ("loss", "grad_norm", "hard_loss", "soft_loss")
STEP = 8
"""Samples of an optimiser step."""

Figures: TypeAlias = list[tuple[float, ...]]


def run_of(
    engine: Engine | None,
    student: PreTrainedModel,
    teacher: Any,
    out: Path | str,
    adapt: Callable[[PreTrainedModel], Any] = lambda model: model,
    accumulation: int = 1,
    **settings: Any,
) -> DistillationTrainer:
    """A trainer whose steps are of `STEP` samples over all processes.

    Args:
        engine: None for one process.
        student: before an engine shards it.
        teacher: as for the trainer.
        out: the output directory, the same on every rank.
        adapt: what is done with the student once it is loaded.
        accumulation: micro-batches of a step.
        **settings: of `TrainingArguments`.
    """
    processes = 1
    if engine is not None:
        settings = engine.settings(student) | settings
        student, processes = engine.load(student), engine.data_parallel
    settings = {"per_device_train_batch_size": STEP // (processes * accumulation), **settings}
    settings |= {"gradient_accumulation_steps": accumulation, "ddp_timeout": 60}
    return trainer(adapt(student), teacher, out, **{"soft_weight_schedule": "constant", **settings})


def figures(engine: Engine | None, name: str = "llama", **settings: Any) -> Figures:
    """The figures of five steps of a student with a teacher of its kind."""
    with tempfile.TemporaryDirectory() as out:
        run = run_of(engine, tiny(name), tiny(name, seed=1), out, **settings)
        run.train()
    unset_hf_deepspeed_config()  # under which whatever model is made next would be sharded
    return history(run, *FIGURES)


def accumulated(engine: Engine | None, folder: Path) -> Figures:
    return figures(engine, accumulation=2 if engine else 1)


def checkpointed(engine: Engine | None, folder: Path) -> Figures:
    """Layers that are run again in the backward pass."""
    return figures(engine, **{f"{CHECKPOINTING}_checkpointing": engine is not None})


def compared(engine: Engine | None, folder: Path) -> Figures:
    """A term on hidden states, with a projector that learns from the student's backward pass, in micro-batches."""
    layers: dict[int, int | str] = {1: 1, 2: "last"}
    settings = {"hidden_term": "masked_features", "hidden_weight": 20.0, "hidden_layers": layers}
    with tempfile.TemporaryDirectory() as out:
        student, accumulation = tiny("llama", hidden_size=32), 2 if engine else 1
        run = run_of(engine, student, tiny("llama", seed=1), out, accumulation=accumulation, **settings)
        run.train()
    unset_hf_deepspeed_config()
    return history(run, *FIGURES, "hidden_loss")


class Stock(Trainer):
    """transformers' own trainer, for the same call."""

    def __init__(self, *args: Any, teacher_model: None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def in_bf16(engine: Engine | None, folder: Path) -> dict[str, Figures]:
    """Steps on the labels alone in bf16, and those of transformers' own trainer."""
    found = {}
    for kind in (DistillationTrainer, Stock):
        with tempfile.TemporaryDirectory() as out:
            run = run_of(engine, tiny("llama"), None, out, trainer_class=kind, bf16=True)
            run.train()
        unset_hf_deepspeed_config()
        found[kind.__name__] = history(run, "loss", "grad_norm")
    return found


def shares(engine: Engine | None, folder: Path, name: str) -> Figures:
    """Ranks on different sides of half of the positions labelled, where the last layer runs at the rows alone or not.

    All ranks must call the same collectives all the same.
    """
    examples: list[Example] = []
    for step in range(5):
        many, few = (ragged_examples(4, share=share, seed=2 * step) for share in (0.9, 0.2))
        examples += [*many, *few] if step % 2 else [*few, *many]
    return figures(engine, name, train_dataset=examples)


def without_rows(engine: Engine | None, folder: Path) -> Figures:
    """Steps in which one rank has no label at all."""
    examples = ragged_examples()
    for start in (4, 8):
        for example in examples[start : start + 4]:
            example["labels"] = [-100] * len(example["labels"])
    return figures(engine, train_dataset=examples)


def evaluation(run: DistillationTrainer) -> tuple[float, ...]:
    """The figures of seven examples, which processes cannot share evenly."""
    found = run.evaluate(ragged_examples(7, seed=4))
    return tuple(found[f"eval_{name}"] for name in ("loss", "accuracy", "soft_loss", "teacher_loss"))


def evaluated(engine: Engine | None, folder: Path, before: bool = False) -> list[tuple[float, ...]]:
    """Figures of the student after training, and before it if so wanted, which must not change what is trained."""
    size = 2 if engine else 7
    with tempfile.TemporaryDirectory() as out:
        run = run_of(engine, tiny("llama"), tiny("llama", seed=1), out, per_device_eval_batch_size=size)
        first = [evaluation(run)] if before else []
        run.train()
        last = evaluation(run)
    assert last not in first
    return [*first, last, *history(run, *FIGURES)]


def cached(engine: Engine | None, folder: Path) -> list[Figures]:
    """The teacher's targets, made for a cache and then read from it."""
    place = str(folder / ("one" if engine is None else "several"))
    return [figures(engine, teacher_cache=place) for _ in range(2)]


def grown(engine: Engine | None, folder: Path) -> Figures:
    weak = tiny("llama")
    student = from_weak_teacher(weak, hidden_size=32, num_hidden_layers=3, init="clone", seed=0)
    with tempfile.TemporaryDirectory() as out:
        run = run_of(engine, student, weak, out)
        run.train()
    return history(run, *FIGURES)


def adapted(engine: Engine | None, folder: Path) -> Figures:
    """A student of which an adapter learns."""
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])

    def adapt(model: PreTrainedModel) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return get_peft_model(model, config)

    with tempfile.TemporaryDirectory() as out:
        run = run_of(engine, tiny("llama"), tiny("llama", seed=1), out, adapt)
        run.train()
    return history(run, *FIGURES)


def several(engine: Engine | None, folder: Path) -> Figures:
    """Two teachers, of which each row follows the better one."""
    teacher = SeveralTeachers([tiny("llama", seed=seed) for seed in (1, 2)], over="row")
    with tempfile.TemporaryDirectory() as out:
        run = run_of(engine, tiny("llama"), teacher, out)
        run.train()
    return history(run, *FIGURES, "teacher_weight_0")


def online(engine: Engine | None, folder: Path) -> Figures:
    """A teacher that learns from the student beside it."""
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    teacher = OnlineTeacher(tiny("llama", seed=1), config, follow=0.5)
    with tempfile.TemporaryDirectory() as out:
        run = run_of(engine, tiny("llama"), teacher, out)
        run.train()
    return history(run, *FIGURES, "teacher_own_loss", "teacher_soft_loss")


def resumed(engine: Engine | None, folder: Path) -> dict[str, Any]:
    """Six steps, and the last three of them again from a checkpoint: the same to the bit, weights included."""
    saves = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    found = {}
    for part, place in (("whole", None), ("again", "whole/checkpoint-3")):
        out = folder / ("one" if engine is None else "several")
        run = run_of(engine, tiny("llama"), tiny("llama", seed=1), out / part, **saves)
        run.train(resume_from_checkpoint=None if place is None else str(out / place))
        if run.is_fsdp_enabled:
            run.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        run.save_model()
        run.accelerator.wait_for_everyone()
        found[part] = history(run, *FIGURES)
        del run
        unset_hf_deepspeed_config()
    assert found["again"][-3:] == found["whole"][-3:]
    one, other = (load_file(out / part / "model.safetensors") for part in ("whole", "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    return {"steps": found["whole"], "weights": {key: value.flatten().tolist() for key, value in one.items()}}


def best(engine: Engine | None, folder: Path) -> list[float]:
    """The best of three evaluations is loaded at the end, and is what is saved."""
    out = folder / ("one" if engine is None else "several")
    examples = ragged_examples(7, seed=4)
    saves = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
    run = run_of(
        engine,
        tiny("llama"),
        tiny("llama", seed=1),
        out,
        load_best_model_at_end=True,
        learning_rate=0.1,  # so large that the second evaluation is the best
        per_device_eval_batch_size=2 if engine else 7,
        more={"eval_dataset": examples},
        **saves,
    )
    run.train()
    losses = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert min(losses) == losses[1] < losses[2]
    assert run.state.best_model_checkpoint is not None and run.state.best_model_checkpoint.endswith("-2")
    loaded = run.evaluate(examples)["eval_loss"]
    return [losses[1], loaded]


CASES: dict[str, Callable[[Engine | None, Path], Any]] = {
    "gpt2": lambda engine, folder: figures(engine, "gpt2"),
    "llama": lambda engine, folder: figures(engine, "llama"),
    "modernbert": lambda engine, folder: figures(engine, "modernbert"),
    "accumulated": accumulated,
    "checkpointed": checkpointed,
    "compared": compared,
    "shares of gpt2": partial(shares, name="gpt2"),
    "shares of llama": partial(shares, name="llama"),
    "without rows": without_rows,
    "evaluated": evaluated,
    "evaluated before": partial(evaluated, before=True),
    "cached": cached,
    "grown": grown,
    "adapted": adapted,
    "several": several,
    "online": online,
    "resumed": resumed,
    "best": best,
}


ALL = {**CASES, "in bf16": in_bf16}


def on_each_rank(engine: Engine, folder: Path, names: list[str]) -> dict[str, Any]:
    """What every case gives on this rank, or the error that it ended in."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            (place := folder / name).mkdir(exist_ok=True)
            found[name] = ALL[name](engine, place)
        except Exception:
            found[name] = traceback.format_exc()
        unset_hf_deepspeed_config()
    return found
