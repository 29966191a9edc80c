"""A student that is written part by part is, bit for bit, the one that is grown in memory, and survives a kill."""

import functools
import json
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification

from benchmarks.coverage.measure import arguments as sizes_of
from benchmarks.coverage.measure import tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.cli import main
from hf_dwt.errors import GrowthError
from hf_dwt.growth import paging, plan_growth
from hf_dwt.growth.building import build, own_randomness
from hf_dwt.growth.disk import shards
from hf_dwt.growth.disk.recording import recorded
from hf_dwt.growth.report import REPORT_FILE
from hf_dwt.growth.strategies import INITS
from hf_dwt.publish.run_record import GROWTH_FILE
from tests.models import BUILDERS, tiny

LARGER = {"hidden_size": 32, "num_hidden_layers": 3}
SMALL = 20_000
"""Bytes of a file: some tensors are in it, and a student has several."""


def saved(model: PreTrainedModel, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    model.to(dtype).save_pretrained(folder, max_shard_size=SMALL)
    return folder


def assert_the_same(teacher: object, folder: Path, **arguments: Any) -> None:
    """What is in `folder` is what `save_pretrained` writes of the student in memory, and loads as it."""
    student = from_weak_teacher(teacher, **arguments)
    loaded, info = type(student).from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for ours, theirs in (
        (loaded.state_dict(), student.state_dict()),
        (dict(loaded.named_buffers()), dict(student.named_buffers())),
    ):
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert ours[name].dtype is tensor.dtype and torch.equal(ours[name], tensor), name
    memory = folder.with_name(f"{folder.name}-memory")
    student.save_pretrained(memory, max_shard_size=SMALL)
    names = {file.name for file in memory.iterdir()}
    assert {file.name for file in folder.iterdir()} == names | {"growth.json"} and len(names) > 4
    for name in names - {file.name for file in memory.glob("*.safetensors")}:
        assert (folder / name).read_text() == (memory / name).read_text(), name
    report = json.loads((folder / "growth.json").read_text())
    assert report == json.loads(json.dumps(student.growth_report.to_dict()))


@pytest.mark.parametrize(
    ("name", "init"),
    [
        *(("llama", init) for init in INITS),
        *(("bert", init) for init in ("remap", "auto")),
        *(("gpt2", init) for init in ("clone", "pad", "aki")),
        *(("t5", init) for init in ("clone", "remap")),
        *(("modernbert", "remap"), ("vit", "remap"), ("bart", "clone")),
    ],
)
def test_every_tensor_is_the_one_in_memory(name: str, init: str, tmp_path: Path) -> None:
    teacher, arguments = saved(tiny(name), tmp_path / "teacher"), {**LARGER, "init": init, "seed": 3}
    report = plan_growth(teacher, **arguments).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert_the_same(teacher, tmp_path / "student", **arguments)
    assert report.to_dict() == from_weak_teacher(teacher, **arguments).growth_report.to_dict()


def test_widths_that_auto_can_only_remap(tmp_path: Path) -> None:
    """What "auto" tried before is written again."""
    teacher, arguments = saved(tiny("bert"), tmp_path / "teacher"), {"hidden_size": 24, "init": "auto"}
    plan_growth(teacher, **arguments).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert_the_same(teacher, tmp_path / "student", **arguments)


def test_a_choice_of_auto_that_the_weights_refuse_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model was right, and the teacher itself is not preserved: the next one starts from its own start."""
    clone = INITS["clone"]

    @functools.wraps(clone.function)
    def refused(*args: Any, **options: Any) -> None:
        clone.function(*args, **options)
        raise GrowthError("init", "clone", "It is not exact.", "")

    monkeypatch.setitem(INITS, "clone", replace(clone, function=refused))
    teacher, arguments = saved(tiny("llama"), tmp_path / "teacher"), {**LARGER, "init": "auto"}
    report = plan_growth(teacher, **arguments).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert report.notes[:2] == ("auto chose pad", "clone refused: init: It is not exact.")
    assert_the_same(teacher, tmp_path / "student", **arguments)


def test_padding_that_scales_up_is_written_from_what_it_wrote_first(tmp_path: Path) -> None:
    """Norms without an eps in the config cannot get a smaller one: the student is written a second time."""
    teacher = tiny_teacher("causal-lm", "dbrx")
    sizes = sizes_of("causal-lm", "pad", teacher.config)
    report = plan_growth(teacher, **sizes).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert report.notes == ("pad: what writes the residual stream is scaled up, and eps stays",)
    assert_the_same(teacher, tmp_path / "student", **sizes)


@pytest.mark.parametrize("rows", ["init", "mean", "normal"])
def test_new_rows_and_a_head_of_its_own(rows: str, tmp_path: Path) -> None:
    teacher = saved(tiny("llama", tie_word_embeddings=True), tmp_path / "teacher")
    arguments = {
        "vocab_size": 70,
        "new_rows": rows,
        "config_overrides": {"tie_word_embeddings": False},
        "init": "clone",
    }
    plan_growth(teacher, **LARGER, **arguments).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert_the_same(teacher, tmp_path / "student", **LARGER, **arguments)


def test_a_head_of_its_own_that_starts_as_a_copy(tmp_path: Path) -> None:
    teacher = saved(tiny("llama", tie_word_embeddings=True), tmp_path / "teacher")
    arguments = {**LARGER, "config_overrides": {"tie_word_embeddings": False}, "init": "remap"}
    plan_growth(teacher, **arguments).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert_the_same(teacher, tmp_path / "student", **arguments)


@pytest.mark.parametrize("init", ["clone", "remap", "aki"])
def test_running_statistics(init: str, tmp_path: Path) -> None:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    model = ResNetForImageClassification(ResNetConfig(**sizes))
    for name, buffer in model.named_buffers():
        buffer.add_(torch.arange(len(buffer)) if name.endswith("mean") else 1) if buffer.ndim else buffer.fill_(7)
    teacher = saved(model, tmp_path / "teacher")
    arguments = {"config_overrides": {"embedding_size": 16, "hidden_sizes": [16, 32]}, "init": init}
    plan_growth(teacher, **arguments).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert_the_same(teacher, tmp_path / "student", **arguments)


@pytest.mark.parametrize(("stored", "loaded"), [("bfloat16", None), ("float32", "bfloat16"), ("bfloat16", "float32")])
def test_other_dtypes(stored: str, loaded: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PART", 64)  # casts of many parts
    teacher = saved(tiny("llama"), tmp_path / "teacher", getattr(torch, stored))
    arguments = {**LARGER, "init": "clone"} | ({"dtype": loaded} if loaded else {})
    plan_growth(teacher, **arguments).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert_the_same(teacher, tmp_path / "student", **arguments)


@pytest.mark.parametrize(("name", "unit"), [("llama", 0), ("bert", 0), ("llama", 22_000), ("llama", 40_000)])
def test_a_model_is_run_in_parts(name: str, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs of both are compared as in memory, while one module's parameters are there, or a layer's,
    or all layers of the teacher would fit, whose list is not called.
    """
    most: list[int] = []
    enter = paging.Unit.enter

    def counted(part: paging.Unit, *given: object) -> None:
        enter(part, *given)
        most.append(len(part.away))

    monkeypatch.setattr(paging, "UNIT", unit)
    monkeypatch.setattr(paging.Unit, "enter", counted)
    teacher, arguments = saved(tiny(name), tmp_path / "teacher"), {**LARGER, "init": "clone"}
    report = plan_growth(teacher, **arguments).apply(to=tmp_path / "student")
    assert report.preserved and max(most) == {"llama": 1, "bert": 2}[name] if not unit else max(most) > 2
    assert report.difference == from_weak_teacher(teacher, **arguments).growth_report.difference


def test_what_cannot_be_run_in_parts_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging.Unit, "enter", lambda *_: None)
    teacher = saved(tiny("llama"), tmp_path / "teacher")
    report = plan_growth(teacher, **LARGER, init="clone").apply(to=tmp_path / "student")
    assert report.preserved is None and report.difference is None
    assert "proven on a tiny model alone" in report.notes[-1]


@pytest.mark.parametrize("name", BUILDERS)
def test_an_own_initialisation_is_drawn_one_parameter_at_a_time(name: str) -> None:
    model = tiny(name)
    with own_randomness(5):
        whole, then = build(type(model), model.config, "cpu"), torch.rand(3)
    with own_randomness(5):
        parts, recording = recorded(lambda: build(type(model), model.config, "cpu"))
        assert torch.equal(torch.rand(3), then)
    for (_, theirs), ours in reversed(list(zip(whole.named_parameters(), parts.parameters(), strict=True))):
        assert ours.is_meta and torch.equal(recording.read(ours), theirs)


class Killed:
    """Kills its process at the n-th call of a function of `shards`."""

    def __init__(self, name: str, n: int) -> None:
        self.function: Callable[..., Any] = getattr(shards, name)
        self.name, self.left = name, n

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.function(*args, **options)


def exit_code(work: Callable[..., None], *arguments: Any) -> int | None:
    """Of a process that is forked and does `work`."""
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of the parent, which the child does not need
        child.start()
    child.join(120)
    return child.exitcode


def grow_and_die(folder: Path, name: str, n: int, arguments: dict[str, Any]) -> None:
    setattr(shards, name, Killed(name, n))
    plan_growth(folder / "teacher", **arguments).apply(to=folder / "student", max_shard_size=SMALL)


@pytest.mark.parametrize(
    ("at", "n", "left"), [("write_tensors", 4, 3), ("tensor_bytes", 10, 2), ("write_whole", 5, 2)]
)
@pytest.mark.parametrize("init", ["clone", "remap"])
def test_a_killed_growth_goes_on_at_its_last_whole_file(at: str, n: int, left: int, init: str, tmp_path: Path) -> None:
    """Between two files, in the middle of one, and before it is written down that one is whole."""
    arguments = {**LARGER, "init": init, "seed": 1}
    teacher, student = saved(tiny("llama"), tmp_path / "teacher"), tmp_path / "student"
    assert exit_code(grow_and_die, tmp_path, at, n, arguments) == -signal.SIGKILL
    progress = json.loads((student / shards.PROGRESS_FILE).read_text())
    whole = {file: (student / file).stat().st_mtime_ns for file in progress["files"]}
    assert len(whole) == left and not (student / "config.json").exists()
    for file in student.glob("*.safetensors"):  # what has its name can be read
        with safe_open(file, framework="pt") as opened:
            assert opened.keys()
    with pytest.raises(GrowthError, match="to=.*a part of a student of another teacher or another plan"):
        plan_growth(teacher, **arguments | {"seed": 2}).apply(to=student, max_shard_size=SMALL)
    (student / "notes.txt").write_text("mine")
    plan_growth(teacher, **arguments).apply(to=student, max_shard_size=SMALL)
    assert {file: (student / file).stat().st_mtime_ns for file in whole} == whole
    (student / "notes.txt").unlink()  # which no growth has removed
    assert_the_same(teacher, student, **arguments)


def dies_in_the_second_attempt(folder: Path, teacher: PreTrainedModel, sizes: dict[str, Any]) -> None:
    save = shards.Progress.save

    def saved_or_killed(progress: shards.Progress, to: Path) -> None:
        if progress.attempt == 2 and progress.files:
            os.kill(os.getpid(), signal.SIGKILL)
        save(progress, to)

    shards.Progress.save = saved_or_killed  # type: ignore[method-assign]
    plan_growth(teacher, **sizes).apply(to=folder / "student", max_shard_size=SMALL)


def test_a_growth_that_is_killed_in_its_second_attempt_starts_again(tmp_path: Path) -> None:
    """Each file of the second attempt is made from that of the first, so that both are written again."""
    teacher = tiny_teacher("causal-lm", "dbrx")
    sizes = sizes_of("causal-lm", "pad", teacher.config)
    assert exit_code(dies_in_the_second_attempt, tmp_path, teacher, sizes) == -signal.SIGKILL
    plan_growth(teacher, **sizes).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert_the_same(teacher, tmp_path / "student", **sizes)


def test_a_part_of_a_student_of_another_teacher_is_refused(tmp_path: Path) -> None:
    saved(tiny("llama"), tmp_path / "teacher")
    arguments = {**LARGER, "init": "clone"}
    assert exit_code(grow_and_die, tmp_path, "write_tensors", 2, arguments) == -signal.SIGKILL
    other = tiny("llama")
    with torch.no_grad():
        other.model.norm.weight[0] += 1
    saved(other, tmp_path / "teacher")
    before = sorted(file.name for file in (tmp_path / "student").iterdir())
    with pytest.raises(GrowthError, match="of another teacher or another plan. Give another folder"):
        plan_growth(tmp_path / "teacher", **arguments).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert sorted(file.name for file in (tmp_path / "student").iterdir()) == before


def test_what_is_refused(tmp_path: Path) -> None:
    """Each before a weight is read, with nothing written."""
    teacher = saved(tiny("llama"), tmp_path / "teacher")
    (tmp_path / "file").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / shards.PROGRESS_FILE).write_text("{")
    zeros = torch.Tensor.zero_

    def mine(student: PreTrainedModel, teacher: object) -> dict[str, Any]:
        return {}

    folders = {path: sorted(path.iterdir()) for path in (teacher, tmp_path / "model", tmp_path / "broken")}
    for more, to, size, words in (
        ({"init": mine}, "new", SMALL, "to=.*init='mine'.*cannot be written part by part. Leave `to` out"),
        (
            {"init": "remap", "rest": lambda p: zeros(p)},
            "new",
            SMALL,
            "to=.*rest='<lambda>' is a function of your own",
        ),
        ({}, "file", SMALL, "to=.*It is a file. Give a folder"),
        ({}, "teacher", SMALL, "to=.*would overwrite its teacher"),
        ({}, "model", SMALL, "to=.*It holds a model already .pytorch_model.bin.. Give another folder"),
        ({}, "broken", SMALL, "to=.*growth-progress.json cannot be read"),
        ({"init": mine}, "model", SMALL, "to=.*It holds a model already"),  # which it does for a growth in memory, too
        ({"init": mine}, "new", "5 apples", "max_shard_size='5 apples'.*5GB"),
        ({}, "new", "5 apples", "max_shard_size='5 apples'.*5GB"),
        ({}, "new", 0, "max_shard_size=0"),
        ({}, "new", True, "max_shard_size=True"),
    ):
        with pytest.raises(GrowthError, match=words):
            plan_growth(teacher, **LARGER, **more).apply(to=tmp_path / to, max_shard_size=size)
    assert not (tmp_path / "new").exists()
    assert {path: sorted(path.iterdir()) for path in folders} == folders


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    teacher = saved(tiny("llama"), tmp_path / "teacher")
    file = next(teacher.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(GrowthError, match="teacher=.*No checkpoint can be loaded from there"):
        plan_growth(teacher, **LARGER).apply(to=tmp_path / "student", max_shard_size=SMALL)


def test_a_student_that_is_not_exact_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_dwt.growth.verify.compare.TOLERANCES", {torch.float32: 0.0})
    plan = plan_growth(saved(tiny("bert"), tmp_path / "teacher"), **LARGER, init="clone")
    with pytest.raises(GrowthError, match="init='clone'.*outputs differ by"):
        plan.apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert not list((tmp_path / "student").iterdir())


def test_a_strategy_that_does_not_say_so_is_not_written_by_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line grows it in memory then."""
    monkeypatch.setitem(INITS, "remap", replace(INITS["remap"], by_parts=False))
    teacher = saved(tiny("llama"), tmp_path / "teacher")
    with pytest.raises(GrowthError, match="to=.*init='remap'"):
        plan_growth(teacher, **LARGER).apply(to=tmp_path / "student")
    command = ["grow", str(teacher), "--hidden-size", "32", "--num-hidden-layers", "3", "--max-shard-size", str(SMALL)]
    assert main([*command, "--out", str(tmp_path / "student")]) == 0
    assert "It is grown in memory." in capsys.readouterr().err
    assert_the_same(teacher, tmp_path / "student", **LARGER)


def test_a_checkpoint_of_another_format_is_loaded_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher = saved(tiny("llama"), tmp_path / "teacher")
    for file in teacher.glob("*.safetensors*"):
        file.unlink()
    torch.save(tiny("llama").state_dict(), teacher / "pytorch_model.bin")
    with caplog.at_level(logging.WARNING):
        plan_growth(teacher, **LARGER).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert "is loaded whole, since its weights are not in the format safetensors" in caplog.text
    assert_the_same(teacher, tmp_path / "student", **LARGER)


def test_a_checkpoint_that_lacks_parameters_is_loaded_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are drawn, as `from_pretrained` draws them."""
    tiny("bert").bert.save_pretrained(tmp_path / "teacher")
    arguments = {**LARGER, "auto_class": "AutoModelForMaskedLM"}
    with caplog.at_level(logging.WARNING):
        report = plan_growth(tmp_path / "teacher", **arguments).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert "is loaded whole, since its checkpoint does not hold" in caplog.text and report.untrained
    assert_the_same(tmp_path / "teacher", tmp_path / "student", **arguments)


def test_the_report_has_the_name_under_which_it_is_read() -> None:
    assert REPORT_FILE == GROWTH_FILE
