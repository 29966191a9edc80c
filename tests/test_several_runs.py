"""Runs with several teachers: what is logged, evaluated, recorded, cached, resumed and refused."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_dwt import DistillationTrainer
from hf_dwt.errors import ArgumentError, CacheError, DataError, SetupError, TeacherError
from hf_dwt.publish.card import model_card
from hf_dwt.publish.run_record import RunRecord
from hf_dwt.teachers import CorrectedTeacher, ReinforcedSelection, SeveralTeachers
from hf_dwt.teachers.loading import shown_task
from hf_dwt.training.learning import FILE
from hf_dwt.training.opening import PrintAssessment

from .models import VOCAB, tiny
from .training import history, pad, ragged_examples, trainer

POLICY = ReinforcedSelection(warmup=0.4, learning_rate=0.1)
ONE = {"soft_weight_schedule": "constant"}


def pair(weighting: Any = "cross_entropy", **settings: Any) -> SeveralTeachers:
    """Two teachers of different sizes."""
    teachers = {"small": tiny("bert", seed=1), "wide": tiny("bert", seed=2, hidden_size=24, intermediate_size=40)}
    return SeveralTeachers(teachers, weighting, **settings)


def steps(teacher: Any, out: Path, *names: str, **settings: Any) -> list[tuple[float, ...]]:
    run = trainer(tiny("bert"), teacher, out, **{**ONE, **settings})
    run.train()
    return history(run, "loss", "grad_norm", *names)


def test_weights_are_logged_and_each_teacher_is_evaluated(tmp_path: Path) -> None:
    run = trainer(tiny("bert"), pair(), tmp_path, **ONE)
    run.train()
    logged = history(run, "teacher_weight_small", "teacher_weight_wide")
    np.testing.assert_allclose(np.sum(logged, axis=1), 1.0, rtol=1e-5)
    assert len(logged) == 5 and len({small for small, _ in logged}) == 5
    found = run.evaluate(ragged_examples(9, seed=3))
    for name, model in pair().sources.items():
        alone = trainer(tiny("bert"), model, tmp_path).evaluate(ragged_examples(9, seed=3))
        assert found[f"eval_teacher_loss_{name}"] == pytest.approx(alone["eval_teacher_loss"], rel=1e-5)
    losses = [found[f"eval_teacher_loss_{name}"] for name in ("small", "wide")]
    assert losses[0] != losses[1] and found["eval_teacher_loss"] < max(losses)
    weights = [found[f"eval_teacher_weight_{name}"] for name in ("small", "wide")]
    assert sum(weights) == pytest.approx(1.0) and abs(weights[0] - 0.5) > 1e-3


def test_a_mixture_within_a_mixture_logs_the_teachers_that_it_is_made_of(tmp_path: Path) -> None:
    nested = SeveralTeachers({"pair": pair([1, 3]), "other": tiny("bert", seed=3)}, [1, 1])
    names = ("teacher_weight_pair.small", "teacher_weight_pair.wide", "teacher_weight_other")
    for logged in steps(nested, tmp_path, *names):
        np.testing.assert_allclose(logged[2:], [0.125, 0.375, 0.5], rtol=1e-5)


def test_one_teacher_trains_as_it_does_by_itself(tmp_path: Path) -> None:
    plain = steps(tiny("bert", seed=1), tmp_path, temperature=2.0)
    for weighting in ("cross_entropy", POLICY):
        alone = steps(SeveralTeachers([tiny("bert", seed=1)], weighting), tmp_path, temperature=2.0)
        np.testing.assert_allclose(alone, plain, rtol=2e-6)


def test_a_policy_that_does_not_learn_is_the_mean_bit_for_bit(tmp_path: Path) -> None:
    frozen = steps(pair(ReinforcedSelection(warmup=0.0, learning_rate=0.0)), tmp_path)
    assert frozen == steps(pair("equal"), tmp_path)
    assert frozen != steps(pair(ReinforcedSelection(warmup=0.0)), tmp_path)


def policy_of(run: DistillationTrainer) -> dict[str, Tensor]:
    part = run.learning.parts["policy"]
    return {**{name: p.detach().clone() for name, p in part.module.named_parameters()}, **part.state}


def test_all_teachers_teach_in_the_warm_up_and_the_policy_learns_behind_it(tmp_path: Path) -> None:
    run = trainer(tiny("bert"), pair(POLICY), tmp_path, **ONE)
    run.train()
    weights = np.ravel(history(run, "teacher_weight_small"))  # type: ignore[arg-type]
    np.testing.assert_allclose(weights[:2], 0.5)
    assert all(abs(weight - 0.5) > 1e-3 for weight in weights[2:])
    assert len(set(history(run, "teacher_reward"))) == 5
    assert min(value.abs().max() for value in policy_of(run).values() if value.numel() > 2) > 0
    assert not [name for name, _ in run.model.named_parameters() if "policy" in name]


def test_each_start_begins_with_the_policy_anew_and_a_source_serves_several_runs(tmp_path: Path) -> None:
    source = pair(POLICY)
    first = trainer(tiny("bert"), source, tmp_path, **ONE)
    first.train()
    expected = history(first, "loss", "grad_norm")
    again = trainer(tiny("bert"), source, tmp_path, **ONE)
    again.train()
    assert history(again, "loss", "grad_norm") == expected
    values = policy_of(again)
    again.train()  # with the moments of the student's optimizer that are there, but its policy anew
    assert int(values["steps"]) == int(policy_of(again)["steps"]) == 5
    assert not torch.equal(values["weight"], policy_of(again)["weight"])


@pytest.mark.parametrize("weighting", ["cross_entropy", POLICY], ids=["cross_entropy", "policy"])
def test_cached_teachers_teach_as_live_ones(weighting: Any, tmp_path: Path) -> None:
    live = steps(pair(weighting), tmp_path / "live", "teacher_weight_small")
    for _ in range(2):  # made, then read
        cached = steps(
            pair(weighting), tmp_path / "run", "teacher_weight_small", teacher_cache=str(tmp_path / "cache")
        )
        np.testing.assert_allclose(cached, live, rtol=2e-5)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"small", "wide"}


def test_a_run_with_a_policy_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    """Its parameters, its optimizer, its moving mean and its count of steps, which draws depend on."""
    settings = {**ONE, "max_steps": 6, "save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": 2}
    settings |= {"per_device_train_batch_size": 4, "lr_scheduler_type": "linear"}
    whole = trainer(tiny("bert"), pair(POLICY), tmp_path / "whole", **settings)
    whole.train()
    assert (tmp_path / "whole" / "checkpoint-4" / FILE).is_file()
    resumed = trainer(tiny("bert"), pair(POLICY), tmp_path / "again", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    names = ("loss", "grad_norm", "teacher_weight_small", "teacher_reward")
    assert history(resumed, *names)[-2:] == history(whole, *names)[-2:]
    for name, value in policy_of(whole).items():
        assert torch.equal(policy_of(resumed)[name], value), name
    assert int(policy_of(whole)["steps"]) == 6
    saved = {path.name for path in (tmp_path / "whole" / "checkpoint-4").iterdir()}
    whole.save_model(str(tmp_path / "model"))
    assert FILE in saved and not (tmp_path / "model" / FILE).exists()


def test_the_weights_of_a_batch_depend_on_the_split_and_those_of_rows_and_examples_do_not(tmp_path: Path) -> None:
    """Over the batch, as in the paper: the one choice for which no split could change nothing."""
    splits: list[dict[str, Any]] = [{}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}]
    for over in ("row", "example"):
        whole, parts = (steps(pair(over=over), tmp_path, "teacher_weight_small", **split) for split in splits)
        np.testing.assert_allclose(parts, whole, rtol=1e-5)
    whole, parts = (steps(pair(over="batch"), tmp_path, "teacher_weight_small", **split) for split in splits)
    assert np.abs(np.array(parts) - whole).max() > 1e-3


def test_the_teachers_are_recorded_and_the_card_names_them(tmp_path: Path) -> None:
    run = trainer(tiny("bert"), pair("perplexity", over="row"), tmp_path, **ONE, max_steps=1)
    run.train()
    run.evaluate(ragged_examples(9, seed=3))
    run.create_model_card()
    record = RunRecord.load(tmp_path)
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in pair().sources.items()}  # type: ignore
    assert {name: one["parameters"] for name, one in record.teacher["teachers"].items()} == sizes
    assert record.teacher["parameters"] == sum(sizes.values())
    assert record.teacher["weighting"] == "perplexity over each row, temperature 1"
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "the predictions of 2 models: `BertForMaskedLM`, `BertForMaskedLM`" in text
    assert text.count("| the weak teacher `BertForMaskedLM` |") == 2 and "| the mixture of its teachers |" in text
    assert "weights by perplexity: Collective Wisdom ([arXiv:2010.05445]" in text


def test_a_card_has_each_teacher_of_the_hub_as_a_base_model() -> None:
    teachers = {"0": {"name": "me/a", "hub_id": "me/a"}, "1": {"name": "me/b", "hub_id": "me/b"}}
    record = RunRecord(teacher={"name": "me/a, me/b", "hub_id": None, "teachers": teachers})  # type: ignore[typeddict-item]
    assert model_card(record).data.base_model == ["me/a", "me/b"]


def test_other_teachers_than_those_of_the_checkpoint_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**ONE, "max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    trainer(tiny("bert"), pair(), tmp_path, **settings).train()
    trainer(tiny("bert"), pair([1, 2]), tmp_path, **settings).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-2")
    )
    assert "weighting: cross_entropy over each example, temperature 1 there, [1, 2] over each example" in caplog.text


def test_one_callback_prints_a_line_on_each_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(tiny("bert"), pair(), tmp_path, **ONE, max_steps=1)
    assert sum(isinstance(one, PrintAssessment) for one in run.callback_handler.callbacks) == 1
    run.train()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "The teacher's loss" in line] == ["small", "wide"]


def test_the_task_of_a_student_is_that_of_its_teachers() -> None:
    task = shown_task(SeveralTeachers(["nowhere/to-be-found", tiny("gpt2")]))
    assert task is not None and task.auto_class == "AutoModelForCausalLM"


# ---- what is refused ----


def test_each_teacher_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    teacher = SeveralTeachers({"good": tiny("bert", seed=1), "gone": str(tmp_path / "gone"), "other": tiny("gpt2")})
    with pytest.raises(SetupError) as caught:
        trainer(tiny("bert"), teacher, tmp_path)
    shown = str(caught.value)
    assert "teacher_model['gone']=" in shown and "teacher_model['other']" in shown and "'good'" not in shown


def test_teachers_of_other_vocabularies_are_refused(tmp_path: Path) -> None:
    teacher = SeveralTeachers([tiny("bert", seed=1), tiny("bert", seed=2, vocab_size=VOCAB + 3)])
    with pytest.raises(Exception, match=r"teacher_model\['1'\].*nothing shows that they mean the same"):
        trainer(tiny("bert"), teacher, tmp_path)


@pytest.mark.parametrize("form", ["top_k", "sampled", "auto"])
@pytest.mark.parametrize("teacher", [pair(), CorrectedTeacher(tiny("bert", seed=1), "revise")], ids=["several", "one"])
def test_a_cache_of_few_classes_is_refused(teacher: Any, form: str, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=f"teacher_cache_form='{form}'.*are made of all of them.*'hidden'"):
        trainer(tiny("bert"), teacher, tmp_path, teacher_cache=str(tmp_path / "cache"), teacher_cache_form=form)


def test_two_corrections_of_one_teacher_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="teacher_correction='gate'.*has a correction already"):
        trainer(tiny("bert"), CorrectedTeacher(tiny("bert", seed=1), "revise"), tmp_path, teacher_correction="gate")


def test_a_corrected_teacher_is_the_correction_of_the_run(tmp_path: Path) -> None:
    whole = steps(tiny("bert", seed=1), tmp_path, teacher_correction="revise", teacher_correction_kwargs={"eta": 0.5})
    assert steps(CorrectedTeacher(tiny("bert", seed=1), "revise", eta=0.5), tmp_path) == whole
    mixture = steps(pair("equal"), tmp_path, teacher_correction="revise")
    assert mixture != steps(pair("equal"), tmp_path)


def test_a_policy_needs_labels(tmp_path: Path) -> None:
    """Rows are positions with labels: without any there is nothing that could be weighted, and no step."""
    unlabelled = [{"input_ids": example["input_ids"]} for example in ragged_examples()]

    def collate(examples: list[Any]) -> dict[str, Tensor]:
        batch = pad([{**example, "labels": example["input_ids"]} for example in examples])
        return {name: value for name, value in batch.items() if name != "labels"}

    run = trainer(tiny("bert"), pair(POLICY), tmp_path, train_dataset=unlabelled, more={"data_collator": collate})
    with pytest.raises(DataError, match="labels"):
        run.train()
    assert run.state.global_step == 0


def test_a_teacher_of_few_classes_is_named(tmp_path: Path) -> None:
    from hf_dwt.objective import Targets
    from hf_dwt.objective.sparse import TopK

    class Few:
        columns: frozenset[str] = frozenset()

        def targets(self, batch: Any, rows: Any) -> Targets:
            ones = torch.zeros(len(rows.labels), 1)
            return Targets(TopK(ones.long(), VOCAB, ones[:, 0], log_probs=ones, rest=ones[:, 0]))

    with pytest.raises(TeacherError, match="few.*few classes of its distribution"):
        trainer(tiny("bert"), SeveralTeachers({"model": tiny("bert", seed=1), "few": Few()}), tmp_path).train()


def test_the_policy_s_loss_is_part_of_each_step(tmp_path: Path) -> None:
    """Were it left out, nothing would be learnt."""
    with patch("hf_dwt.teachers.several.policy.Rewarding.loss", lambda self: torch.zeros(())):
        run = trainer(tiny("bert"), pair(POLICY), tmp_path, **ONE)
        run.train()
    assert not policy_of(run)["weight"].any()
