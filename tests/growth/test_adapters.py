"""Growth from adapters: a copy is merged, the student equals it, and what cannot be merged is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification

from hf_dwt import cli, from_weak_teacher
from hf_dwt.errors import GrowthError
from hf_dwt.growth import plan_growth
from hf_dwt.growth.strategies import INITS
from hf_dwt.training.record import growth_section
from tests.models import batch, tiny
from tests.test_adapted_teachers import CONFIGS, rewrite
from tests.training import trainer

TOKENIZER = Path(__file__).parents[2] / "examples" / "data" / "weak_teacher"
MERGED = ("lora", "head", "dora", "ia3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and adapters of it; `both` holds a whole model and an adapter."""
    root = tmp_path_factory.mktemp("grown")
    tiny("llama").save_pretrained(root / "base")
    for name in (*MERGED, "prompt", "prefix"):
        model = get_peft_model(LlamaForCausalLM.from_pretrained(root / "base"), CONFIGS[name]())
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        model.save_pretrained(root / name)
    shutil.copytree(root / "base", root / "both")
    shutil.copytree(root / "lora", root / "both", dirs_exist_ok=True)
    return root


def teacher(folders: Path, name: str, kind: str) -> Any:
    """An adapter in one of the forms in which it may be given."""
    if kind == "folder":
        return str(folders / name)
    if kind == "model":
        return PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(folders / "base"), folders / name)
    within = LlamaForCausalLM.from_pretrained(folders / "base")
    within.load_adapter(str(folders / name))
    return within


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(**batch(tiny("llama"))).logits


def assert_equals_adapted(student: nn.Module, folders: Path, name: str) -> None:
    wanted = logits(teacher(folders, name, "model"))
    assert torch.allclose(logits(student), wanted, atol=2e-4)
    assert not torch.allclose(wanted, logits(tiny("llama")), atol=1e-2)


@pytest.mark.parametrize("kind", ["folder", "model", "within"])
@pytest.mark.parametrize("name", MERGED)
def test_the_student_computes_what_the_adapted_teacher_does(name: str, kind: str, folders: Path) -> None:
    given = teacher(folders, name, kind if name != "dora" or kind != "within" else "model")
    before = {} if kind == "folder" else {key: value.clone() for key, value in given.state_dict().items()}
    modules = [] if kind == "folder" else [type(part) for part in given.modules()]
    student = from_weak_teacher(given, hidden_size=32, num_hidden_layers=3, init="clone")
    assert type(student) is LlamaForCausalLM and not hasattr(student, "peft_config")
    assert_equals_adapted(student, folders, name)
    report = student.growth_report
    assert report.preserved and report.adapter == {"ia3": "IA3"}.get(name, "LORA") and not report.untrained
    assert report.base_model == str(folders / "base") and report.teacher == str(
        folders / (name if kind == "folder" else "base")
    )
    assert f"({report.adapter} adapter of {folders / 'base'}, merged)" in str(report)
    if before:
        assert modules == [type(part) for part in given.modules()]
        assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items())


@pytest.mark.parametrize("init", [name for name in INITS if name not in ("clone", "random")])
def test_every_strategy_grows_an_adapter(init: str, folders: Path) -> None:
    """As it grows the model that peft merges."""
    merged = teacher(folders, "lora", "model").merge_and_unload()
    wanted = from_weak_teacher(merged, hidden_size=32, init=init).state_dict()
    for kind in ("folder", "model", "within"):
        grown = from_weak_teacher(teacher(folders, "lora", kind), hidden_size=32, init=init).state_dict()
        assert all(torch.equal(value, grown[key]) for key, value in wanted.items())


def test_a_plan_reads_no_weights_and_names_both(folders: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(folders / "lora", tmp_path / "bare"))
    (bare / "adapter_model.safetensors").unlink()
    plan = plan_growth(bare, hidden_size=32, init="clone")
    assert f"LORA adapter of {folders / 'base'}, merged" in str(plan) and plan.exact
    with pytest.raises(GrowthError, match="^teacher=.*It is an adapter without weights"):
        plan.apply()


def test_a_folder_with_a_model_and_an_adapter_is_both(folders: Path, tmp_path: Path) -> None:
    """As transformers loads it, in memory and on disk."""
    assert_equals_adapted(from_weak_teacher(folders / "both", hidden_size=32, init="clone"), folders, "lora")
    plan_growth(folders / "both", hidden_size=32, init="clone").apply(to=tmp_path / "student")
    assert_equals_adapted(AutoModelForCausalLM.from_pretrained(tmp_path / "student"), folders, "lora")


@pytest.mark.parametrize("kind", ["folder", "model", "within"])
def test_an_adapter_grows_on_disk(kind: str, folders: Path, tmp_path: Path) -> None:
    report = plan_growth(teacher(folders, "lora", kind), hidden_size=32, init="clone").apply(to=tmp_path / "student")
    assert_equals_adapted(AutoModelForCausalLM.from_pretrained(tmp_path / "student"), folders, "lora")
    assert (report.adapter, report.base_model) == ("LORA", str(folders / "base"))
    written = json.loads((tmp_path / "student" / "growth.json").read_text())
    assert (written["adapter"], written["base_model"]) == ("LORA", str(folders / "base"))
    with pytest.raises(GrowthError, match="^to=.*It holds a model already"):
        plan_growth(str(folders / "lora"), hidden_size=32).apply(to=folders / "lora")


def test_the_command_grows_an_adapter_with_the_tokenizer_of_its_base(folders: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(folders / "base", tmp_path / "base"))
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(base)
    adapter = rewrite(Path(shutil.copytree(folders / "lora", tmp_path / "lora")), base_model_name_or_path=str(base))
    out = tmp_path / "student"
    assert cli.main(["grow", str(adapter), "--hidden-size", "32", "--init", "clone", "--out", str(out)]) == 0
    assert_equals_adapted(AutoModelForCausalLM.from_pretrained(out), folders, "lora")
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(TOKENIZER).get_vocab()


def test_the_card_names_adapter_and_base(folders: Path, tmp_path: Path) -> None:
    student = from_weak_teacher(folders / "lora", hidden_size=32)
    run = trainer(student, tiny("llama"), tmp_path, max_steps=1)
    run.train()
    run.save_model()
    run.create_model_card()
    assert "`init='remap'` from `lora` (LoRA adapter of `base`)" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "growth.json").read_text())["base_model"] == "base"
    section = growth_section(student)
    assert (section["adapter"], section["base_model"]) == ("LORA", "base")
    assert "adapter" not in growth_section(from_weak_teacher(folders / "base", hidden_size=32))


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
@pytest.mark.parametrize("kind", ["folder", "model"])
def test_virtual_tokens_are_refused_in_words(kind: str, config: Any, folders: Path) -> None:
    name = "prompt" if config is PromptTuningConfig else "prefix"
    with pytest.raises(GrowthError, match=r"^teacher=.*It has virtual tokens \(P.*cannot be merged.*that it adapts"):
        plan_growth(teacher(folders, name, kind), hidden_size=32)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # so does peft
def test_what_cannot_be_merged_or_found_is_named(folders: Path, tmp_path: Path) -> None:
    def changed(name: str, **entries: Any) -> Path:
        return rewrite(Path(shutil.copytree(folders / "lora", tmp_path / name)), **entries)

    off = teacher(folders, "lora", "within")
    off.disable_adapters()
    tied = get_peft_model(tiny("qwen3"), LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    tied.get_base_model().lm_head.modules_to_save["default"].weight.data.add_(1.0)
    for given, words in (
        (changed("gone", base_model_name_or_path="/no/base"), "It is an adapter of '/no/base'.*No checkpoint can be"),
        (changed("unnamed", base_model_name_or_path=None), "It is an adapter whose config names no model"),
        (changed("other", target_modules=["query"]), "It cannot be added to .*Target modules"),
        (off, "It has adapters that are disabled"),
        (tied, "It changes lm_head, whose weights are tied to another"),
        (get_peft_model(tiny("qwen3"), LoraConfig(target_modules=["lm_head"])), "It changes lm_head, whose weights"),
    ):
        with pytest.raises(GrowthError, match=f"^teacher=.*{words}"):
            from_weak_teacher(given, hidden_size=32)


def test_the_task_of_an_adapter_decides_its_class(folders: Path, tmp_path: Path) -> None:
    """Its head comes with it; the base model has another."""
    base = LlamaForSequenceClassification.from_pretrained(folders / "base")
    get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])).save_pretrained(tmp_path)
    student = from_weak_teacher(tmp_path, hidden_size=32, init="clone")
    wanted = PeftModel.from_pretrained(LlamaForSequenceClassification.from_pretrained(folders / "base"), tmp_path)
    inputs = {key: value for key, value in batch(tiny("llama")).items() if key != "labels"}
    with torch.no_grad():
        assert torch.allclose(student(**inputs).logits, wanted.eval()(**inputs).logits, atol=1e-4)
    assert type(student) is LlamaForSequenceClassification and not student.growth_report.untrained
