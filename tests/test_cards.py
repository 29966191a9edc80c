"""The card says how the model was made, and nothing that the Hub would refuse."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_dwt import from_weak_teacher
from hf_dwt.cards import CardFacts, model_card

from .models import tiny
from .training import ragged_examples, trainer

FACTS = CardFacts(
    model_id="me/student",
    task="fill-mask",
    auto_class="AutoModelForMaskedLM",
    student_class="BertForMaskedLM",
    student_parameters=12345,
    objective="1 x cross-entropy",
    training="10 steps",
)


def test_the_card_of_a_run(tmp_path: Path) -> None:
    teacher = tiny("bert", seed=1)
    teacher.save_pretrained(tmp_path / "weak")
    student = from_weak_teacher(str(tmp_path / "weak"), hidden_size=32)
    run = trainer(
        student, str(tmp_path / "weak"), tmp_path / "out", temperature=2.0, more={"eval_dataset": ragged_examples(8)}
    )
    run.train()
    metrics = run.evaluate()
    run.create_model_card(license="apache-2.0", tags="mine")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert yaml.safe_load(card.data.to_yaml())["tags"] == [
        "hf_dwt",
        "distillation",
        "weak-to-strong",
        "arxiv:2305.18239",
        "mine",
    ]
    assert (card.data.pipeline_tag, card.data.license) == ("fill-mask", "apache-2.0")
    assert card.data.base_model is None  # a local path is no id of the Hub
    for fact in (
        "`weak`",
        f"{teacher.num_parameters():,}",
        f"{student.num_parameters():,}",
        "init='remap'",
        "| `temperature` | `2.0` |",
        "forward_kl",
        "knowledge_inheritance",
        f"{metrics['eval_loss']:.4g}",
        f"{metrics['eval_teacher_loss']:.4g}",
        "AutoModelForMaskedLM.from_pretrained",
        "5 steps of 8 examples",
    ):
        assert fact in card.text, fact
    assert str(tmp_path) not in card.text.replace(str(tmp_path / "out"), "")
    assert "learning_rate" in card.text and "hub_token" not in card.text


def test_a_teacher_of_the_hub_is_the_base_model() -> None:
    taught = model_card(CardFacts(**{**vars(FACTS), "teacher": "org/weak", "teacher_hub_id": "org/weak"}))
    alone = model_card(FACTS)
    assert taught.data.base_model == "org/weak" and "`org/weak`" in taught.text
    assert alone.data.base_model is None and "Weak Teacher:" not in alone.text


@pytest.mark.parametrize("metrics", [{}, {"eval_loss": 1.25, "eval_accuracy": 0.5}])
def test_what_is_not_known_is_left_out(metrics: dict[str, float]) -> None:
    text = model_card(CardFacts(**{**vars(FACTS), "metrics": metrics})).text
    assert ("## Results" in text) == bool(metrics)
    assert ("| this model | 1.25 | 0.5 |" in text) == bool(metrics)
    assert "None" not in text and "{{" not in text and "{%" not in text
