"""The card says how the model was made, and nothing that the Hub would refuse."""

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModelForSequenceClassification, BertTokenizer, ViTImageProcessor

from hf_dwt import from_weak_teacher
from hf_dwt.growth.strategies import INITS
from hf_dwt.objective import SOFT_TERMS
from hf_dwt.objective.corrections import CORRECTIONS
from hf_dwt.objective.scaling import SCALINGS
from hf_dwt.parts import PAPER
from hf_dwt.publish.card import KEEP, model_card
from hf_dwt.publish.describe import hub_id
from hf_dwt.publish.run_record import RunRecord
from hf_dwt.schedules import choices
from hf_dwt.tasks import TASKS, find_task
from hf_dwt.training.record import growth_section, objective_section

from .hub import card_errors
from .models import BUILDERS, LABELS, tiny
from .tasks import CASES, stack
from .training import arguments, pad, ragged_examples, sequence_examples, trainer

OBJECTIVE = {"hard_weight": 1.0, "soft_weight": 2.0, "soft_term": "forward_kl", "temperature": 1.0}
OBJECTIVE |= {"soft_loss_scaling": "none", "schedule": "constant", "schedule_kwargs": None}
RECORD = RunRecord(
    model={"class": "BertForMaskedLM", "auto_class": "AutoModelForMaskedLM", "task": "fill-mask", "parameters": 12345},
    teacher={"name": "org/weak", "hub_id": "org/weak", "revision": "abc", "parameters": 99, "license": "mit"},
    growth={"init": "remap", "rest": "own", "seed": 0, "teacher": "org/seed", "hub_id": "org/seed"}
    | {"copied": 5, "fresh": 5},
    objective=OBJECTIVE,
    training={"steps": 10, "seed": 42, "examples_per_step": 8, "tokens": 5000, "total": 3.0, "student": 2.0}
    | {"teacher": 0.5, "data": 0.5},
    settings={"learning_rate": 0.1},
    curve=[
        {"step": 5, "seconds": 1.5, "eval_loss": 2.0, "eval_teacher_loss": 1.9},
        {"step": 10, "seconds": 3.0, "eval_loss": 1.25, "eval_accuracy": 0.5, "eval_teacher_loss": 1.9},
    ],
    datasets=[{"id": "org/data", "name": "org/data", "revision": "def"}],
    environment={"hardware": "x86_64", "python": "3.11", "versions": {"torch": "2.13.0"}},
    baseline={"loss": 1.5},
    asked={"model_id": "me/student"},
)


class StrictLoader(yaml.SafeLoader):
    """As SafeLoader, but a key may come only once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return super().construct_mapping(node, deep)


def metadata(card: ModelCard | str) -> dict[str, Any]:
    """The metadata, after both readers found nothing wrong with the card."""
    text = str(card)
    assert card_errors(text) == []
    assert "{{" not in text and "{%" not in text and "None" not in text and "null" not in text
    head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert head
    data = yaml.load(head[1], Loader=StrictLoader)
    assert data == ModelCard(text).data.to_dict() | {k: data[k] for k in ("model-index",) if k in data}
    return data


def test_the_card_of_a_run(tmp_path: Path) -> None:
    teacher, out = tiny("bert", seed=1), tmp_path / "out"
    teacher.save_pretrained(tmp_path / "weak")
    (tmp_path / "weak" / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Weak\n")
    student = from_weak_teacher(str(tmp_path / "weak"), hidden_size=32)
    more = {"eval_dataset": ragged_examples(8)}
    settings = {"temperature": 2.0, "soft_weight_schedule": "knowledge_inheritance", "eval_steps": 2}
    run = trainer(student, str(tmp_path / "weak"), out, more=more, eval_strategy="steps", **settings)
    run.train()
    metrics = run.evaluate()
    run.create_model_card(tags="mine", language="en")
    card = ModelCard.load(out / "README.md")
    data = metadata(card)
    assert data["tags"] == ["hf_dwt", "distillation", "weak-to-strong", "arxiv:2305.18239", "mine"]
    assert (data["pipeline_tag"], data["license"], data["language"]) == ("fill-mask", "cc0-1.0", "en")
    assert "base_model" not in data  # a local path is no id of the Hub
    figures = data["model-index"][0]["results"][0]["metrics"]
    assert {m["type"]: m["value"] for m in figures}["loss"] == pytest.approx(metrics["eval_loss"], abs=1e-6)
    for fact in (
        "`weak`",
        f"{teacher.num_parameters():,}",
        f"{student.num_parameters():,}",
        "`init='remap'`",
        "| `temperature` | `2.0` |",
        "forward_kl",
        "knowledge_inheritance",
        f"{metrics['eval_loss']:.4g}",
        f"{metrics['eval_teacher_loss']:.4g}",
        "AutoModelForMaskedLM.from_pretrained",
        "5 steps of 8 examples",
        "tokens seen",
        "s the teacher",
        "![Held-out loss",
        "2105.13880",
    ):
        assert fact in card.text, fact
    assert str(tmp_path) not in str(card) and "hub_token" not in card.text
    assert str(tmp_path) not in (out / "run.json").read_text()
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_ids_of_the_hub_are_named_and_paths_are_not() -> None:
    data = metadata(model_card(RECORD))
    assert data["base_model"] == ["org/weak", "org/seed"] and data["datasets"] == ["org/data"]
    assert data["license"] == "mit" and data["model-index"][0]["results"][0]["dataset"]["type"] == "org/data"
    local = replace(RECORD, teacher={"name": "weak"}, growth={**RECORD.growth, "teacher": "/a/b/seed", "hub_id": None})
    data, text = metadata(model_card(local)), str(model_card(local))
    assert "base_model" not in data and "`seed`" in text and "/a/b" not in text
    assert hub_id("org/weak") == "org/weak"
    assert not any(map(hub_id, ("weak", "./weak", "/a/weak", "a/b/c", "examples/data", None)))


def test_the_table_has_teacher_student_and_baseline() -> None:
    text = str(model_card(RECORD))
    knowing = replace(RECORD, curve=[{**RECORD.curve[1], "eval_teacher_accuracy": 0.25}])
    assert "| the weak teacher | 1.9 | 6.686 | 0.25 |" in str(model_card(knowing))
    assert "| the weak teacher | 1.9 | 6.686 | - |\n| **this model** | 1.25 | - | 0.5 |" in text
    assert "| the same without the teacher | 1.5 | - | - |" in text
    assert "below its teacher's loss after 10 steps and 3 s" in text
    behind = replace(RECORD, curve=RECORD.curve[:1], baseline={})
    assert "It did not come below" in str(model_card(behind)) and "without the teacher" not in str(model_card(behind))


PAPERS = {  # init -> numbers of the papers that it is made of
    "random": set(),
    "remap": {"2001.02525"},
    "clone": {"1511.05641", "2310.07999", "2409.12903"},
    "pad": {"2310.07999"},
    "aki": {"1511.05641", "2110.07143"},
}


@pytest.mark.parametrize(("init", "name"), [*((init, "llama") for init in INITS), ("auto", "bert")])
def test_the_methods_of_a_growth_are_cited(init: str, name: str, tmp_path: Path) -> None:
    """From the run record, and from growth.json where the run knows of no growth."""
    student = from_weak_teacher(tiny(name), hidden_size=32 if init == "clone" else 24, init=init)
    used = init if init != "auto" else {"llama": "pad", "bert": "remap"}[name]
    (tmp_path / "growth.json").write_text(json.dumps(student.growth_report.to_dict()))
    by_run = model_card(replace(RECORD, growth=growth_section(student)))
    by_file = model_card(replace(RECORD, growth={}), tmp_path)
    for text in (by_run.text, by_file.text):
        metadata(by_run), metadata(by_file)
        cited = set(re.findall(r"https://arxiv.org/abs/([\d.]+)", text))
        assert cited == PAPERS[used]
        assert ("hf_dwt's own" in text) is (used in ("clone", "pad", "aki"))


CHOICES = [
    ("soft_weight_schedule", choices()),
    ("soft_term", SOFT_TERMS),
    ("teacher_correction", CORRECTIONS),
    ("soft_loss_scaling", SCALINGS),
]


@pytest.mark.parametrize(("argument", "part"), [(name, part) for name, parts in CHOICES for part in parts.values()])
def test_the_parts_of_an_objective_are_cited(argument: str, part: Any, tmp_path: Path) -> None:
    """As their records name them; the paper of the project, which every card cites, is not named twice."""
    options = arguments(tmp_path, **{argument: part.name})
    section = objective_section(options, has_teacher=True)
    own = [{"what": one.what, "title": one.title, "arxiv": one.arxiv} for one in part.references]
    assert all(one in section["references"] for one in own)
    text = str(model_card(replace(RECORD, objective=section)))
    for one in part.references:
        assert (one.title in text) == (one.arxiv != PAPER)
    assert not objective_section(options, has_teacher=False)["references"]
    assert ("to the teacher, corrected by" in text) == (argument == "teacher_correction")


@pytest.mark.parametrize("section", ["objective", "growth", "teacher"])
def test_whatever_a_section_refers_to_is_cited_once(section: str) -> None:
    """The card knows no part by its name."""
    references = [{"what": "a new idea", "title": "A Paper", "arxiv": "9999.00001"}] * 2
    record = replace(RECORD, **{section: {**getattr(RECORD, section), "references": references}})
    assert str(model_card(record)).count("- a new idea: A Paper ([arXiv:9999.00001]") == 1


@pytest.mark.parametrize("absent", [*(f for f in vars(RECORD)), "everything"])
def test_what_is_not_known_is_left_out(absent: str) -> None:
    record = RunRecord() if absent == "everything" else replace(RECORD, **{absent: type(getattr(RECORD, absent))()})
    card = model_card(record, Path("somewhere/student"))
    data, text = metadata(card), str(card)
    assert data["tags"][:2] == ["hf_dwt", "distillation"]
    assert ("## Results" in text) == (absent not in ("curve", "everything"))
    assert ("\n- Loss:" in text) == (absent not in ("objective", "everything"))
    assert ("from_pretrained" in text) == (absent not in ("model", "everything"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_figures_that_are_no_numbers_are_not_claimed(value: float) -> None:
    card = model_card(replace(RECORD, curve=[{"step": 1, "eval_loss": 1.0, "eval_perplexity": value}]))
    metrics = metadata(card)["model-index"][0]["results"][0]["metrics"]
    assert [m["type"] for m in metrics] == ["loss"]


def test_a_section_that_fails_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    broken = replace(RECORD, objective={"hard_weight": "?"}, datasets=[{"id": "org/data", "name": 3}])
    text = str(model_card(broken))
    assert "Left out: the card's section 'objective' (" in caplog.text
    assert "\n- Loss:" not in text and "## Results" in text and "Training: 10 steps" in text
    caplog.clear()
    model_card(RECORD)
    assert caplog.text == ""


def test_what_a_user_wrote_survives() -> None:
    old = str(model_card(RECORD)).replace("license: mit", "license: apache-2.0\nlanguage: de")
    first = f"{KEEP[0]}\nTrained for *fun*.\n{KEEP[1]}"
    old = old.replace("\n".join(KEEP), first) + f"\n{KEEP[0]}second{KEEP[1]}\nthis is not kept"
    card = model_card(RECORD, old=old)
    assert first in str(card) and f"{KEEP[0]}second{KEEP[1]}" in str(card) and "not kept" not in str(card)
    assert metadata(card)["license"] == "apache-2.0" and metadata(card)["language"] == "de"
    assert str(model_card(RECORD, old=str(card))) == str(card)
    assert metadata(model_card(RECORD, old="---\n: {broken\n---\nno card"))["license"] == "mit"


# task, or a problem type of one -> its case
CASE_OF = {
    "multi-label": "multi-label",
    "regression": "regression",
    "image-classification": "image",
    "multiple-choice": "multiple choice",
    "question-answering": "question answering",
}
SHOWN = [*(task.name for task in TASKS), "multi-label", "regression"]


def materials(kind: str) -> tuple[Any, Any, Any]:
    """A model, examples and their collator."""
    if kind in CASE_OF:
        case = CASES[CASE_OF[kind]]
        return case.model(), case.examples(8), stack
    if kind == "text-classification":
        model = AutoModelForSequenceClassification.from_config(tiny("bert").config)
        return model, sequence_examples(8, classes=2), pad
    auto_class = next(task.auto_class for task in TASKS if task.name == kind)
    model = tiny(next(name for name, builder in BUILDERS.items() if builder[1] == auto_class))
    return model, ragged_examples(8, classes=LABELS), pad


@pytest.mark.parametrize("kind", SHOWN)
def test_every_task_has_a_card_whose_usage_block_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, collator = materials(kind)
    task = find_task(model)
    assert task.name == kind or kind in ("multi-label", "regression")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    reader: Any = BertTokenizer(str(tmp_path / "vocab.txt"))
    name, file = "tokenizer", "tokenizer_config.json"
    if not task.reads_text:
        reader, name, file = ViTImageProcessor(size={"height": 8, "width": 8}), "processor", "preprocessor_config.json"
        Image.new("RGB", (20, 10)).save(tmp_path / "picture.png")
    more = {"processing_class": reader, "eval_dataset": data, "data_collator": collator}
    run = trainer(model, None, tmp_path / "student", max_steps=1, train_dataset=data, more=more)
    run.train()
    run.evaluate()
    run.save_model()
    run.create_model_card()
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert metadata(card)["pipeline_tag"] == task.name
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    (tmp_path / "use.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    used = runpy.run_path("use.py")
    assert "model(**inputs)" in code or "model.generate(" in code
    assert ("perplexity" in card.text) == task.vocabulary
    assert ("mean squared error" in card.text) == (kind == "regression")
    assert type(used["model"]) is type(model) and type(used[name]) is type(reader)
    (tmp_path / "student" / file).unlink()
    run.create_model_card()
    assert f"{name} = " not in ModelCard.load(tmp_path / "student" / "README.md").text.split("## How")[0]
