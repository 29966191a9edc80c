"""A student changes its task between stages: the body stays, the head is the teacher's where it fits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_dwt.errors import ArgumentError, DataError, TaskError, TeacherError
from hf_dwt.stages import BodyOf, Stage, plan_stages

from .models import ENCODER, LABELS, randomise, tiny
from .training import arguments, pad, ragged_examples, sequence_examples

CLASS = "text-classification"


def classifier(**sizes: Any) -> PreTrainedModel:
    config = BertConfig(**{**ENCODER, "num_labels": LABELS, "id2label": {0: "a", 1: "b", 2: "c"}, **sizes})
    return randomise(AutoModelForSequenceClassification.from_config(config), seed=5).eval()


def planned(out: Path, *stages: Stage, student: Any = None) -> Any:
    """A masked LM for a step, and then what `stages` say, on examples with a class each."""
    first = Stage(name="general", steps=1, soft_weight=0.0)
    given = {"teacher": tiny("bert", seed=1), "args": arguments(out), "train_dataset": ragged_examples()}
    return plan_stages([first, *stages], student or tiny("bert", seed=2), data_collator=pad, **given)


def change(teacher: Any, **more: Any) -> Stage:
    data = sequence_examples(classes=LABELS)
    return Stage(**{"name": "task", "steps": 1, "task": CLASS, "teacher": teacher, "dataset": data, **more})


def test_the_body_stays_and_a_head_that_fits_is_the_teachers(tmp_path: Path) -> None:
    """At a learning rate of 0, so that what was trained is what was made."""
    teacher = classifier()
    plan = planned(tmp_path, change(teacher, learning_rate=0.0))
    line = str(plan).splitlines()[2]
    assert "the body kept; bert.pooler.dense, classifier of BertForSequenceClassification" in line
    student = plan.run()
    before = load_file(tmp_path / "1-general" / "model.safetensors")
    made, theirs = student.state_dict(), teacher.state_dict()
    body = [name for name in made if name in before]
    assert len(body) > 20 and all(torch.equal(made[name], before[name]) for name in body)
    head = [name for name in made if name not in before]
    assert set(head) == {f"{m}.{p}" for m in ("bert.pooler.dense", "classifier") for p in ("weight", "bias")}
    assert all(torch.equal(made[name], theirs[name]) for name in head)
    assert student.config.id2label == {0: "a", 1: "b", 2: "c"} and student.config.architectures == [
        type(teacher).__name__
    ]


def test_a_head_that_does_not_fit_is_new_under_the_seed(tmp_path: Path) -> None:
    narrow = classifier()
    wide = tiny("bert", seed=2, hidden_size=32)
    made = []
    for seed in (1, 1, 2):
        plan = planned(tmp_path, change(narrow, seed=seed), student=wide)
        assert "bert.pooler.dense, classifier new" in str(plan)
        made.append(plan.stages[1].student.change.apply(wide, seed).state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not torch.equal(made[0]["classifier.weight"], made[2]["classifier.weight"])
    assert torch.equal(made[0]["bert.embeddings.word_embeddings.weight"], wide.get_input_embeddings().weight)


def test_the_body_of_one_model_under_the_head_of_another() -> None:
    fine_tuned, pretrained = classifier(), tiny("bert", seed=1)
    made = BodyOf(fine_tuned, head=pretrained).model()
    batch = {"input_ids": torch.tensor([[5, 6, 7]])}
    hidden = fine_tuned.base_model(**batch).last_hidden_state
    assert type(made) is type(pretrained)
    assert torch.equal(made.base_model(**batch).last_hidden_state, hidden)
    dense = made.cls.predictions.transform.dense  # type: ignore[union-attr]
    assert torch.equal(dense.weight, pretrained.cls.predictions.transform.dense.weight)  # type: ignore[union-attr]
    assert torch.equal(made.get_output_embeddings().weight, fine_tuned.get_input_embeddings().weight)  # still tied


@pytest.mark.parametrize(
    ("stage", "error", "words"),
    [
        (lambda: change(None, soft_weight=0.0), ArgumentError, r"stages\[1\].num_labels=None: leaves the number"),
        (lambda: change(classifier(), num_labels=7), ArgumentError, "not the number of classes of the teacher, 3"),
        (lambda: change("previous", num_labels=3), TeacherError, "is for fill-mask, where the student is for text"),
        (
            lambda: change(classifier(), task=None),
            TeacherError,
            "is for text-classification, where the",
        ),
        (
            lambda: [change(classifier()), Stage(name="same", steps=1, task=CLASS, num_labels=7, soft_weight=0.0)],
            ArgumentError,
            r"stages\[2\].num_labels=7: is not the number of classes of the student, 3",
        ),
        (lambda: Stage(steps=1, task="classification"), ArgumentError, "Did you mean 'text-classification'"),
    ],
)
def test_bad_input(stage: Any, error: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        planned(tmp_path, *(made if isinstance(made := stage(), list) else [made]))


def test_a_task_that_the_architecture_lacks(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="is no task of BertForMaskedLM"):
        planned(tmp_path, Stage(steps=1, task="text2text-generation"))


def test_a_collator_of_masks_for_classes(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[MASK]": 4}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, mask_token="[MASK]")
    masks = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.2)
    with pytest.raises(DataError, match="makes labels of tokens, where a stage of text-classification has classes"):
        planned(tmp_path, change(classifier(), data_collator=masks))
