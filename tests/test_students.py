"""A student from an id or path, and the adapter of `peft_config`: as made by hand, or refused in words."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from hf_dwt import DistillationTrainer
from hf_dwt.errors import ArgumentError, TaskError

from .models import batch, tiny
from .training import CHECKPOINTING, trainer

LORA = LoraConfig(target_modules=["query", "value"], modules_to_save=["decoder"])
TEACHER = tiny("bert", seed=1)


def adapting(student: Any, out: Path, peft_config: Any = LORA, **settings: Any) -> DistillationTrainer:
    return trainer(student, TEACHER, out, more={"peft_config": peft_config}, **settings)


def by_hand(seed: int = 42) -> PeftModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(tiny("bert"), copy.deepcopy(LORA))


def learning(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and one
    assert all(torch.equal(value, other[name]) for name, value in one.items())


# ---- peft_config ----


def test_the_adapter_is_the_one_that_peft_adds(tmp_path: Path) -> None:
    """Under `args.seed`, whatever the global random state."""
    run, hand = adapting(tiny("bert"), tmp_path / "a"), trainer(by_hand(), TEACHER, tmp_path / "b")
    assert isinstance(run.model, PeftModel)
    start = learning(run.model)
    assert_same(start, learning(hand.model))
    assert any("lora" in name for name in start) and any("modules_to_save" in name for name in start)
    run.train()
    hand.train()
    assert_same(learning(run.model), learning(hand.model))
    assert not any(torch.equal(value, start[name]) for name, value in learning(run.model).items())
    other = adapting(tiny("bert"), tmp_path / "c", seed=7)
    assert not torch.equal(
        *(next(v for n, v in learning(m).items() if "lora_A" in n) for m in (other.model, hand.model))
    )


def test_what_is_saved_is_the_adapter(tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path / "base")
    run = adapting(tmp_path / "base", tmp_path / "out", save_strategy="steps", save_steps=3)
    run.train()
    run.save_model()
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-3"):
        names = {path.name for path in folder.iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json"} <= names and "model.safetensors" not in names
    again = PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(tmp_path / "base"), tmp_path / "out").eval()
    assert again.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")
    assert LORA.base_model_name_or_path is None  # peft writes into the config that it is given
    with torch.no_grad():
        logits = [model(**batch(TEACHER)).logits for model in (again, run.model.eval(), tiny("bert"))]
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])


def test_an_adapter_resumes(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 3}
    whole, again = (adapting(tiny("bert"), tmp_path, **settings) for _ in range(2))
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same(learning(whole.model), learning(again.model))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_give_the_adapter_its_gradients(reentrant: bool, tmp_path: Path) -> None:
    """Without gradients of the inputs a reentrant checkpoint has none for what is within it."""
    settings = {f"{CHECKPOINTING}_checkpointing": True}
    settings[f"{CHECKPOINTING}_checkpointing_kwargs"] = {"use_reentrant": reentrant}
    plain, checkpointed = adapting(tiny("bert"), tmp_path), adapting(tiny("bert"), tmp_path, **settings)
    start = learning(plain.model)
    plain.train()
    checkpointed.train()
    found = learning(checkpointed.model)
    for name, value in learning(plain.model).items():
        assert torch.allclose(value, found[name], atol=1e-6) and not torch.equal(value, start[name]), name


def test_each_model_of_model_init_gets_the_adapter(tmp_path: Path) -> None:
    run = trainer(None, TEACHER, tmp_path, more={"peft_config": LORA, "model_init": lambda: tiny("bert")})
    first = run.model
    assert isinstance(first, PeftModel)
    run.train()
    assert isinstance(run.model, PeftModel) and run.model is not first
    plain = adapting(tiny("bert"), tmp_path)
    plain.train()
    assert_same(learning(run.model), learning(plain.model))


def test_a_model_that_has_an_adapter_is_refused(tmp_path: Path) -> None:
    within = tiny("bert")
    within.add_adapter(LoraConfig(target_modules=["query"]))
    words = "^peft_config='LoraConfig': stands beside a model that has an adapter already"
    for student in (by_hand(), within):
        with pytest.raises(
            ArgumentError, match="^peft_config='LoraConfig': stands beside a model that has an adapter"
        ):
            adapting(student, tmp_path)
    with pytest.raises(ArgumentError, match=words):
        trainer(None, TEACHER, tmp_path, more={"peft_config": LORA, "model_init": lambda: by_hand()})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            LoraConfig(target_modules=["qeury"]),
            r"^peft_config.target_modules='qeury'.*Did you mean 'query'\?.*value",
        ),
        (LoraConfig(target_modules=r".*\.qurey"), r"^peft_config.target_modules='.*qurey': .*Did you mean 'query'\?"),
        (IA3Config(target_modules=["k_proj"], feedforward_modules=[]), "^peft_config.target_modules='k_proj'"),
        (LoraConfig(target_modules=["LayerNorm"]), "^peft_config='LoraConfig': peft cannot add it to BertForMaskedLM"),
        (LoraConfig(target_modules=["query"], layers_to_transform=[9]), "^peft_config='LoraConfig': peft cannot add"),
        ("lora", "^peft_config='lora': is of type str, not a config of an adapter.*LoraConfig"),
        (LoraConfig, "^peft_config=.*is a class"),
    ],
)
def test_a_config_that_does_not_fit_is_named(config: Any, words: str, tmp_path: Path) -> None:
    student = tiny("bert")
    before = {name for name, _ in student.named_modules()}
    with pytest.raises(ArgumentError, match=words):
        adapting(student, tmp_path, config)
    assert {name for name, _ in student.named_modules()} == before


def test_names_that_peft_passes_over_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = LoraConfig(target_modules=["query", "valeu"], modules_to_save=["decoder", "classifier"])
    with caplog.at_level(logging.WARNING, "hf_dwt"):
        adapting(tiny("bert"), tmp_path, config)
        adapting(tiny("bert"), tmp_path, LoraConfig(target_modules=r".*\.query"))
    named = [record.getMessage() for record in caplog.records if "peft_config." in record.getMessage()]
    assert len(named) == 2 and "target_modules: BertForMaskedLM has no 'valeu'" in named[0]
    assert "modules_to_save: BertForMaskedLM has no 'classifier'" in named[1]


# ---- model="path or id" ----


def test_a_student_from_a_path_is_the_one_that_is_loaded(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny("bert").save_pretrained(base)
    run = trainer(str(base), TEACHER, tmp_path)
    hand = trainer(AutoModelForMaskedLM.from_pretrained(base), TEACHER, tmp_path)
    assert run.processing_class is None
    for one in (run, hand):
        one.train()
    assert_same(learning(run.model), learning(hand.model))


def test_the_task_is_the_teachers_or_that_of_the_config(tmp_path: Path) -> None:
    """A BERT may be any of them: the teacher decides, given as a model or path; else the class that was saved."""
    folders = {name: tmp_path / name for name in ("bert", "bert-token-classification", "body", "llama")}
    for name in ("bert", "bert-token-classification", "llama"):
        tiny(name).save_pretrained(folders[name])
    tiny("bert").bert.save_pretrained(folders["body"])
    classifier = tiny("bert-token-classification", seed=1)
    for student, teacher, task in (
        ("bert", None, "fill-mask"),
        ("llama", None, "text-generation"),
        ("bert-token-classification", None, "token-classification"),
        ("body", TEACHER, "fill-mask"),
        ("body", str(folders["bert"]), "fill-mask"),
        ("bert-token-classification", TEACHER, "fill-mask"),
        ("bert-token-classification", classifier, "token-classification"),
    ):
        assert trainer(folders[student], teacher, tmp_path).task.name == task
    with pytest.raises(TaskError, match="^model=.*body': leaves its task open: its config names BertModel, and no"):
        trainer(folders["body"], None, tmp_path)
    with pytest.raises(TaskError, match="^model=.*llama': is no fill-mask model, as the teacher is"):
        trainer(folders["llama"], TEACHER, tmp_path)


@pytest.mark.parametrize("name", ["nowhere/at-all", "broken", "adapter"])
def test_a_student_that_cannot_be_loaded_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"nowhere/at-all": "could not be loaded", "broken": "could not be loaded", "adapter": "is an adapter"}
    (tmp_path / "broken").mkdir()
    tiny("llama").save_pretrained(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"cut off")
    by_hand().save_pretrained(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=f"^model='{name}': {words[name]}"):
        trainer(name, None, tmp_path)
