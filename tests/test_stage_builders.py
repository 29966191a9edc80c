"""The lists of the papers: what they say, and ERNIE-Tiny's four stages against four trainers called by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
)

from hf_dwt import DistillationTrainer, from_weak_teacher
from hf_dwt.errors import ArgumentError
from hf_dwt.stages import ernie_tiny, generations, plan_stages, progressive

from .models import LABELS, VOCAB, tiny
from .test_stage_heads import classifier
from .training import arguments, ragged_examples, sequence_examples

SIZES = [{"num_hidden_layers": 3}, {"num_hidden_layers": 4}]
GROW = {"hidden_size": 32, "num_hidden_layers": 3, "init": "clone"}


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 4} | {f"w{n}": n for n in range(VOCAB) if n not in (0, 1, 4)}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", pad_token="[PAD]", unk_token="[UNK]")


def general() -> list[dict[str, Any]]:
    return [{"input_ids": one["input_ids"] * 2} for one in ragged_examples()]


def test_sizes_with_a_mask_rate_each_and_generations() -> None:
    found = progressive(SIZES, masks=[0.05, 0.2], steps=[3, 4], hidden_weight=0.3)
    assert [(one.mask, one.steps, one.grow) for one in found] == [(0.05, 3, SIZES[0]), (0.2, 4, SIZES[1])]
    assert all(one.teacher == "previous" and one.arguments["hidden_term"] == "masked_features" for one in found)
    assert str(found).count("hard 1 + soft 1 (auto) + masked_features 0.3") == 2
    later = generations(SIZES, 5)
    assert [(one.name, one.steps) for one in later] == [("generation-1", 5), ("generation-2", 5)]
    assert str(later).count("soft 1 (knowledge_inheritance)") == 2 and "masked" not in str(later)
    for wrong in (lambda: progressive(SIZES, [0.1], 3), lambda: generations(SIZES, [1, 2, 3])):
        with pytest.raises(ArgumentError, match="is not of the 2 stages"):
            wrong()
    with pytest.raises(ArgumentError, match="Did you mean 'hidden_weight'"):
        progressive(SIZES, [0.1, 0.2], 3, hiden_weight=1.0)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the four stages, of two steps each."""
    out = tmp_path_factory.mktemp("four")
    tiny("bert", seed=1).save_pretrained(out / "weak")
    classifier().save_pretrained(out / "weak-topics")
    stages = ernie_tiny(
        pretrained=str(out / "weak"),
        finetuned=str(out / "weak-topics"),
        general=general(),
        task=sequence_examples(classes=LABELS),
        steps=2,
        grow=GROW,
        mask=0.4,
    )
    plan = plan_stages(stages, args=arguments(out, max_grad_norm=0.0), processing_class=tokenizer())
    shown = str(plan).splitlines()
    assert len(shown) == 5 and all(line.endswith(" 2") for line in shown[1:])
    for number, words in enumerate(("weak ", "body of ", "weak-topics ", "weak-topics "), start=1):
        line = shown[number]
        assert words in line and "masked_features 0.1" in line
        assert ("hard 1 + soft 1 (auto) + " in line) == (number == 4) == ("hard" in line)
    assert "text-classification (the body kept; bert.pooler.dense, classifier new)" in shown[3]
    plan.run()
    return out


def test_the_terms_of_each_stage(four: Path) -> None:
    """Logged by its trainer: hidden states alone until the last, which are those of a clone in the first step."""
    for number, name in enumerate(("general", "enhanced", "adaptive", "specific"), start=1):
        curve = json.loads((four / f"{number}-{name}" / "run.json").read_text(encoding="utf-8"))["curve"]
        first = curve[0]
        if number < 4:
            assert first["loss"] == pytest.approx(0.1 * first["hidden_loss"], rel=1e-4) and "soft_loss" not in first
        else:
            terms = sum(curve[1][f"{term}_weight"] * curve[1][f"{term}_loss"] for term in ("hard", "soft", "hidden"))
            assert curve[1]["loss"] == pytest.approx(terms, rel=1e-4) and curve[1]["hard_weight"] > 0
        assert (first["hidden_loss"] < 1e-9) == (number == 1)
    grown = [json.loads((four / one / "growth.json").read_text())["init"] for one in ("1-general", "4-specific")]
    assert grown == ["clone", "clone"]


def by_hand(four: Path, out: Path, student: Any, teacher: Any, data: Any, mask: float | None, **more: Any) -> Any:
    words = tokenizer()
    run = DistillationTrainer(
        student,
        arguments(out, max_steps=2, max_grad_norm=0.0, hidden_term="masked_features", **more),
        train_dataset=data,
        processing_class=words,
        data_collator=DataCollatorForLanguageModeling(words, mlm_probability=mask) if mask else None,
        teacher_model=teacher,
    )
    run.train()
    run.save_model()
    return run.model


def test_four_trainers_called_by_hand_are_the_same(four: Path, tmp_path: Path) -> None:
    """With stock transformers for another head: the student's body gets a new one, the teacher's a masked LM's."""
    alone: dict[str, Any] = {"hard_weight": 0.0, "soft_weight": 0.0}
    weak, topics = str(four / "weak"), str(four / "weak-topics")
    student = from_weak_teacher(weak, **GROW)
    by_hand(four, tmp_path / "1", student, weak, general(), 0.4, **alone)
    body = AutoModelForMaskedLM.from_pretrained(weak)
    fine_tuned = AutoModelForSequenceClassification.from_pretrained(topics)
    body.bert.load_state_dict(fine_tuned.bert.state_dict(), strict=False)
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "1")
    student = by_hand(four, tmp_path / "2", student, body, general(), 0.4, **alone)
    config = student.config
    config.id2label, config.label2id = fine_tuned.config.id2label, fine_tuned.config.label2id
    torch.manual_seed(42)
    classifies = AutoModelForSequenceClassification.from_config(config)
    classifies.bert.load_state_dict(student.bert.state_dict(), strict=False)
    classifies.name_or_path = str(tmp_path / "1")  # where its growth is written
    data = sequence_examples(classes=LABELS)
    by_hand(four, tmp_path / "3", classifies.eval(), topics, data, None, **alone)
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "3")
    student.name_or_path = str(tmp_path / "1")
    by_hand(four, tmp_path / "4", student, topics, data, None)
    for number, name in enumerate(("general", "enhanced", "adaptive", "specific"), start=1):
        ours = load_file(four / f"{number}-{name}" / "model.safetensors")
        theirs = load_file(tmp_path / str(number) / "model.safetensors")
        assert ours.keys() == theirs.keys()
        assert [n for n in ours if not torch.equal(ours[n], theirs[n])] == [], name
