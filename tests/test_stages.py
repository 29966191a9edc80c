"""A list of stages is the same trainers called by hand, resumes anywhere, and is checked before anything runs."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import PreTrainedModel, TrainerCallback

from hf_dwt import DistillationTrainer, from_weak_teacher
from hf_dwt.errors import ArgumentError, DataError, DistillationError, GrowthError, SetupError, TeacherError
from hf_dwt.publish.card import model_card
from hf_dwt.publish.run_record import RunRecord
from hf_dwt.stages import Stage, Stages, plan_stages, run_stages
from hf_dwt.teachers import SeveralTeachers

from .models import tiny
from .processes import run_in_two_processes
from .training import arguments, pad, ragged_examples

STEPS = 3
SIZES = ({"hidden_size": 32, "init": "clone"}, {"num_hidden_layers": 3})
SETTINGS: dict[str, Any] = {
    "train_sampling_strategy": "random",
    "per_device_train_batch_size": 4,
    "save_strategy": "steps",
    "save_steps": 2,
}


def weak() -> PreTrainedModel:
    return tiny("bert", seed=1, hidden_dropout_prob=0.1)


def two() -> list[Stage]:
    """A wider student, and a deeper one that it teaches, under another loss."""
    later: dict[str, Any] = {"soft_weight": 0.5, "soft_weight_schedule": "constant", "learning_rate": 2e-3}
    return [
        Stage(name="wide", grow=SIZES[0], steps=STEPS),
        Stage(name="deep", grow=SIZES[1], steps=STEPS, teacher="previous", **later),
    ]


def planned(out: Path, stages: list[Stage] | None = None, **more: Any) -> Any:
    given = {"teacher": weak(), "args": arguments(out, **SETTINGS), "train_dataset": ragged_examples()}
    given["data_collator"] = pad
    return plan_stages(two() if stages is None else stages, **{**given, **more})


def students(out: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(out / name / "model.safetensors") for name in ("1-wide", "2-deep")]


def equal(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> bool:
    """Of all that files keep; a model's own state has tied parameters twice."""
    return all(
        b.keys() <= a.keys() and b and all(torch.equal(a[name], b[name]) for name in b)
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    returned = planned(out).run()
    assert equal([returned.state_dict()], students(out)[1:]) and not returned.training
    return out


def by_hand(out: Path, student: Any, teacher: Any, **settings: Any) -> DistillationTrainer:
    args = arguments(out, **{**SETTINGS, "max_steps": STEPS, **settings})
    run = DistillationTrainer(student, args, data_collator=pad, train_dataset=ragged_examples(), teacher_model=teacher)
    run.train()
    return run


def test_a_list_is_the_same_trainers_called_by_hand(uninterrupted: Path, tmp_path: Path) -> None:
    teacher = weak()
    first = by_hand(tmp_path / "1", from_weak_teacher(teacher, **SIZES[0]), teacher)
    first.save_model()
    second = by_hand(
        tmp_path / "2",
        from_weak_teacher(first.model, **SIZES[1]),
        str(tmp_path / "1"),
        soft_weight=0.5,
        soft_weight_schedule="constant",
        learning_rate=2e-3,
    )
    assert equal([first.model.state_dict(), second.model.state_dict()], students(uninterrupted))
    names = ("loss", "soft_loss", "hard_loss")
    for run, name in ((first, "1-wide"), (second, "2-deep")):
        kept = json.loads((uninterrupted / name / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
        logged = run.state.log_history
        assert [[e.get(n) for n in names] for e in kept] == [[e.get(n) for n in names] for e in logged[: len(kept)]]
        assert len(kept) == STEPS


class KillAt(TrainerCallback):
    """SIGKILL at an event of a stage, from a step on."""

    def __init__(self, event: str, stage: str, step: int = 0) -> None:
        def kill(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if str(args.output_dir).endswith(stage) and state.global_step >= step:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(self, event, kill)


@pytest.mark.parametrize(
    ("event", "stage", "step", "finished", "goes_on_at"),
    [
        pytest.param("on_train_end", "1-wide", 3, [], 2, id="between the last checkpoint and the save"),
        pytest.param("on_train_begin", "2-deep", 0, ["1-wide"], 0, id="between stages"),
        pytest.param("on_pre_optimizer_step", "2-deep", 2, ["1-wide"], 2, id="in the second stage"),
    ],
)
def test_killed_anywhere_it_goes_on(
    uninterrupted: Path, event: str, stage: str, step: int, finished: list[str], goes_on_at: int, tmp_path: Path
) -> None:
    begun: list[tuple[str, int]] = []

    class Begun(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begun.append((Path(args.output_dir).name, state.global_step))

    child = os.fork()
    if child == 0:
        try:
            planned(tmp_path, callbacks=[KillAt(event, stage, step)]).run()
        finally:
            os._exit(1)  # it outlived its killing
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    states = {file.parent.name: json.loads(file.read_text())["state"] for file in tmp_path.glob("*/stage.json")}
    assert [name for name, state in sorted(states.items()) if state == "finished"] == finished and stage in states
    planned(tmp_path, callbacks=[Begun()]).run()
    assert equal(students(tmp_path), students(uninterrupted)) and begun[0] == (stage, goes_on_at)


def test_what_is_finished_is_not_run_again_and_more_stages_may_follow(uninterrupted: Path, tmp_path: Path) -> None:
    class Counts(TrainerCallback):
        seen: list[str] = []  # noqa: RUF012

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seen.append(Path(args.output_dir).name)

    times = [(uninterrupted / name / "model.safetensors").stat().st_mtime_ns for name in ("1-wide", "2-deep")]
    again = planned(uninterrupted, callbacks=[Counts]).run()
    assert equal([again.state_dict()], students(uninterrupted)[1:]) and not Counts.seen
    planned(uninterrupted, [*two(), Stage(steps=1)], callbacks=[Counts], eval_dataset=ragged_examples(8)).run()
    assert Counts.seen == ["3-stage"]
    assert times == [(uninterrupted / n / "model.safetensors").stat().st_mtime_ns for n in ("1-wide", "2-deep")]
    third = load_file(uninterrupted / "3-stage" / "model.safetensors")
    assert not equal([third], students(uninterrupted)[1:])  # it went on from there
    with pytest.raises(ArgumentError, match="a stage '3-stage' of another plan"):
        planned(uninterrupted)
    for name in ("3-stage", "1-wide"):
        (uninterrupted / name).rename(uninterrupted.parent / f"away-{name}")
    with pytest.raises(ArgumentError, match="a finished '2-deep', made from a student of '1-wide' that is no longer"):
        planned(uninterrupted)
    (uninterrupted.parent / "away-1-wide").rename(uninterrupted / "1-wide")
    planned(uninterrupted)


def test_the_arguments_and_models_of_the_user_stay(tmp_path: Path) -> None:
    args, student = arguments(tmp_path, **SETTINGS), weak()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    settings = repr(vars(args))
    returned = run_stages(
        [Stage(steps=1, hard_weight=2.0)], student, args=args, train_dataset=ragged_examples(), data_collator=pad
    )
    assert equal([before], [student.state_dict()]) and repr(vars(args)) == settings
    assert not equal([before], [returned.state_dict()])


def stages_of_a_rank(out: str, ranks: int) -> None:
    """Two, the second with the moments of the first, of as many examples a step as one process has.

    A large epsilon: Adam makes whole steps of gradients that are 0 but for rounding.
    """
    later: dict[str, Any] = {"teacher": "previous", "optimizer": "grown"}
    stages = [
        Stage(name="wide", grow={**SIZES[0], "symmetry": 0.0}, steps=2),
        Stage(name="deep", grow={**SIZES[0], "hidden_size": 64}, steps=2, **later),
    ]
    settings: dict[str, Any] = {"adam_epsilon": 1e-3, "soft_weight_schedule": "constant"}
    args = arguments(out, per_device_train_batch_size=8 // ranks, **settings)
    run_stages(
        stages,
        tiny("bert"),
        teacher=tiny("bert", seed=1),
        args=args,
        train_dataset=ragged_examples(),
        data_collator=pad,
    )


def test_two_processes_do_the_same(tmp_path: Path) -> None:
    run_in_two_processes(stages_of_a_rank, str(tmp_path / "two"), 2)
    stages_of_a_rank(str(tmp_path / "one"), 1)
    for one, other in zip(students(tmp_path / "one"), students(tmp_path / "two"), strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], atol=1e-6, rtol=1e-4)


def test_record_and_card_tell_the_path(uninterrupted: Path) -> None:
    for number, name in ((1, "1-wide"), (2, "2-deep")):
        record = RunRecord.load(uninterrupted / name)
        assert [entry["name"] for entry in record.stages] == ["1-wide", "2-deep"][:number]
    first, second = record.stages
    assert first["seconds"] == RunRecord.load(uninterrupted / "1-wide").training["total"] > 0
    assert (second["teacher"], second["steps"], second["loss"]) == ("1-wide", STEPS, "hard 1 + soft 0.5 (constant)")
    text = str(model_card(record, uninterrupted / "2-deep"))
    assert "last of 2 stages" in text and "2. `2-deep`: num_hidden_layers=3, 30,272 parameters; hard 1 + soft" in text
    assert str(uninterrupted) not in text and "stages" not in str(model_card(replace(record, stages=[])))


def changed(first: Stage | None = None, **changes: Any) -> list[Stage]:
    """Two stages, the second with other arguments; the first is cheap to plan, if none is given."""
    first = first or Stage(name="wide", grow={"hidden_size": 32}, steps=STEPS)
    return [first, Stage(**{"grow": SIZES[1], "name": "deep", "steps": STEPS, **changes})]


def test_a_folder_with_the_stages_of_another_plan(uninterrupted: Path) -> None:
    first = two()[0]
    for stages, words in (
        (
            changed(first, teacher="previous", hard_weight=0.5),
            "args.hard_weight=None in '2-deep', where this plan has 0.5",
        ),
        (changed(first, teacher="previous", steps=4), "steps=3 in '2-deep', where this plan has 4"),
        (changed(first), "teacher='1-wide' in '2-deep', where this plan has 'BertForMaskedLM'"),
    ):
        with pytest.raises(DistillationError, match=words):
            planned(uninterrupted, stages)


def lacking() -> Dataset:
    return Dataset.from_list([{"input_ids": [5, 6], "label_of_it": 1}])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Stage(step=3), SetupError, "steps=None: is missing.(.|\n)*Did you mean 'steps'"),
        (lambda: Stage(steps=3, hard_wieght=1.0), ArgumentError, "Did you mean 'hard_weight'"),
        (lambda: Stage(steps=3, max_steps=1), ArgumentError, "Give steps"),
        (lambda: Stage(steps=3, output_dir="x"), ArgumentError, "Give it in args"),
        (lambda: Stage(steps=0, mask=1.5, name="a/b"), SetupError, "3 problems"),
        (lambda: Stage(steps=3, optimizer="old"), ArgumentError, "Available: fresh, grown"),
        (lambda: Stage(steps=3, grow={"hidden_sizes": 3}), ArgumentError, "Did you mean 'hidden_size'"),
        (lambda: changed(grow={"hidden_size": 16}), GrowthError, r"stages\[1\].grow\['hidden_size'\].*smaller"),
        (lambda: changed(grow={"hidden_size": 40, "init": "clone"}), GrowthError, "whole channels"),
        (lambda: changed(hard_weight=-1.0), ArgumentError, r"stages\[1\].hard_weight=-1.0: is not a weight"),
        (lambda: changed(mask=0.1), ArgumentError, r"stages\[1\].mask=0.1: needs a tokenizer"),
        (lambda: changed(eval_strategy="epoch"), ArgumentError, r"stages\[1\].eval_strategy='epoch'"),
        (lambda: [Stage(steps=1)], ArgumentError, r"stages\[0\].student=None: is missing"),
        (lambda: changed(teacher="tests/models.py"), TeacherError, r"stages\[1\].teacher='tests/models.py'"),
        (
            lambda: changed(teacher=SeveralTeachers(["tests/models.py", weak()])),
            TeacherError,
            r"stages\[1\].teacher='tests/models.py': could not be loaded",
        ),
        (
            lambda: changed(hidden_term="relations", hidden_layers=[9]),
            ArgumentError,
            r"stages\[1\].hidden_layers=\[9\]: names layer 9 of the student, which has 3",
        ),
        (lambda: [], ArgumentError, "is no list of stages"),
    ],
)
def test_bad_input_is_known_before_the_first_step(
    make: Callable[[], Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        planned(tmp_path, make())
    assert not list(tmp_path.iterdir())


def test_data_that_lacks_a_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stages\[1\].dataset='Dataset': has no column 'labels'.*label_of_it"):
        planned(tmp_path, changed(dataset=lacking()), data_collator=None)


def test_a_stage_like_another() -> None:
    second = two()[1]
    changed = replace(second, steps=7, hard_weight=0.5)
    assert changed.arguments == {**second.arguments, "hard_weight": 0.5} and changed.steps == 7
    assert replace(changed, steps=STEPS, hard_weight=1.0) == replace(second, hard_weight=1.0)
    with pytest.raises(ArgumentError, match="Did you mean 'hard_weight'"):
        replace(second, hard_wieght=1.0)


def test_without_a_teacher_the_table_has_no_soft_term(tmp_path: Path) -> None:
    plan = planned(tmp_path, [Stage(steps=1)], student=weak(), teacher=None)
    assert "hard 1  " in str(plan) and "soft" not in str(plan) and "soft" not in plan.stages[0].entry["loss"]


def test_of_a_run_that_is_pushed_the_last_stage_is(tmp_path: Path) -> None:
    plan = planned(tmp_path / "mine", args=arguments(tmp_path / "mine", push_to_hub=True))
    assert [one.args.push_to_hub for one in plan.stages] == [False, True]
    assert plan.stages[1].args.hub_model_id == "mine"


def test_it_prints_as_a_table_and_reads_no_weights(tmp_path: Path) -> None:
    """Of a teacher that has a config alone."""
    tiny("bert").save_pretrained(tmp_path / "weak")
    (tmp_path / "weak" / "model.safetensors").unlink()
    plan = planned(tmp_path / "out", teacher=str(tmp_path / "weak"))
    lines = str(plan).splitlines()
    assert len(lines) == 3 and [line.split()[0] for line in lines[1:]] == ["1", "2"]
    sizes = [
        tiny("bert", hidden_size=32, num_attention_heads=4, intermediate_size=64, num_hidden_layers=n) for n in (2, 3)
    ]
    for line, model in zip(lines[1:], sizes, strict=True):
        assert f"{model.num_parameters():,} parameters" in line and line.endswith(f"  {STEPS}")
    assert "hard 1 + soft 1 (auto)" in lines[1] and "  weak  " in lines[1]
    assert "hard 1 + soft 0.5 (constant)" in lines[2] and "1-wide" in lines[2] and "list (40)" in lines[2]
    assert "the run's" in str(Stages(two())) and "previous" in str(Stages(two()))
    assert not (tmp_path / "out").exists()
