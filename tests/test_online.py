"""A frozen teacher with a module that learns beside the student, and nothing of either in the other."""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from accelerate import PartialState
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from hf_dwt import DistillationTrainer
from hf_dwt.errors import ArgumentError, CacheError, DistillationError, SetupError, TeacherError
from hf_dwt.objective import Targets, Weights, chunked, distillation_terms
from hf_dwt.objective.logits import LinearLogits
from hf_dwt.teachers import OnlineTeacher
from hf_dwt.teachers.composed import own_losses
from hf_dwt.teachers.online import LearningModel, OwnLoss
from hf_dwt.teachers.several import SeveralTeachers
from hf_dwt.training import adaptive
from hf_dwt.training.learning import FILE

from .hub import ME, Hub
from .models import tiny
from .processes import run_in_two_processes
from .test_restarts import SHORT
from .training import CHECKPOINTING, arguments, history, pad, ragged_examples, trainer

LORA = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
"""Moved off its start, at which half of its gradients are 0."""
FRESH = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.3)
OWN = ("teacher_own_loss", "teacher_hard_loss", "teacher_soft_loss")


def online(config: LoraConfig = LORA, name: str = "bert", **settings: Any) -> OnlineTeacher:
    return OnlineTeacher(tiny(name, seed=1), config, **{"learning_rate": 1e-2, **settings})


def build(out: Path | str, teacher: Any, name: str = "bert", **settings: Any) -> DistillationTrainer:
    settings = {"soft_weight_schedule": "constant", **settings}
    return trainer(tiny(name), teacher, out, **settings)


def trained(out: Path | str, teacher: Any, name: str = "bert", **settings: Any) -> DistillationTrainer:
    run = build(out, teacher, name, **settings)
    run.train()
    return run


def module(run: DistillationTrainer) -> dict[str, Tensor]:
    (part,) = run.learning.parts.values()
    return {name: p.detach().clone() for name, p in part.module.named_parameters() if p.requires_grad}


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# ---- the loss ----


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize(("own", "classes"), [(13, 13), (9, 9), (9, 7)])
@pytest.mark.parametrize("anchor", [0.0, 0.7])
@pytest.mark.parametrize("kind", ["linear", "tensor"])
@pytest.mark.parametrize("student_kind", ["linear", "tensor"])
def test_its_gradient_is_that_of_the_sums_by_hand(
    cap: float | None, own: int, classes: int, anchor: float, kind: str, student_kind: str
) -> None:
    """Students with more classes have rows whose label the teacher does not know; chunks are of 3 rows.

    A mixture has the classes alone that all its teachers know, which may be fewer than a teacher's own.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight, bias, labels = draw(13, 5), draw(13), torch.randint(0, 13, (10,), generator=generator)
    hidden = draw(10, 4).requires_grad_()
    into = draw(4, 5)  # the hidden states depend on what learns
    student = LinearLogits(draw(10, 5).requires_grad_(), weight.clone().requires_grad_(), bias, 0.5)
    teacher = LinearLogits(hidden @ into, weight[:own] * 2, bias[:own], 0.7, cap)
    frozen = draw(10, own)
    known = labels < classes
    log_p = torch.log_softmax(teacher[:][:, :classes], -1)[known]
    log_s, log_t = (torch.log_softmax(x[known, :classes], -1).detach() for x in (student[:], frozen))
    hard = F.nll_loss(log_p, labels[known], reduction="sum")
    soft, held = (F.kl_div(log_p, other, log_target=True, reduction="sum") for other in (log_s, log_t))
    expected = hard + 0.3 * soft + anchor * held
    (gradient,) = torch.autograd.grad(expected, hidden, retain_graph=True)

    logits: Any = teacher if kind == "linear" else teacher[:]
    watch = OwnLoss(logits, Targets(frozen) if anchor else None, Weights(1.0, 0.3), Weights(0.0, anchor))
    targets = Targets(logits.detach(), watches=((slice(None), watch),)).first(classes)
    of_student: Any = student if student_kind == "linear" else student[:]
    with patch.multiple(chunked, BYTES_ON_CPU=3 * 13 * 8, LEAST_ROWS=1):
        terms = distillation_terms(of_student, labels, targets, Weights(1.0, 1.0), temperature=2.0)
        alone = distillation_terms(
            of_student, labels, targets._replace(watches=()), Weights(1.0, 1.0), temperature=2.0
        )
    assert list(own_losses(targets)) == [("", watch)]
    (watch.loss() * 3.0).backward()
    torch.testing.assert_close(hidden.grad, 3.0 * gradient)
    assert student.hidden.grad is None and student.weight.grad is None
    figures = watch.figures()
    torch.testing.assert_close(figures["teacher_own_loss"], expected.detach())
    torch.testing.assert_close(figures["teacher_hard_loss"], hard.detach())
    torch.testing.assert_close(figures["teacher_soft_loss"], soft.detach())
    assert ("teacher_anchor_loss" in figures) == bool(anchor)
    # The student's loss goes nowhere else than without the watch.
    before = hidden.grad.clone()  # type: ignore[union-attr]
    leaves = [student.hidden, student.weight]
    one, other = (torch.autograd.grad(each["loss"], leaves, retain_graph=True) for each in (terms, alone))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)) and terms["loss"] == alone["loss"]
    assert torch.equal(hidden.grad, before)  # type: ignore[arg-type]


# ---- runs ----


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama", "gpt2", "t5"])
def test_a_module_that_does_not_learn_is_the_frozen_teacher(name: str, tmp_path: Path) -> None:
    """Bit for bit, its dropout included, and making the module draws from no generator."""
    frozen = build(tmp_path, tiny(name, seed=1), name)
    state = torch.get_rng_state()
    config = copy.deepcopy(FRESH)
    config.fan_in_fan_out = name == "gpt2"
    run = build(tmp_path, online(config, name, learning_rate=0.0, anchor=0.5), name)
    assert torch.equal(torch.get_rng_state(), state)
    for each in (frozen, run):
        each.train()
    assert isinstance(run.teacher, LearningModel)
    names = ("loss", "grad_norm", "hard_loss", "soft_loss", "agreement", "teacher_margin")
    assert history(run, *names) == history(frozen, *names)
    assert same(run.model.state_dict(), frozen.model.state_dict())
    own, hard, soft, held = np.transpose(history(run, *OWN, "teacher_anchor_loss"))
    np.testing.assert_allclose(own, hard + 0.5 * soft, rtol=1e-6)
    np.testing.assert_allclose(held, 0.0, atol=1e-6)
    np.testing.assert_allclose(hard, [a - b for a, b in history(run, "hard_loss", "teacher_margin")], rtol=1e-5)


def test_both_learn_and_nothing_of_either_is_in_the_other(tmp_path: Path) -> None:
    """The module falls in its own loss, dropout is off, and the user's model stays as it is, in training mode too."""
    base = tiny("bert", seed=1, hidden_dropout_prob=0.3).train()
    before = copy.deepcopy(base.state_dict())
    config = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)
    teacher = OnlineTeacher(base, config, learning_rate=2e-2)
    settings: dict[str, Any] = {"max_steps": 20, "save_strategy": "steps", "save_steps": 20}
    settings |= {"train_dataset": ragged_examples(8), f"{CHECKPOINTING}_checkpointing": True}
    run = trained(tmp_path, teacher, **settings)
    own = np.ravel(history(run, "teacher_own_loss"))
    assert own[-1] < own[0] - 0.5 and (np.diff(own) < 0.02).all()  # without dropout, on the same batch each time
    record = json.loads((tmp_path / "checkpoint-20" / "run.json").read_text(encoding="utf-8"))["teacher"]
    assert record["name"] == "BertForMaskedLM" and record["parameters"] == base.num_parameters()
    assert [reference["arxiv"] for reference in record["references"]] == ["2409.12512", "1706.00384"]
    assert same(base.state_dict(), before) and all(part.training for part in base.modules())
    assert all(p.requires_grad and p.grad is None for p in base.parameters())
    model: Any = run.teacher
    frozen = [p for p in model.model.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen) and len(frozen) == len(list(base.parameters()))
    assert {p.data_ptr() for p in frozen} == {p.data_ptr() for p in base.parameters()}  # no second copy in memory
    students = {p.data_ptr() for p in run.model.parameters()}
    assert students.isdisjoint(p.data_ptr() for p in model.model.parameters())
    run.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-20"):
        assert load_file(folder / "model.safetensors").keys() <= run.model.state_dict().keys()
    with torch.no_grad():
        assert not run.teacher.targets(pad(ragged_examples(8)), run._rows(pad(ragged_examples(8)))).watches  # type: ignore[union-attr]
    evaluated = run.evaluate(ragged_examples(8))
    assert evaluated["eval_teacher_loss"] == pytest.approx(history(run, "teacher_hard_loss")[-1][0], abs=0.1)


def test_following_the_student_brings_it_nearer(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 15, "learning_rate": 1e-4}
    followed, alone = (trained(tmp_path, online(FRESH, follow=follow), **settings) for follow in (2.0, 0.0))
    near, far = (np.ravel(history(run, "teacher_soft_loss"))[-5:].mean() for run in (followed, alone))
    assert near < 0.8 * far
    held = trained(tmp_path, online(FRESH, follow=0.0, anchor=20.0), **settings)
    free = np.ravel(history(alone, "teacher_hard_loss"))[-5:].mean()
    assert np.ravel(history(held, "teacher_hard_loss"))[-5:].mean() > free + 0.02


SPLITS: dict[str, dict[str, Any]] = {
    "halves": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "plain": {"loss_kernel": "plain"},
}


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_step_is_the_same(split: str, tmp_path: Path) -> None:
    whole, parts = (trained(tmp_path, online(anchor=0.5), **settings) for settings in ({}, SPLITS[split]))
    names = ("loss", "grad_norm", *OWN, "teacher_anchor_loss")
    np.testing.assert_allclose(history(parts, *names), history(whole, *names), rtol=1e-5)
    # Adam divides by the root of a square: gradients near 0 are rounded to whole steps.
    for name, value in module(whole).items():
        torch.testing.assert_close(module(parts)[name], value, rtol=1e-3, atol=1e-4)


def in_each_process() -> list[tuple[float, ...]]:
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    with tempfile.TemporaryDirectory() as out:
        run = trained(out, online(), per_device_train_batch_size=8 // processes)
    return history(run, "loss", "grad_norm", *OWN)


def in_two_processes() -> list[tuple[float, ...]]:
    assert PartialState(cpu=True).num_processes == 2
    return in_each_process()


def test_two_processes_are_one() -> None:
    np.testing.assert_allclose(run_in_two_processes(in_two_processes), in_each_process(), rtol=1e-5)


def test_a_resumed_run_is_the_whole_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "linear", "bf16": True}
    whole = trained(tmp_path / "whole", online(), **settings)
    run = build(tmp_path / "again", online(seed=3), **settings)
    assert not same(module(run), module(whole))
    run.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert same(module(run), module(whole)) and same(run.model.state_dict(), whole.model.state_dict())
    assert history(run, "loss", *OWN) == history(whole, "loss", *OWN)
    assert all(value.dtype == torch.float32 for value in module(whole).values())


def test_the_best_student_comes_with_its_teacher(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the evaluation of the best step gave is what an evaluation gives after training."""
    examples = ragged_examples(8, seed=4)
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"max_steps": 3, "learning_rate": 0.1, "load_best_model_at_end": True}
    settings |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}  # the first step is the best then
    run = trained(tmp_path / "run", online(), more={"eval_dataset": examples}, **settings)
    names = ("eval_loss", "eval_teacher_loss", "eval_soft_loss")
    logged = [tuple(entry[name] for name in names) for entry in run.state.log_history if "eval_loss" in entry]
    assert max(logged) == logged[0] and len({teacher for _, teacher, _ in logged}) == 3
    found = run.evaluate(examples)
    assert tuple(found[name] for name in names) == logged[0] and FILE not in caplog.text
    bare = trained(tmp_path / "bare", online(), more={"eval_dataset": examples}, save_only_model=True, **settings)
    found = bare.evaluate(examples)
    assert (found["eval_loss"], found["eval_teacher_loss"]) == (logged[0][0], logged[2][1])
    assert f"checkpoint-1 has no {FILE}" in caplog.text


def test_a_checkpoint_of_the_hub_is_whole(hub: Hub, tmp_path: Path) -> None:
    """A run that goes on from one, in a folder of another machine, ends as that which was not broken off."""
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "push_to_hub": True}
    settings |= {"hub_model_id": f"{ME}/student", "hub_strategy": "all_checkpoints", "hub_always_push": True}
    whole = trained(tmp_path / "whole", online(), **settings)
    files = hub.repos[f"{ME}/student"].files
    assert FILE not in files
    for name, content in files.items():
        if name.startswith("checkpoint-3/"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
    again = build(tmp_path / "again", online(seed=3))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert same(module(again), module(whole)) and same(again.model.state_dict(), whole.model.state_dict())


def test_the_adaptive_schedule_follows_the_teacher_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns the labels by heart beside a student that hardly learns, so its margin and its weight rise."""
    monkeypatch.setattr(adaptive, "EVERY", 5)
    settings: dict[str, Any] = {"max_steps": 30, "soft_weight_schedule": "auto", "learning_rate": 1e-6}
    settings["train_dataset"] = ragged_examples(8)
    run = trained(tmp_path, online(FRESH, learning_rate=3e-2, follow=0.0), **settings)
    margins = np.ravel(history(run, "teacher_margin"))
    weights = np.ravel(history(run, "soft_weight"))
    assert margins[-1] > margins[0] + 0.5 and weights[-1] > weights[1]


def test_trials_of_a_search_begin_with_a_fresh_module(tmp_path: Path) -> None:
    args = arguments(tmp_path, **{**SHORT, "soft_weight_schedule": "constant"})
    data = ragged_examples(32), ragged_examples(16, seed=1)
    run = DistillationTrainer(None, args, pad, *data, model_init=lambda: tiny("bert"), teacher_model=online())
    ends = []
    original = run.learning.on_pre_optimizer_step

    def watch(*step: Any, **more: Any) -> None:
        original(*step, **more)
        ends.append(module(run))

    run.learning.on_pre_optimizer_step = watch  # type: ignore[method-assign]
    run.hyperparameter_search(lambda trial: {"soft_weight": 1.0}, n_trials=2, backend="optuna")
    assert len(ends) == 6 and all(same(ends[step], ends[step + 3]) for step in range(3))
    assert not same(ends[0], ends[1])


def test_it_is_one_of_several(tmp_path: Path) -> None:
    """It learns as it does alone where the other has no weight, and has figures of its own name."""
    several = SeveralTeachers({"still": tiny("bert", seed=2), "moving": online()}, weighting=[0.0, 1.0])
    run, alone = (trained(tmp_path, teacher) for teacher in (several, online()))
    assert list(run.learning.parts) == ["moving.online"]
    names = [f"{name}_moving" for name in OWN]
    np.testing.assert_allclose(history(run, "loss", *names), history(alone, "loss", *OWN), rtol=1e-5)


# ---- what it refuses ----


def one_of(error: pytest.ExceptionInfo[DistillationError]) -> list[DistillationError]:
    return error.value.problems if isinstance(error.value, SetupError) else [error.value]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": online()}, "teacher='OnlineTeacher': is of type OnlineTeacher, which has no modules"),
        ({"peft_config": {"r": 8}}, "peft_config='dict': is no config of an adapter. Give one of peft"),
        (
            {"peft_config": PromptTuningConfig(num_virtual_tokens=2)},
            "peft_config='PromptTuningConfig': puts virtual tokens before the text",
        ),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001: is no learning rate. Give a finite number from 0 upwards."),
        ({"follow": "much"}, "follow='much': is not a weight."),
        ({"anchor": float("inf")}, "anchor=inf: is not a weight."),
        ({"seed": -1}, "seed=-1: is no seed."),
    ],
)
def test_bad_values_are_named_at_once(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"teacher": "some/model", "peft_config": LORA}
    with pytest.raises(DistillationError) as error:
        OnlineTeacher(**given | change)
    assert str(one_of(error)[0]).startswith(words)
    with pytest.raises(SetupError) as both:
        OnlineTeacher(**given | change | ({"anchor": -1} if "follow" in change else {"follow": -1}))
    assert len(both.value.problems) == 2


@pytest.mark.parametrize(
    ("config", "settings", "error", "words"),
    [
        (LoraConfig(target_modules=["querry"]), {}, ArgumentError, "target_modules='querry'.* Did you mean 'query'"),
        (LoraConfig(target_modules=["query"], bias="all"), {}, TeacherError, "lets parameters of the frozen model"),
        (LORA, {"teacher_cache": "cache"}, CacheError, "OnlineTeacher: they change while it learns"),
        (LORA, {"teacher_placement": "offload"}, TeacherError, "is quantised, sharded, offloaded"),
        (None, {}, TeacherError, "has an adapter already. Give the model with it merged"),
    ],
)
def test_what_cannot_learn_is_refused_before_the_first_step(
    config: LoraConfig | None, settings: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    base: Any = tiny("bert", seed=1) if config else get_peft_model(tiny("bert"), LORA)
    before = copy.deepcopy(base.state_dict())
    with pytest.raises(error, match=words):
        build(tmp_path, OnlineTeacher(base, config or LORA), **settings)
    if "teacher_placement" not in settings:  # which the teacher's model itself is moved by
        assert same(base.state_dict(), before)


def test_what_no_module_can_be_made_for_is_named_before_anything_is_changed(tmp_path: Path) -> None:
    """Of all teachers at once; the student gets its own adapter only then."""
    student = tiny("llama")
    absent = LoraConfig(r=2, target_modules=["nope"])
    bad = {name: OnlineTeacher(tiny("llama", seed=1), absent) for name in ("one", "other")}
    with pytest.raises(SetupError) as caught:
        trainer(student, SeveralTeachers(bad), tmp_path, more={"peft_config": LoraConfig(r=2)})
    arguments = [problem.argument for problem in caught.value.problems]
    assert arguments == [f"teacher_model[{name!r}].peft_config.target_modules" for name in bad]
    with pytest.raises(DistillationError, match="teacher_model.peft_config.target_modules"):
        trainer(student, bad["one"], tmp_path, more={"peft_config": LoraConfig(r=2)})
    assert not hasattr(student, "peft_config") and not any("lora" in name for name, _ in student.named_modules())
