"""What callbacks record, draw and push, in any Trainer, and what the command line makes of it afterwards."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForMaskedLM, Trainer, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_dwt import cli
from hf_dwt.callbacks import DrawRun, PushRun, RecordRun
from hf_dwt.errors import DistillationError, HubError
from hf_dwt.publish.card import KEEP, model_card
from hf_dwt.publish.describe import describe_dataset, describe_model
from hf_dwt.publish.plot import draw, points_of
from hf_dwt.publish.run_record import RunRecord, write_whole
from hf_dwt.publish.summary import summary

from .hub import ME, Hub
from .models import tiny
from .training import pad, ragged_examples, trainer

REPO = f"{ME}/student"
SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}


# ---- each callback with any Trainer ----


def test_the_callbacks_serve_a_plain_trainer(hub: Hub, tmp_path: Path) -> None:
    record, out = RecordRun(), tmp_path / "out"
    settings = {**SAVING, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1}
    args = TrainingArguments(str(out), use_cpu=True, report_to="none", disable_tqdm=True, **settings)
    callbacks = [record, DrawRun(record), PushRun(REPO, when="end")]
    Trainer(tiny("bert"), args, pad, ragged_examples(), ragged_examples(8), callbacks=callbacks).train()
    written = RunRecord.load(out)
    assert written.model["task"] == "fill-mask" and written.training["steps"] == 4 and written.metrics["eval_loss"] > 0
    assert [entry["step"] for entry in written.curve if "eval_loss" in entry] == [1, 2, 3, 4]
    spent = written.training
    assert 0 < spent["data"] < spent["total"] == pytest.approx(spent["student"] + spent["data"], abs=0.02)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [c.message for c in hub.repos[REPO].revisions["main"]] == ["initial", "End of training"]
    assert {"curves.png", "run.json", "model.safetensors"} <= set(hub.repos[REPO].files)
    with pytest.raises(DistillationError, match="when='always'"):
        PushRun(REPO, when="always")


def test_the_best_saves_alone_can_be_pushed(hub: Hub, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**SAVING, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 1}
    settings["learning_rate"] = 5.0  # soon worse
    args = TrainingArguments(
        str(tmp_path / "out"),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        load_best_model_at_end=True,
        **settings,
    )
    pushing = PushRun(REPO, when="best", every=True)
    run = Trainer(tiny("bert"), args, pad, ragged_examples(), ragged_examples(8), callbacks=[pushing])
    run.train()
    losses = {e["step"]: e["eval_loss"] for e in run.state.log_history if "eval_loss" in e}
    best = [step for step, loss in losses.items() if loss == min(list(losses.values())[:step])]
    pushed = [c.message for c in hub.repos[REPO].revisions["main"][1:]]
    assert pushed == [f"Training in progress, step {step}" for step in best] and len(best) < 4


# ---- what a run has come to ----


def test_a_run_says_what_it_has_come_to_when_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the model as it is then, which is the best one; and where it lies is where it is read from."""
    saving: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    best = {**saving, "load_best_model_at_end": True, "learning_rate": 5.0, "max_steps": 3}  # soon worse
    more = {"eval_dataset": ragged_examples(8)}
    run = trainer(tiny("bert"), tiny("bert", seed=1), tmp_path, more=more, **best)
    run.train()
    lines = capsys.readouterr().out.splitlines()[-5:]
    figures = {e["step"]: (e["eval_loss"], e["eval_teacher_loss"]) for e in run.state.log_history if "eval_loss" in e}
    step, folder = run.state.best_global_step, run.state.best_model_checkpoint
    assert step != 3 and len(set(figures.values())) == 3
    student, teacher = figures[step]
    assert lines[0] == f"The student's held-out loss is {student:.4g} at step {step}, its teacher's {teacher:.4g}."
    assert "its teacher's loss" in lines[1] and lines[2] == f"It lies in {folder}."
    assert lines[3] == f'To load it: AutoModelForMaskedLM.from_pretrained("{folder}")'
    loaded = AutoModelForMaskedLM.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), run.model.parameters(), strict=True))
    assert lines[4] == f"To push it: hf-dwt push {folder} OWNER/NAME"
    monkeypatch.setattr(logging.get_logger("transformers"), "level", logging.ERROR)
    run.train()
    assert "To load it" not in capsys.readouterr().out


def test_a_summary_names_what_is_known() -> None:
    curve = [{"step": s, "seconds": 0.5 * s, "eval_loss": 3.0 - s, "eval_teacher_loss": 1.5} for s in (1, 2)]
    lines = summary(RunRecord(curve=curve), "out dir", None, 2)
    assert lines == [
        "The student's held-out loss is 1 at step 2, its teacher's 1.5.",
        "It was below its teacher's loss after 2 steps and 1 s, at the latest.",
        "It is not saved as it is now: trainer.save_model() writes it to out dir.",
        "To push it: hf-dwt push 'out dir' OWNER/NAME",
    ]
    adapter = RunRecord(model={"adapter": "LORA", "auto_class": "AutoModelForCausalLM"}, curve=[{"hard_loss": 2.5}])
    assert summary(adapter, "out", "out/checkpoint-2", 2, pushes=True) == [
        "The student's loss was 2.5 on the last training batches; no held-out data was evaluated.",
        "It lies in out/checkpoint-2.",
        'To load it: AutoModelForCausalLM.from_pretrained("out/checkpoint-2") (transformers and peft)',
    ]
    assert len(summary(RunRecord(), "out", None, 0)) == 2


# ---- without training ----


def test_a_card_is_refreshed_and_keeps_what_a_user_wrote(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student"
    run = trainer(tiny("bert"), tiny("bert", seed=1), out)
    run.train()
    run.save_model()
    assert "5 steps of 8 examples" in (out / "README.md").read_text()
    run.recorder.baseline = {"loss": 9.125}
    run.evaluate(ragged_examples(8))
    assert cli.main(["card", str(out), "--model-id", REPO, "--license", "mit"]) == 0
    text = (out / "README.md").read_text()
    assert f'from_pretrained("{REPO}")' in text and "license: mit" in text
    assert "| **this model** |" in text and "| the same without the teacher | 9.125 |" in text
    own = text.replace("\n".join(KEEP), f"{KEEP[0]}\nMine.\n{KEEP[1]}")
    (out / "README.md").write_text(own + "\nNot kept.\n")
    assert cli.main(["card", str(out)]) == 0
    assert (out / "README.md").read_text() == own
    assert cli.main(["push", str(out), REPO, "--private"]) == 0
    assert hub.repos[REPO].files["README.md"].decode() == own and hub.repos[REPO].private
    assert cli.main(["push", str(out), "another"]) == 0  # what is ours follows the repository
    assert f'from_pretrained("{ME}/another")' in (out / "README.md").read_text()
    (out / "README.md").write_text("# Mine alone")
    run.save_model()
    run.create_model_card()
    assert cli.main(["push", str(out), REPO]) == 0 and hub.repos[REPO].files["README.md"] == b"# Mine alone"
    capsys.readouterr()
    assert cli.main(["card", os.devnull]) == 1 and "run.json" in capsys.readouterr().err


# ---- what is recorded ----


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "soft_weight_schedule": "constant"}
    more = {"eval_dataset": ragged_examples(8)}
    written, tokens = [], {}
    for steps in (2, 4):
        run = trainer(tiny("bert"), tiny("bert", seed=1), tmp_path, max_steps=steps, more=more, **settings)
        run.train(resume_from_checkpoint=steps > 2)
        written.append(RunRecord.load(tmp_path))
        tokens[steps] = written[-1].training["tokens"]
        checkpoint = tmp_path / f"checkpoint-{steps}"
        known = RunRecord.load(checkpoint)
        known.training["processes"] = 2  # a run goes on from one of any number of processes
        known.save(checkpoint)
    first, whole = written
    lengths = [len(example["input_ids"]) for example in ragged_examples()]
    assert tokens == {2: sum(lengths[:16]), 4: sum(lengths[:32])} and len(set(lengths)) > 1  # padding is no token
    assert whole.training["padding_counted"] is False
    for part in ("total", "teacher", "student"):
        assert 0 < first.training[part] < whole.training[part]
    seconds = [entry["seconds"] for entry in whole.curve if "grad_norm" in entry]
    assert len(seconds) == 4 and seconds == sorted(seconds) and seconds[1] == first.curve[1]["seconds"]
    alone = trainer(tiny("bert"), None, tmp_path / "alone", max_steps=2)
    alone.train()
    assert "teacher" not in RunRecord.load(tmp_path / "alone").training


def test_an_adapter_is_described_with_its_base_model() -> None:
    base = tiny("bert")
    base.name_or_path = "org/base"
    described = describe_model(get_peft_model(base, LoraConfig(target_modules=["query"])))
    assert (described["adapter"], described["base_model"]) == ("LORA", "org/base")
    assert described["class"] == "BertForMaskedLM" and described["task"] == "fill-mask"
    assert not {"adapter", "base_model"} & set(describe_model(tiny("bert"))) and describe_model(None) == {}


def test_padding_that_no_mask_shows_is_counted_and_said() -> None:
    record, ids = RecordRun(), torch.tensor([[1, 2, 3], [1, 0, 0]])
    args = TrainingArguments("out", use_cpu=True, report_to="none")
    record.count({"input_ids": ids, "attention_mask": (ids > 0).long()})
    known = record.run_record(args, TrainerState()).training
    record.count({"input_ids": ids})
    record.count({"pixel_values": ids})
    unknown = record.run_record(args, TrainerState()).training
    assert (known["tokens"], known["padding_counted"]) == (4, False)
    assert (unknown["tokens"], unknown["padding_counted"]) == (10, True)
    cards = [str(model_card(RunRecord(training={**training, "total": 0}))) for training in (known, unknown)]
    assert "4 tokens seen;" in cards[0] and "10 tokens seen (any padding among them);" in cards[1]


def test_a_file_is_replaced_and_its_other_names_keep_the_old_one(tmp_path: Path) -> None:
    """What waits to be pushed is a second name of what was saved."""
    write_whole(tmp_path / "a", "old")
    os.link(tmp_path / "a", tmp_path / "b")
    write_whole(tmp_path / "a", "new")
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("new", "old")
    assert len(list(tmp_path.iterdir())) == 2


def test_when_the_student_overtook_its_teacher() -> None:
    curve = [{"step": s, "eval_loss": 3.0 - s, "eval_teacher_loss": 1.5} for s in range(3)]
    assert RunRecord(curve=curve).overtook == curve[2] and RunRecord(curve=curve[:2]).overtook is None


def test_a_dataset_of_the_hub_is_known_by_id_and_revision(tmp_path: Path) -> None:
    data = Dataset.from_list(ragged_examples(8))
    assert describe_dataset(data) == [] == describe_dataset(ragged_examples(8))
    data.info.dataset_name = "text"
    assert describe_dataset(data) == [{"id": None, "name": "text", "revision": None}]
    data.info.download_checksums = {"hf://datasets/org/name@abc/train.parquet": {}, "https://else.where/x": {}}
    assert describe_dataset(data.map(lambda row: row)) == [{"id": "org/name", "name": "org/name", "revision": "abc"}]


def test_nothing_is_drawn_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = {"step": 1, "seconds": 0.5, "eval_loss": 1.0}
    assert not draw(RunRecord(), tmp_path) and not draw(RunRecord(curve=[point]), tmp_path)
    assert draw(RunRecord(curve=[point, {**point, "step": 2}]), tmp_path)
    (tmp_path / "curves.png").unlink()
    monkeypatch.setattr("hf_dwt.publish.plot.find_spec", lambda name: None)  # as where matplotlib is not installed
    assert not draw(RunRecord(curve=[point, {**point, "step": 2}]), tmp_path)
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("content", [None, "{", "[1]", '"text"', "null"])
def test_a_folder_without_facts_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(HubError, match="no readable run.json"):
        RunRecord.load(tmp_path)
    RunRecord(settings={"seed": 3}).save(tmp_path)
    assert RunRecord.load(tmp_path).settings == {"seed": 3}


def test_a_final_evaluation_of_another_set_is_no_point_of_the_curve() -> None:
    curve = [{"step": 1, "eval_loss": 3.0}, {"step": 2, "eval_loss": 2.0}, {"step": 2, "eval_loss": 2.5}]
    assert points_of(curve, "step", "eval_loss") == [(1, 3.0), (2, 2.0)]
    assert points_of(curve, "seconds", "eval_loss") == []
