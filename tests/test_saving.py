"""A save touches its own files and nothing else, whatever lies in the folder before."""

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForMaskedLM

from hf_dwt import DistillationTrainer
from hf_dwt.publish.model_files import files_to_push
from hf_dwt.publish.push import Pusher
from hf_dwt.publish.upload import Destination
from hf_dwt.teachers.cache.store import remove_leftovers

from .models import tiny
from .training import ragged_examples, trainer

FOREIGN = [
    "model.safetensors", "model.bin", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin",
    "pytorch_model.bin.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    "model.safetensors.index.json", "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json",
    "tf_model.h5", "flax_model.msgpack", "model.onnx", "weights.gguf", "notes.md", "README.md", "data.csv", ".hidden",
    ".gitattributes", "_private", "_saving/notes.md", "_hub/1-0/notes.md", "sub/model.safetensors",
    "sub/pytorch_model.bin", "checkpoint-best/model.safetensors", "model/model.safetensors",
]  # fmt: skip


def fill(folder: Path) -> None:
    """Files of other tools and of earlier runs, and links to some outside."""
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")
    (folder.parent / "outside").write_text("outside")
    (folder / "link").symlink_to(folder.parent / "outside")
    (folder / "config.json").symlink_to(folder.parent / "outside")  # what a save replaces is the link


def contents(folder: Path) -> dict[str, str]:
    """Name -> digest of the bytes, or where a link goes."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def student_of(kind: str) -> Any:
    student = tiny("bert")
    if kind == "adapter":
        return get_peft_model(student, LoraConfig(target_modules=["query"]))
    if kind == "sharded":
        student.save_pretrained = partial(student.save_pretrained, max_shard_size=20_000)
    return student


def run_of(kind: str, out: Path) -> DistillationTrainer:
    more = {"eval_dataset": ragged_examples(8)}
    saving = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    return trainer(student_of(kind), tiny("bert", seed=1), out, max_steps=2, more=more, **saving)


@pytest.mark.parametrize("kind", ["whole", "sharded", "adapter"])
def test_a_save_touches_nothing_that_it_does_not_replace(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_of(kind, tmp_path / "alone").save_model()
    out = tmp_path / "out"
    fill(out)
    before = contents(out)
    run = run_of(kind, out)
    run.train()
    run.save_model()
    replaced = {*contents(tmp_path / "alone"), "curves.png"} - {"README.md"}  # the user's own stays
    for saved in (tmp_path / "alone", out / "checkpoint-2"):
        assert "trained with hf_dwt" in (saved / "README.md").read_text()
    after = {
        name: found for name, found in contents(out).items() if not name.startswith(("checkpoint-1/", "checkpoint-2/"))
    }
    assert {name: after[name] for name in before if name not in replaced} == {
        name: found for name, found in before.items() if name not in replaced
    }
    assert set(after) == set(before) | replaced
    assert len(set(before) - replaced) >= 20 and any(after[name] != before[name] for name in before)
    assert (tmp_path / "outside").read_text() == "outside"
    told = [line for line in caplog.messages if "lay there before" in line]
    reads = {"whole": "adapter_model.safetensors", "sharded": "adapter_model.safetensors"}
    assert len(told) == (kind != "adapter") and all(reads[kind] in line for line in told)


def test_what_would_be_read_in_place_of_a_save_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind, told in (("whole", ""), ("sharded", "model.safetensors"), ("adapter", ""), ("whole", "adapter_model")):
        caplog.clear()
        run_of(kind, tmp_path / "out").save_model()
        lines = [line for line in caplog.messages if "lay there before" in line]
        assert len(lines) == bool(told) and all(told in line for line in lines), (kind, lines)


def test_an_adapter_leaves_its_base_alone_and_is_pushed_without_it(tmp_path: Path) -> None:
    """The base lies where the adapter goes: as when a run goes on from what an earlier one left in its output_dir."""
    out = tmp_path / "out"
    tiny("bert").save_pretrained(out)
    base = (out / "model.safetensors").read_bytes()
    student = get_peft_model(AutoModelForMaskedLM.from_pretrained(out), LoraConfig(target_modules=["query"]))
    run = trainer(student, None, out, max_steps=1)
    run.train()
    run.save_model()
    assert (out / "model.safetensors").read_bytes() == base
    assert type(AutoModelForMaskedLM.from_pretrained(out).peft_config["default"]) is LoraConfig
    pushed = set(files_to_push(out))
    assert {"adapter_model.safetensors", "adapter_config.json"} <= pushed and "model.safetensors" not in pushed
    run_of("whole", out).save_model()  # now the model is what was saved last
    pushed = set(files_to_push(out))
    assert "model.safetensors" in pushed and not {"adapter_model.safetensors", "adapter_config.json"} & pushed


def test_weights_of_another_format_are_not_pushed(tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path, max_shard_size=20_000)
    shards = {path.name for path in tmp_path.glob("model-*")}
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model-00001-of-00099.safetensors"):
        (tmp_path / name).write_text("foreign")
    assert set(files_to_push(tmp_path)) == {"config.json", "model.safetensors.index.json", *shards}
    (tmp_path / "model.safetensors").write_text("read first")
    assert set(files_to_push(tmp_path)) == {"config.json", "model.safetensors"}


def test_what_is_cleaned_away_is_ours(tmp_path: Path) -> None:
    foreign = [".notes.tmp", ".notes.json.tmp", ".a.safetensors.1.tmp", "_hub/1-0"]
    ours = [f".{'0' * 32}.safetensors.17.tmp", ".cache.json.17.tmp", "_hf_dwt_push/1-0"]
    for name in (*foreign, *ours):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir() if name.endswith("-0") else (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    Pusher(Destination("me/student"), tmp_path)
    assert [name for name in (*foreign, *ours) if (tmp_path / name).exists()] == foreign


OF_THE_TRAINING = """
optimizer.pt scheduler.pt scaler.pt rng_state.pth rng_state_1.pth trainer_state.json rank0-of-2-optimizer.pt
user_content.pt pytorch_model_fsdp.bin pytorch_model_fsdp_1.bin pytorch_model_fsdp_rank0.bin optimizer.bin
optimizer_1.bin optimizer_rank0.bin pytorch_model_fsdp_0/.metadata pytorch_model_fsdp_0/__0_0.distcp
optimizer_0/.metadata optimizer_0/__1_0.distcp latest latest_universal zero_to_fp32.py zero_to_torch.py
global_step5/mp_rank_00_model_states.pt global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt
global_step5_universal/zero/lm_head.weight/fp32.pt random_states_0.pkl sampler.bin dl_state_dict.bin
custom_checkpoint_0.pkl shard-00001-model-00001-of-00001.safetensors checkpoint-5/model.safetensors
"""
OF_THE_MODEL = """
config.json model.safetensors generation_config.json training_args.bin README.md run.json growth.json curves.png
modeling_own.py tokenizer.json tokenizer.model vocab.txt chat_template.jinja LICENSE notes.md model.onnx
second/adapter_model.safetensors second/adapter_config.json 1_Dense/pytorch_model.bin runs/events.out.tfevents.1
"""


def test_no_state_of_any_engine_is_pushed(tmp_path: Path) -> None:
    """Of accelerate's FSDP and `save_state`, DeepSpeed, SageMaker, XLA and torch's distributed checkpoints."""
    for name in (OF_THE_TRAINING + OF_THE_MODEL).split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert set(files_to_push(tmp_path)) == set(OF_THE_MODEL.split())
