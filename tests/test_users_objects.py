"""What belongs to a user is after a training as it was before: models, arguments, and the state of the process."""

import logging
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_dwt import DistillationTrainer, assess_teacher, from_weak_teacher
from hf_dwt.errors import TaskError

from .models import tiny
from .training import arguments, pad, ragged_examples, trainer


def look(model: Any) -> dict[str, Any]:
    """All of a model that somebody else may rely on; `values` apart from what a module is made of."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "learns": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "gradients": {name: parameter.grad is not None for name, parameter in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: [len(getattr(module, hook)) for hook in hooks] for name, module in model.named_modules()},
        "config": model.config.to_dict(),
        "generation": getattr(model, "generation_config", None) and model.generation_config.to_dict(),
    }


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> bool:
    values = before["values"].keys() == after["values"].keys() and all(
        torch.equal(value, after["values"][name]) for name, value in before["values"].items()
    )
    rest = [name for name in before if name != "values"]
    return values and all(before[name] == after[name] for name in rest)


def teachers(name: str) -> nn.Module:
    """A model in training mode but for one part of it, of which all but one parameter of its body learn."""
    model = tiny(name, seed=1).train()
    next(model.children()).eval()
    next(p for n, p in model.named_parameters() if "norm" in n.lower()).requires_grad_(False)
    return model


SETTINGS: list[dict[str, Any]] = [
    {"soft_weight_schedule": "constant"},
    {"soft_weight_schedule": "auto"},
    {"soft_weight_schedule": "constant", "loss_kernel": "plain"},
    {"soft_weight_schedule": "constant", "teacher_cache": "cache", "teacher_cache_form": "hidden"},
    {"soft_weight_schedule": "constant", "teacher_cache": "cache", "teacher_cache_form": "top_k"},
]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("bert", one) for one in SETTINGS] + [("llama", one) for one in SETTINGS[1::2]] + [("t5", SETTINGS[2])],
    ids=str,
)
def test_a_teacher_is_as_it_was(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    teacher = teachers(name)
    before = look(teacher)
    assert len(set(before["modes"].values())) == len(set(before["learns"].values())) == 2
    if "teacher_cache" in settings:
        settings = {**settings, "teacher_cache": str(tmp_path / "cache")}
    student = tiny(name)
    start = look(student)
    run = trainer(student, teacher, tmp_path, eval_strategy="steps", eval_steps=3, more=EVALUATED, **settings)
    run.train()
    run.evaluate()
    assert unchanged(before, look(teacher))
    assert not unchanged(start, look(student))


EVALUATED = {"eval_dataset": ragged_examples(8, seed=2)}


def test_a_teacher_can_be_trained_next(tmp_path: Path) -> None:
    """Generations: the teacher of one run is the student of the next."""
    first, second = tiny("bert"), tiny("bert", seed=1)
    trainer(first, second, tmp_path).train()
    before = look(second)
    trainer(second, first, tmp_path).train()
    assert not unchanged(before, look(second))


def test_a_student_that_cannot_learn_is_refused(tmp_path: Path) -> None:
    student = tiny("bert").requires_grad_(False)
    run = trainer(student, tiny("bert", seed=1), tmp_path)
    assert "eval_loss" in run.evaluate(ragged_examples(8))  # nothing has to learn for that
    with pytest.raises(TaskError, match="^model='BertForMaskedLM': has no parameter with requires_grad.*unfrozen"):
        run.train()
    made = DistillationTrainer(
        None,
        arguments(tmp_path),
        pad,
        ragged_examples(),
        model_init=lambda: tiny("bert").requires_grad_(False),
        teacher_model=tiny("bert", seed=1),
    )
    with pytest.raises(TaskError, match="has no parameter with requires_grad"):
        made.train()
    next(student.parameters()).requires_grad_(True)
    assert run.train().global_step == 5


@pytest.mark.parametrize("init", ["random", "remap", "clone", "pad", "aki", "auto"])
def test_a_teacher_that_was_grown_from_is_as_it_was(init: str) -> None:
    teacher = teachers("llama")
    before = look(teacher)
    student = from_weak_teacher(teacher, hidden_size=32, num_hidden_layers=3, init=init)
    assert unchanged(before, look(teacher))
    assert student.num_parameters() > teacher.num_parameters()


def test_a_teacher_that_was_assessed_is_as_it_was() -> None:
    teacher, student = teachers("bert"), teachers("bert")
    before = look(teacher), look(student)
    assess_teacher(teacher, ragged_examples(), student=student, data_collator=pad)
    assert unchanged(before[0], look(teacher)) and unchanged(before[1], look(student))


def test_the_look_sees_each_change() -> None:
    """Each way in which a model can be changed is one that `look` sees."""
    changes: list[Any] = [
        lambda model: model.requires_grad_(False),
        lambda model: model.eval(),
        lambda model: setattr(model.config, "use_cache", not model.config.use_cache),
        lambda model: next(model.parameters()).data.add_(1),
        lambda model: model.register_forward_hook(lambda *_: None),
        lambda model: setattr(list(model.parameters())[-1], "grad", torch.zeros_like(list(model.parameters())[-1])),
    ]
    for change in changes:
        model: Any = teachers("bert")
        before = look(model)
        assert unchanged(before, look(model))
        change(model)
        assert not unchanged(before, look(model))


# ---- the arguments and the process ----


def process() -> dict[str, Any]:
    """What is of the whole process."""
    return {
        "accelerate": {k: v for k, v in PartialState._shared_state.items() if not k.startswith("_")},
        "cpu": PartialState._shared_state.get("_cpu"),
        "mixed precision": AcceleratorState._shared_state.get("_mixed_precision"),
        "environment": dict(os.environ),
        "levels": {name: logging.getLogger(name).level for name in ("", "transformers", "hf_dwt", "accelerate")},
        "filters": list(warnings.filters),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
    }


@pytest.mark.parametrize("kind", [TrainingArguments, arguments], ids=["plain", "ours"])
def test_arguments_and_accelerate_are_as_stock_leaves_them(kind: Any, tmp_path: Path) -> None:
    """In the same steps, with `Trainer` in the place of ours."""

    def steps(trainer_class: Any, **teacher: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        PartialState._reset_state()
        args = kind(str(tmp_path), max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True, logging_steps=1)
        before = process()
        assert before["cpu"] is True
        run = trainer_class(tiny("bert"), args, pad, ragged_examples(), **teacher)
        built = process()
        run.train()
        assert run.args is args
        plain = {k: v for k, v in vars(args).items() if k != "logging_dir"}
        return {**plain, "distributed_state": None}, {"before": before, "built": built, "after": process()}

    steps(Trainer)  # imports DeepSpeed where it is installed, which sets a variable
    stock, ours = steps(Trainer), steps(DistillationTrainer, teacher_model=tiny("bert", seed=1))
    assert stock[0].keys() == ours[0].keys()
    assert {k: str(v) for k, v in stock[0].items()} == {k: str(v) for k, v in ours[0].items()}
    for moment in ("before", "built", "after"):
        assert {k: str(v) for k, v in stock[1][moment].items()} == {k: str(v) for k, v in ours[1][moment].items()}


def generators() -> tuple[Any, ...]:
    _, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), bytes(keys), rest, bytes(torch.get_rng_state().numpy())  # type: ignore[arg-type]


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    run = trainer(tiny("bert", hidden_dropout_prob=0.1), tiny("bert", seed=1), tmp_path)
    teacher, examples = tiny("bert", seed=1), ragged_examples(16)
    calls: dict[str, Any] = {
        "grow": lambda: [from_weak_teacher(teacher, hidden_size=32, init=i) for i in ("random", "remap", "clone")],
        "assess": lambda: assess_teacher(teacher, examples, student={"hidden_size": 32}, data_collator=pad),
        "evaluate": lambda: run.evaluate(examples),
        "predict": lambda: run.predict(examples),
    }
    for name, call in calls.items():
        before = generators()
        call()
        assert generators() == before, name
    torch.rand(())
    assert generators() != before
