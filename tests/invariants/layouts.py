"""The same samples split in different ways, in one process or in each of several."""

import tempfile
from typing import Any
from unittest.mock import patch

import torch
from accelerate import PartialState

from hf_dwt.forward.rows import Rows
from hf_dwt.objective import Targets, chunked
from hf_dwt.objective.corrections import CORRECTIONS
from hf_dwt.objective.hidden import HIDDEN_TERMS
from hf_dwt.teachers import CorrectedTeacher, ReinforcedSelection, SeveralTeachers
from hf_dwt.teachers.several import WEIGHTINGS
from hf_dwt.training import adaptive
from tests.models import VOCAB, tiny
from tests.tasks import CASES, stack
from tests.training import history, ragged_examples, trainer

ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "modernbert", "gpt2", "llama", "t5")
SETTINGS: dict[str, dict[str, Any]] = {
    "hard alone": {"soft_weight": 0.0},
    "one to one": {"soft_weight": 1.0, "soft_weight_schedule": "constant", "temperature": 2.0},
    "schedule": {"soft_weight_schedule": "knowledge_inheritance", "soft_weight_schedule_kwargs": {"until": 0.7}},
}
SPLITS = [
    (name, micro, setting)
    for name in ARCHITECTURES
    for micro in ((4, 2) if name in ("bert", "t5") else (2,))
    for setting in (SETTINGS if name in ("bert", "t5") else ("one to one",))
]
"""(architecture, samples of a micro-batch, setting). Neither a half beside a quarter nor the weights of the two terms
show anything of an architecture; with both terms all that it computes is in the step."""
STEP = 8
"""Samples of an optimiser step."""


def steps(name: str, setting: str, micro: int, processes: int = 1, **more: Any) -> list[tuple[float, ...]]:
    """(loss, gradient norm) of five steps of 8 samples, in micro-batches of `micro` a process and chunks of 5 rows."""
    few = patch.multiple(chunked, BYTES_ON_CPU=5 * VOCAB * 4, LEAST_ROWS=1)
    with tempfile.TemporaryDirectory() as out, few:
        run = trainer(
            tiny(name),
            tiny(name, seed=1),
            out,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=STEP // (micro * processes),
            **SETTINGS[setting],
            **more,
        )
        run.train()
    return history(run, "loss", "grad_norm")


class Knowing:
    """A teacher that knows a part of the truth, more of some classes than of others."""

    columns: frozenset[str] = frozenset()

    def targets(self, batch: Any, rows: Rows) -> Targets:
        known = torch.nn.functional.one_hot(rows.labels, VOCAB) * (0.05 * rows.labels.unsqueeze(1))
        return Targets(known.float())


def corrected_steps(name: str, micro: int, processes: int = 1) -> list[tuple[float, ...]]:
    """As `steps`, of a teacher with that correction; of the whole training one progresses as well."""
    return steps("bert", "schedule", micro, processes, teacher_correction=name)


MIXED: dict[str, dict[str, Any]] = {
    **{name: {"weighting": name} for name in WEIGHTINGS},
    "cross_entropy row": {"weighting": "cross_entropy", "over": "row"},
    "numbers": {"weighting": [1, 3]},
    **{
        f"policy {reward} {over}": {
            "weighting": ReinforcedSelection(reward, warmup=0.2, learning_rate=0.1),
            "over": over,
        }
        for reward, over in (("student", "example"), ("both", "row"))
    },
}
"""Weightings over what no split takes apart."""


def mixed_steps(name: str, micro: int, processes: int = 1) -> list[tuple[float, ...]]:
    """(loss, gradient norm, weight of one teacher) of steps with two teachers, one of them with a correction."""
    few = patch.multiple(chunked, BYTES_ON_CPU=5 * VOCAB * 4, LEAST_ROWS=1)
    teacher = SeveralTeachers([CorrectedTeacher(tiny("bert", seed=1), "revise"), tiny("bert", seed=2)], **MIXED[name])
    with tempfile.TemporaryDirectory() as out, few:
        run = trainer(
            tiny("bert"),
            teacher,
            out,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=STEP // (micro * processes),
            **SETTINGS["one to one"],
        )
        run.train()
    return history(run, "loss", "grad_norm", "teacher_weight_0")


COMPARED: dict[str, dict[str, Any]] = {
    **{name: {"hidden_term": name} for name in HIDDEN_TERMS},
    "masked_features pool": {"hidden_term": "masked_features", "hidden_term_kwargs": {"pool": True}},
}


def compared_steps(name: str, micro: int, processes: int = 1) -> list[tuple[float, ...]]:
    """(loss, gradient norm, hidden term) of steps with a term on hidden states, and with projectors that learn."""
    with tempfile.TemporaryDirectory() as out:
        run = trainer(
            tiny("bert", hidden_size=32),
            tiny("bert", seed=1),
            out,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=STEP // (micro * processes),
            hidden_weight=20.0,
            **SETTINGS["one to one"],
            **COMPARED[name],
        )
        run.train()
    return history(run, "loss", "grad_norm", "hidden_loss")


def task_steps(name: str, micro: int, processes: int = 1) -> list[tuple[float, ...]]:
    """(loss, gradient norm) of steps of a task whose rows are no tokens."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as out:
        run = trainer(
            case.model(),
            case.model(seed=1),
            out,
            train_dataset=case.examples(),
            more={"data_collator": stack},
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=STEP // (micro * processes),
            max_steps=3,
            soft_weight_schedule="constant",
        )
        run.train()
    return history(run, "loss", "grad_norm")


def adaptive_steps(micro: int, processes: int = 1) -> list[tuple[float, ...]]:
    """(loss, soft weight) of steps whose weights follow the run."""
    with tempfile.TemporaryDirectory() as out, patch.object(adaptive, "EVERY", 2):
        run = trainer(
            tiny("bert"),
            Knowing(),
            out,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=STEP // (micro * processes),
            soft_weight_schedule="auto",
        )
        run.train()
    return history(run, "loss", "soft_weight")


def evaluation(size: int) -> dict[str, float]:
    """The figures of seven examples, which two processes cannot share evenly."""
    with tempfile.TemporaryDirectory() as out:
        run = trainer(tiny("bert"), tiny("bert", seed=1), out, per_device_eval_batch_size=size)
        figures = run.evaluate(ragged_examples(7, seed=4))
    return {name: figures[f"eval_{name}"] for name in ("loss", "accuracy", "soft_loss", "teacher_loss")}


def after_an_evaluation(processes: int = 1) -> list[tuple[float, ...]]:
    """(loss, gradient norm) of steps that an evaluation came before, with an optimizer of the user's own."""
    student = tiny("bert")
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    more = {"optimizers": (optimizer, None), "eval_dataset": ragged_examples(7, seed=4)}
    with tempfile.TemporaryDirectory() as out:
        size = STEP // processes
        run = trainer(
            student, tiny("bert", seed=1), out, more=more, per_device_train_batch_size=size, **SETTINGS["one to one"]
        )
        run.evaluate()
        run.train()
    return history(run, "loss", "grad_norm")


def logs() -> list[tuple[float, ...]]:
    """The logged terms of a run over all processes."""
    with tempfile.TemporaryDirectory() as out:
        micro = STEP // PartialState(cpu=True).num_processes
        run = trainer(
            tiny("bert"), tiny("bert", seed=1), out, per_device_train_batch_size=micro, **SETTINGS["one to one"]
        )
        run.train()
    return history(run, "hard_loss", "soft_loss", "agreement")


def on_each_process() -> dict[str, Any]:
    """All that is compared with a single process."""
    processes = PartialState(cpu=True).num_processes
    return {
        "processes": processes,
        "steps": {(name, micro, setting): steps(name, setting, micro, processes) for name, micro, setting in SPLITS},
        "corrected": {name: corrected_steps(name, 2, processes) for name in CORRECTIONS},
        "mixed": {name: mixed_steps(name, 2, processes) for name in MIXED},
        "tasks": {name: task_steps(name, 2, processes) for name in CASES},
        "compared": {name: compared_steps(name, 2, processes) for name in COMPARED},
        "evaluation": evaluation(2),
        "adaptive": adaptive_steps(2, processes),
        "logs": logs(),
        "after an evaluation": after_an_evaluation(processes),
    }
