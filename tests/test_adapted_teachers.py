"""Adapters as teachers: their logits are those of peft's own loading, and what is none is named in words."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, LlamaForSequenceClassification

from hf_dwt import assess_teacher
from hf_dwt.adapters import find_adapter
from hf_dwt.errors import TeacherError
from hf_dwt.forward.rows import select_rows
from hf_dwt.tasks import find_task
from hf_dwt.teachers.cache.keys import teacher_fingerprint
from hf_dwt.teachers.frozen import FrozenTeacher
from hf_dwt.teachers.loading import load_teacher, load_teacher_tokenizer, shown_task
from hf_dwt.teachers.placement.offload import offload

from .models import VOCAB, batch, randomise, tiny
from .training import history, pad, ragged_examples, trainer

CONFIGS: dict[str, Callable[[], Any]] = {
    "lora": lambda: LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"], r=4),
    "head": lambda: LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "dora": lambda: LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], use_dora=True),
    "embedding": lambda: LoraConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens", "lm_head"]),
    "ia3": lambda: IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]),
    "prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": lambda: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
}
VIRTUAL = ("prompt", "prefix", "p-tuning")
STUDENT = tiny("llama", seed=5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and a folder of each kind of adapter of it, none of which is as it is at first."""
    root = tmp_path_factory.mktemp("adapters")
    tiny("llama").save_pretrained(root / "base")
    for name, make in CONFIGS.items():
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(root / "base"), make())
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        model.save_pretrained(root / name, save_embedding_layers=name == "embedding")
    within = AutoModelForCausalLM.from_pretrained(root / "base")
    within.load_adapter(str(root / "lora"))
    within.save_pretrained(root / "within")
    return root


def as_peft_loads(root: Path, name: str) -> PeftModel:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(root / "base"), root / name).eval()


def logits(model: nn.Module) -> Tensor:
    """At all positions of the text."""
    inputs = batch(STUDENT)
    with torch.no_grad():
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, -7:]


def targets(model: nn.Module) -> Tensor:
    """At the rows of a batch, as a teacher gives them."""
    rows = select_rows(batch(STUDENT)["labels"], shifts=True)
    return FrozenTeacher(model, find_task(STUDENT), VOCAB).targets(batch(STUDENT), rows).logits[:]


@pytest.mark.parametrize("name", [*CONFIGS, "within"])
def test_the_logits_are_those_of_pefts_own_loading(name: str, folders: Path) -> None:
    wanted = logits(as_peft_loads(folders, name))
    taken = select_rows(batch(STUDENT)["labels"], shifts=True).take(wanted)
    for source in (str(folders / name), folders / name, as_peft_loads(folders, name)):
        teacher = load_teacher(source, find_task(STUDENT))
        assert torch.equal(logits(teacher.eval()), wanted)
        torch.testing.assert_close(targets(teacher), taken, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(wanted, logits(tiny("llama")), atol=1e-3)


@pytest.mark.parametrize("name", ["lora", "head", "prompt"])
def test_a_folder_and_a_model_teach_the_same(name: str, folders: Path, tmp_path: Path) -> None:
    sources: list[Any] = [str(folders / name), as_peft_loads(folders, name)]
    if name == "lora":
        sources.append(AutoModelForCausalLM.from_pretrained(folders / "base"))
        sources[-1].load_adapter(str(folders / "lora"))
    before = {key: value.clone() for key, value in sources[-1].state_dict().items()}
    runs = [trainer(tiny("llama", seed=5), source, tmp_path, soft_weight_schedule="constant") for source in sources]
    for run in runs:
        run.train()
    assert len({tuple(history(run, "loss", "soft_loss")) for run in runs}) == 1
    plain = trainer(tiny("llama", seed=5), str(folders / "base"), tmp_path, soft_weight_schedule="constant")
    plain.train()
    assert history(plain, "soft_loss") != history(runs[0], "soft_loss")
    assert all(torch.equal(value, before[key]) for key, value in sources[-1].state_dict().items())


@pytest.mark.parametrize("name", [*CONFIGS, "within"])
def test_an_adapter_can_be_offloaded(name: str, folders: Path) -> None:
    model = load_teacher(folders / name, find_task(STUDENT))
    torch.testing.assert_close(targets(offload(model, torch.device("cpu"))), targets(model), rtol=1e-5, atol=1e-5)
    assert teacher_fingerprint(offload(model, torch.device("cpu"))) == teacher_fingerprint(model)


def test_the_cache_knows_an_adapter_by_more_than_its_weights(folders: Path, tmp_path: Path) -> None:
    """Its scale is in no weight."""
    model, other = (as_peft_loads(folders, "lora") for _ in range(2))
    assert teacher_fingerprint(model) == teacher_fingerprint(other)
    shutil.copytree(folders / "lora", tmp_path / "scaled")
    rewrite(tmp_path / "scaled", lora_alpha=1)
    assert teacher_fingerprint(load_teacher(tmp_path / "scaled", find_task(STUDENT))) != teacher_fingerprint(model)
    rewrite(tmp_path / "scaled", lora_alpha=8, revision="main", target_modules=["down_proj", "q_proj"])
    assert teacher_fingerprint(load_teacher(tmp_path / "scaled", find_task(STUDENT))) == teacher_fingerprint(model)


@pytest.mark.parametrize(("name", "form"), [("lora", "hidden"), ("head", "top_k"), ("prompt", "top_k")])
def test_predictions_of_an_adapter_are_cached(name: str, form: str, folders: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"soft_weight_schedule": "constant", "teacher_cache_form": form}
    live = trainer(tiny("llama", seed=5), str(folders / name), tmp_path, soft_weight_schedule="constant")
    cached = trainer(
        tiny("llama", seed=5), str(folders / name), tmp_path, teacher_cache=str(tmp_path / "c"), **settings
    )
    for run in (live, cached):
        run.train()
    for one, other in zip(*(history(run, "soft_loss", "teacher_margin") for run in (live, cached)), strict=True):
        assert one == pytest.approx(other, rel=0.1, abs=2e-3)  # top_k knows a part of a flat distribution
    assert history(live, "soft_loss")[0][0] > 0.1


def test_an_adapter_is_assessed(folders: Path) -> None:
    """With its student, which is grown from the merged adapter."""
    examples = ragged_examples(16)
    found = assess_teacher(folders / "lora", examples, data_collator=pad, student={"hidden_size": 32}, samples=16)
    same = assess_teacher(as_peft_loads(folders, "lora"), examples, data_collator=pad, samples=16)
    plain = assess_teacher(folders / "base", examples, data_collator=pad, samples=16)
    assert found.teacher.loss == same.teacher.loss != plain.teacher.loss
    assert found.students["grown"].loss == pytest.approx(found.teacher.loss, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "named"),
    [("folder", r"predictions of `lora` \(LoRA adapter of `base`\)"), ("model", "`base` with its LoRA adapter")],
)
def test_the_card_names_the_adapter_and_its_base(given: str, named: str, folders: Path, tmp_path: Path) -> None:
    teacher: Any = str(folders / "lora") if given == "folder" else as_peft_loads(folders, "lora")
    run = trainer(tiny("llama", seed=5), teacher, tmp_path, max_steps=1)
    run.train()
    run.create_model_card()
    assert re.search(named, (tmp_path / "README.md").read_text())
    record = json.loads((tmp_path / "run.json").read_text())["teacher"]
    assert (record["adapter"], record["base_model"], record["hub_id"]) == ("LORA", "base", None)


def rewrite(folder: Path, **entries: Any) -> Path:
    """Change entries of an adapter's config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return folder


def test_arguments_go_to_the_base_or_to_the_adapter(folders: Path, tmp_path: Path) -> None:
    """`subfolder` is the adapter's, and the base model has none; `dtype` is of the base, whose adapter peft casts."""
    shutil.copytree(folders / "lora", tmp_path / "all" / "first")
    given = {"subfolder": "first", "dtype": "bfloat16"}
    teacher = load_teacher(tmp_path / "all", find_task(STUDENT), given)
    base = AutoModelForCausalLM.from_pretrained(folders / "base", dtype=torch.bfloat16)
    wanted = PeftModel.from_pretrained(base, tmp_path / "all", subfolder="first").eval()
    assert torch.equal(logits(teacher), logits(wanted)) and wanted.dtype == torch.bfloat16
    with pytest.raises(TeacherError, match="^teacher_model_init_kwargs='dtpye': .*Did you mean 'dtype'"):
        load_teacher(folders / "lora", find_task(STUDENT), {"dtpye": "bfloat16"})
    rewrite(tmp_path / "all" / "first", revision="v2")
    found = find_adapter(str(tmp_path / "all"), {**given, "revision": "main", "token": "x"})
    assert found is not None and found.base == str(folders / "base")
    assert found.base_arguments == {"dtype": "bfloat16", "token": "x", "revision": "v2"}


def test_a_head_may_come_with_the_adapter(tmp_path: Path) -> None:
    """The base model has none; without the adapter's it would be random."""
    body, whole = tmp_path / "body", randomise(tiny("bert", tie_word_embeddings=False), seed=3)
    whole.bert.save_pretrained(body)
    for saved in (["cls"], None):
        base = AutoModelForMaskedLM.from_pretrained(body)
        model = peft.get_peft_model(base, LoraConfig(target_modules=["query"], modules_to_save=saved))
        randomise(model.get_base_model(), seed=4)
        model.save_pretrained(tmp_path / str(saved))
    task = find_task(whole)
    teacher = load_teacher(tmp_path / "['cls']", task)
    wanted = PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(body), tmp_path / "['cls']").eval()
    with torch.no_grad():
        assert torch.equal(teacher(**batch(whole)).logits, wanted(**batch(whole)).logits)
    with pytest.raises(TeacherError, match="lacks weights that BertForMaskedLM needs .cls.predictions"):
        load_teacher(tmp_path / "None", task)


def test_the_tokenizer_and_the_task_are_those_of_the_base(folders: Path) -> None:
    assert load_teacher_tokenizer(str(folders / "lora")) is None  # neither has one: a warning says so
    for source in (folders / "lora", str(folders / "head"), as_peft_loads(folders, "prompt"), folders / "base"):
        assert shown_task(source) is find_task(STUDENT)


def broken(folders: Path, out: Path) -> dict[str, tuple[Path, str]]:
    """Name -> (folder, what its error says)."""

    def changed(name: str, **entries: Any) -> Path:
        return rewrite(Path(shutil.copytree(folders / "lora", out / name)), **entries)

    tiny("llama", hidden_size=32, num_attention_heads=8, num_key_value_heads=4).save_pretrained(out / "wide")
    tiny("bert").save_pretrained(out / "bert")
    classifier = peft.get_peft_model(
        LlamaForSequenceClassification(tiny("llama").config),
        LoraConfig(target_modules=["q_proj"], modules_to_save=["score"], base_model_name_or_path=None),
    )
    classifier.save_pretrained(out / "unused")
    rewrite(out / "unused", base_model_name_or_path=str(folders / "base"))
    for name in ("cut", "short", "none"):
        changed(name)
    weights = load_file(out / "short" / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), out / "short" / "adapter_model.safetensors")
    (out / "cut" / "adapter_model.safetensors").write_bytes(b"cut off")
    (out / "none" / "adapter_model.safetensors").unlink()
    (out / "no-json").mkdir()
    (out / "no-json" / "adapter_config.json").write_text("{")
    return {
        "task": (
            changed("task", task_type="SEQ_CLS"),
            "is an adapter for AutoModelForSequenceClassification .*not for",
        ),
        "unused": (
            out / "unused",
            "is an adapter of another model or task: LlamaForCausalLM has no place.*score.weight",
        ),
        "gone": (
            changed("gone", base_model_name_or_path="/no/base"),
            "is an adapter of '/no/base', which could not be",
        ),
        "unnamed": (changed("unnamed", base_model_name_or_path=None), "is an adapter whose config names no model"),
        "wide": (changed("of-wide", base_model_name_or_path=str(out / "wide")), "cannot be added to .*size mismatch"),
        "bert": (
            changed("of-bert", base_model_name_or_path=str(out / "bert")),
            "is an adapter of .*bert.|cannot be add",
        ),
        "kind": (changed("kind", peft_type="NONE_SUCH"), "is an adapter whose config cannot be read"),
        "cut": (out / "cut", "cannot be added to"),
        "short": (out / "short", "lacks weights of its adapter .*lora_A"),
        "none": (out / "none", "is an adapter without weights: there is no adapter_model.safetensors"),
        "no-json": (out / "no-json", "is an adapter whose config cannot be read"),
    }


def test_what_is_no_teacher_is_named_before_the_first_step(folders: Path, tmp_path: Path) -> None:
    for name, (folder, words) in broken(folders, tmp_path).items():
        with pytest.raises(TeacherError, match=rf"^teacher_model=.*{words}") as error:
            trainer(tiny("llama"), str(folder), tmp_path)
        assert error.value.fix, name
