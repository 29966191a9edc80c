"""Layouts under which the loss would be wrong: refused before the first step; those in which it is right are not."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from accelerate import ParallelismConfig
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_extend_env_parallelism_config
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments
from transformers.distributed import DistributedConfig

from hf_dwt import DistillationTrainer
from hf_dwt.errors import ArgumentError, SetupError, TaskError, TeacherError
from hf_dwt.tasks import find_task
from hf_dwt.training.setup import layouts
from hf_dwt.training.setup.validation import teacher_problems

from .models import tiny
from .training import arguments, pad, ragged_examples, trainer

Change = Callable[[nn.Module, TrainingArguments, pytest.MonkeyPatch], object]


def launched_with(**sizes: int) -> Change:
    """What `accelerate launch` sets, by its own code."""
    flags = [part for name, size in sizes.items() for part in (f"--parallelism_config_{name}", str(size))]

    def change(_student: object, _args: object, patch: pytest.MonkeyPatch) -> None:
        options = launch_command_parser().parse_args(["--use_parallelism_config", *flags, "script.py"])
        for name, value in prepare_extend_env_parallelism_config(options, {}).items():
            patch.setenv(name, value)

    return change


def on_sagemaker(_student: object, _args: object, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("SM_HP_MP_PARAMETERS", '{"partitions": 2}')
    patch.setattr(layouts, "is_sagemaker_mp_enabled", lambda: True)  # its library cannot be installed


def sharded(model: PreTrainedModel, **sizes: int) -> PreTrainedModel:
    """What `from_pretrained(distributed_config=...)` marks a model with."""
    model.config.distributed_config = DistributedConfig(**{"fsdp_size": 2, **sizes})  # type: ignore[arg-type]
    model._is_distributed_loading_by_transformers = True
    return model


REFUSED: dict[str, tuple[Change, str]] = {
    "DataParallel": (lambda _, args, __: vars(args).update(_n_gpu=2), "n_gpu=2: .*accelerate launch"),
    "context": (
        lambda _, args, __: vars(args).update(parallelism_config=ParallelismConfig(cp_size=2)),
        "parallelism_config.cp_size=2: splits sequences",
    ),
    "sequence": (
        lambda _, args, __: vars(args).update(parallelism_config=ParallelismConfig(sp_size=4)),
        "parallelism_config.sp_size=4: splits sequences",
    ),
    "context, by a launcher": (launched_with(cp_size=2), "accelerate launch --parallelism_config_cp_size=2: splits"),
    "sequence, by a launcher": (launched_with(sp_size=2), "accelerate launch --parallelism_config_sp_size=2: splits"),
    "Megatron-LM": (
        lambda _, __, patch: patch.setenv("ACCELERATE_USE_MEGATRON_LM", "True"),
        "ACCELERATE_USE_MEGATRON_LM=True: .*the teacher's part would be missing",
    ),
    "SageMaker": (on_sagemaker, "SM_HP_MP_PARAMETERS=.*the teacher's part would be missing"),
    "pipeline": (
        lambda student, _, __: setattr(student.config, "distributed_config", DistributedConfig(pp_size=2)),
        "model.config.distributed_config.pp_size=2: .*gradients are not passed",
    ),
    "PiPPy": (
        lambda student, _, __: setattr(student, "hf_split_points", ["transformer.h.1"]),
        "model.hf_split_points=.*gradients are not passed",
    ),
    "best of a student sharded while it was loaded": (
        lambda student, args, _: (sharded(student), vars(args).update(load_best_model_at_end=True)),
        "load_best_model_at_end=True: .*sharded while it was loaded",
    ),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_a_layout_is_refused(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, message = REFUSED[layout]
    student, args = tiny("gpt2"), arguments(tmp_path)
    change(student, args, monkeypatch)
    with pytest.raises(ArgumentError, match=message):
        DistillationTrainer(student, args, data_collator=pad, train_dataset=ragged_examples())
    monkeypatch.undo()
    student = tiny("gpt2")
    DistillationTrainer(student, arguments(tmp_path), data_collator=pad, train_dataset=ragged_examples())


def test_the_page_lists_what_is_refused() -> None:
    page = (Path(__file__).parents[1] / "docs" / "distribution.md").read_text(encoding="utf-8")
    table = page[page.index("## Refused") : page.index("## On a GPU")]
    arguments_refused = {message.split("=")[0] for _, message in REFUSED.values()}
    missing = {name for name in arguments_refused if f"`{name}`" not in table}
    assert missing == {"accelerate launch --parallelism_config_sp_size"}  # which stands there as `_sp_size`


def test_every_layout_of_accelerate_is_known_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A way of sharing a batch that accelerate adds is refused, and this test then shows it."""
    sizes = {field.name for field in fields(ParallelismConfig) if field.name.endswith("_size")}
    refused = set()
    for name in sizes:
        with monkeypatch.context() as patch:
            launched_with(**{name: 2})(None, None, patch)  # type: ignore[arg-type]
            found = layouts.layout_problems(tiny("gpt2"), arguments(tmp_path))
            refused |= {name} if found else set()
    assert sizes - refused == {"dp_replicate_size", "dp_shard_size", "tp_size"} and refused == {"cp_size", "sp_size"}


def test_a_student_in_several_places_is_refused(tmp_path: Path) -> None:
    """A map to one device is none of them."""
    tiny("gpt2").save_pretrained(tmp_path)
    places = {"transformer": "cpu", "lm_head": "disk"}
    student = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "off")
    with pytest.raises(ArgumentError, match=r"model.hf_device_map=\['cpu', 'disk'\]: puts the student's layers"):
        trainer(student, None, tmp_path / "out")
    student = AutoModelForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"})
    trainer(student, None, tmp_path / "out", max_steps=1).train()


def test_a_model_in_a_wrapper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="model='DataParallel': wraps the model.*model=model.module"):
        trainer(nn.DataParallel(tiny("gpt2")), None, tmp_path)
    with pytest.raises(TeacherError, match="teacher_model='DataParallel': .*teacher_model=teacher_model.module"):
        trainer(tiny("gpt2"), nn.DataParallel(tiny("gpt2", seed=1)), tmp_path)


def test_tensor_parallelism_that_transformers_gets_wrong_is_refused(tmp_path: Path) -> None:
    adapter = get_peft_model(sharded(tiny("llama"), tp_size=2), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(TaskError, match="model='PeftModel': .*adds to parts.*tensor parallelism"):
        trainer(adapter, None, tmp_path)
    with pytest.raises(ArgumentError, match="gradient_accumulation_steps=2: sums the gradients of norms"):
        trainer(sharded(tiny("qwen3"), tp_size=2), None, tmp_path, gradient_accumulation_steps=2)
    for right in (sharded(tiny("llama"), tp_size=2), sharded(tiny("qwen3"))):
        assert not layouts.layout_problems(right, arguments(tmp_path, gradient_accumulation_steps=2))
    adapter = get_peft_model(sharded(tiny("llama")), LoraConfig(target_modules=["q_proj"]))
    assert not layouts.layout_problems(adapter, arguments(tmp_path, gradient_accumulation_steps=2))


def test_a_teacher_in_a_pipeline_is_refused(tmp_path: Path) -> None:
    teacher = sharded(tiny("gpt2", seed=1), fsdp_size=1, pp_size=2)
    with pytest.raises(ArgumentError, match="teacher_model.config.distributed_config.pp_size=2: splits the model"):
        trainer(tiny("gpt2"), teacher, tmp_path)


def test_deepspeeds_pipeline_module_is_no_student(tmp_path: Path) -> None:
    """It is called by no forward of a model of transformers: its class has no task."""
    module = type("PipelineModule", (nn.Module,), {})()
    with pytest.raises(TaskError, match="model='PipelineModule': has no head"):
        trainer(module, None, tmp_path)


def test_all_layouts_are_reported_with_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched_with(cp_size=2)(None, None, monkeypatch)  # type: ignore[arg-type]
    with pytest.raises(SetupError) as error:
        trainer(tiny("gpt2"), "nobody/no-such-model", tmp_path)
    named = [problem.argument for problem in error.value.problems]
    assert named == ["accelerate launch --parallelism_config_cp_size", "teacher_model"]


def test_parameters_without_an_address_are_not_shared() -> None:
    """Those that an engine holds in parts all have the address 0, as on the meta device."""
    with torch.device("meta"):
        student, teacher = tiny("gpt2"), tiny("gpt2", seed=1)
    task = find_task(student)
    assert not teacher_problems(student, teacher, task)
    (problem,) = teacher_problems(student, student, task)
    assert "shares weights" in problem.problem
