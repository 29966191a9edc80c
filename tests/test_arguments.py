"""DistillationArguments: what it accepts, refuses, writes down and keeps to itself."""

import copy
import dataclasses
import inspect
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import HfArgumentParser, TrainingArguments

from hf_dwt import DistillationArguments
from hf_dwt.errors import ArgumentError, SetupError
from hf_dwt.schedules import SCHEDULES

# The public options. A new one is a promise: add it here on purpose, with a row in the docs.
OPTIONS = {
    "hard_weight": 1.0,
    "soft_weight": 1.0,
    "soft_weight_schedule": "auto",
    "soft_weight_schedule_kwargs": None,
    "teacher_correction": None,
    "teacher_correction_kwargs": None,
    "hidden_term": None,
    "hidden_weight": None,
    "hidden_weight_schedule": "constant",
    "hidden_weight_schedule_kwargs": None,
    "hidden_layers": None,
    "hidden_term_kwargs": None,
    "soft_term": "forward_kl",
    "temperature": 1.0,
    "soft_loss_scaling": "none",
    "loss_kernel": "auto",
    "teacher_model_init_kwargs": None,
    "teacher_placement": "auto",
    "teacher_cache": None,
    "teacher_cache_form": "hidden",
    "teacher_cache_k": 50,
    "teacher_cache_epochs": 10,
    "teacher_cache_only": False,
    "save_on_interrupt": False,
}


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return (student.exp() * (student - teacher)).sum(-1)


def make(**settings: Any) -> DistillationArguments:
    return DistillationArguments(output_dir="unused", use_cpu=True, report_to="none", **settings)


def test_the_options_and_their_defaults_are_these() -> None:
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    own = {f.name: f.default for f in dataclasses.fields(DistillationArguments) if f.name not in inherited}
    assert own == OPTIONS


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.0}, ["temperature=0.0", "above 0"]),
        ({"temperature": float("nan")}, ["temperature=nan"]),
        ({"temperature": "hot"}, ["temperature='hot'", "above 0"]),
        ({"hard_weight": -1.0}, ["hard_weight=-1.0", "from 0 upwards"]),
        ({"soft_weight": -0.5}, ["soft_weight=-0.5"]),
        ({"soft_weight": float("inf")}, ["soft_weight=inf"]),
        ({"hard_weight": 0.0, "soft_weight": 0.0}, ["nothing to learn"]),
        ({"soft_weight_schedule": "constnat"}, ["soft_weight_schedule='constnat'", "Did you mean 'constant'?"]),
        ({"soft_weight_schedule": "step_off", "soft_weight_schedule_kwargs": {"until": 2}}, ["until", "out of range"]),
        ({"soft_weight_schedule_kwargs": "until=2"}, ["soft_weight_schedule_kwargs='until=2'", "JSON"]),
        ({"soft_weight_schedule_kwargs": "[1]"}, ["not a dict"]),
        ({"teacher_model_init_kwargs": "{"}, ["teacher_model_init_kwargs='{'", "JSON"]),
        ({"soft_term": "reverse"}, ["soft_term='reverse'", "forward_kl"]),
        ({"soft_loss_scaling": "tau"}, ["soft_loss_scaling='tau'", "tau_squared"]),
        (
            {"save_on_interrupt": True, "enable_jit_checkpoint": True},
            ["enable_jit_checkpoint=True", "SIGTERM"],
        ),
        ({"loss_kernel": "fast"}, ["loss_kernel='fast'", "Available: auto, plain."]),
        ({"loss_kernel": "compile"}, ["loss_kernel='compile': is unknown", "Available: auto, plain."]),
        ({"teacher_cache_form": "topk"}, ["teacher_cache_form='topk'", "Did you mean 'top_k'?"]),
        ({"teacher_cache_k": 0}, ["teacher_cache_k=0", "from 1 upwards"]),
        ({"teacher_cache_epochs": 1.5}, ["teacher_cache_epochs=1.5", "whole number"]),
        (
            {"teacher_cache": "x", "teacher_cache_form": "top_k", "soft_term": reverse_kl},
            ["teacher_cache_form='top_k'", "'hidden'"],
        ),
    ],
)
def test_bad_values_are_refused_by_name_value_and_fix(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ArgumentError) as error:
        make(**settings)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_all_bad_values_are_reported_together() -> None:
    with pytest.raises(SetupError) as error:
        make(temperature=-1.0, soft_weight=-2.0, soft_weight_schedule="never")
    assert [problem.argument for problem in error.value.problems] == [
        "soft_weight",
        "temperature",
        "soft_weight_schedule",
    ]
    assert "temperature=-1.0" in str(error.value) and "soft_weight=-2.0" in str(error.value)


def test_dicts_may_come_as_json() -> None:
    args = make(
        soft_weight_schedule="knowledge_inheritance",
        soft_weight_schedule_kwargs='{"until": 0.5}',
        teacher_model_init_kwargs='{"revision": "v1", "dtype": "float32"}',
    )
    assert args.soft_weight_schedule_kwargs == {"until": 0.5}
    assert args.teacher_model_init_kwargs == {"revision": "v1", "dtype": "float32"}
    assert args.schedule()(0.25) == (0.5, 0.5) != make(soft_weight_schedule="knowledge_inheritance").schedule()(0.25)


def test_a_command_line_gives_every_option() -> None:
    line = ["--output_dir", "unused", "--soft_weight", "2", "--soft_weight_schedule", "linear_decay"]
    line += [
        "--soft_weight_schedule_kwargs",
        '{"start": 3}',
        "--temperature",
        "2",
        "--soft_loss_scaling",
        "tau_squared",
    ]
    line += [
        "--loss_kernel",
        "plain",
        "--hard_weight",
        "0.5",
        "--soft_term",
        "forward_kl",
        "--teacher_model_init_kwargs",
        '{"revision": "a"}',
    ]
    (args,) = HfArgumentParser(DistillationArguments).parse_args_into_dataclasses(line)
    assert (args.hard_weight, args.soft_weight, args.temperature) == (0.5, 2.0, 2.0)
    assert args.schedule()(0.0) == (1.0, 3) and args.loss_kernel == "plain"
    assert args.teacher_model_init_kwargs == {"revision": "a"}


def test_no_token_is_pickled(tmp_path: Path) -> None:
    """Trainer saves its arguments beside the weights and pushes them: stock arguments carry the raw token."""
    secret = "hf_" + "s3cret" * 5
    ours = make(hub_token=secret, teacher_model_init_kwargs={"token": secret, "revision": "v1"})
    stock = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none", hub_token=secret)
    blobs = []
    for args in (ours, stock):
        buffer = io.BytesIO()
        torch.save(args, buffer)
        blobs.append(buffer.getvalue() + pickle.dumps(args))
    assert secret.encode() not in blobs[0]
    assert secret.encode() in blobs[1]  # what this guards against
    assert secret not in ours.to_json_string()
    assert ours.hub_token == secret and ours.teacher_model_init_kwargs["token"] == secret  # type: ignore[index, call-overload]
    for twin in (copy.copy(ours), copy.deepcopy(ours)):
        assert twin.hub_token == secret and twin.teacher_model_init_kwargs == ours.teacher_model_init_kwargs
        assert twin == ours and twin is not ours
    again = pickle.loads(pickle.dumps(ours))
    assert again.teacher_model_init_kwargs == {"token": None, "revision": "v1"} and again.soft_weight == 1.0


def test_a_callable_schedule_is_written_by_name() -> None:
    args = make(soft_weight_schedule=lambda progress: (1.0, 0.25))
    assert args.schedule()(0.5) == (1.0, 0.25)
    assert "lambda" in json.loads(args.to_json_string())["soft_weight_schedule"]
    assert "lambda" in pickle.loads(pickle.dumps(args)).soft_weight_schedule
    named = make(soft_weight_schedule=SCHEDULES["knowledge_inheritance"])
    assert json.loads(named.to_json_string())["soft_weight_schedule"] == "knowledge_inheritance"


def test_names_are_checked_in_subclasses_too_and_nothing_else_changes() -> None:
    @dataclasses.dataclass
    class Mine(DistillationArguments):
        mine: int = 3

    class Open(DistillationArguments):
        def __init__(self, extra: int, **named: Any) -> None:
            self.extra = extra
            super().__init__(**named)

    fields = [f.name for f in dataclasses.fields(DistillationArguments) if f.init]
    assert list(inspect.signature(DistillationArguments).parameters) == fields
    assert list(inspect.signature(Mine).parameters) == [*fields, "mine"]
    assert list(inspect.signature(Open).parameters) == ["extra", "named"]
    assert Mine("unused", use_cpu=True, mine=4).mine == 4
    assert Open(extra=5, output_dir="unused", use_cpu=True).extra == 5
    with pytest.raises(ArgumentError, match="mien=4: is no argument of Mine. Did you mean 'mine'?"):
        Mine("unused", mien=4)  # type: ignore[call-arg]
    assert dataclasses.replace(make(soft_weight=2.0), temperature=3.0).temperature == 3.0
    with pytest.raises(ArgumentError, match="tempereture=3.0"):
        dataclasses.replace(make(), tempereture=3.0)  # type: ignore[call-arg]


def test_a_folder_may_be_a_path() -> None:
    assert json.loads(make(teacher_cache=Path("some/cache")).to_json_string())["teacher_cache"] == "some/cache"


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 1},
        {"max_steps": 5.0},
        {"bf16": 0},
        {"eval_steps": None},
        {"learning_rate": torch.tensor(1e-3)},
        {"logging_steps": True},
        {"warmup_steps": 0.1},
        {"include_num_input_tokens_seen": "all"},
        {"optim": "sgd"},
    ],
)
def test_what_stock_arguments_accept_is_accepted(settings: dict[str, Any]) -> None:
    (name,) = settings
    assert getattr(make(**settings), name) == getattr(TrainingArguments("unused", use_cpu=True, **settings), name)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"learning_rate": "1e-4"}, "Give 0.0001 without quotes"),
        ({"num_train_epochs": "many"}, "Give a number."),
        ({"bf16": "false"}, "without quotes"),
        ({"seed": [1]}, "Give a number."),
    ],
)
def test_text_in_the_place_of_a_number_or_a_truth_value(settings: dict[str, Any], fix: str) -> None:
    with pytest.raises(ArgumentError) as error:
        make(**settings)
    assert error.value.argument == next(iter(settings)) and fix in error.value.fix
