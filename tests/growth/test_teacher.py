"""How the teacher is found: its class, its weights, and what it may not be."""

import ast
import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, BertForTokenClassification

import hf_dwt.growth
from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError
from hf_dwt.growth.building import blank, build, complete, renew
from hf_dwt.growth.checkpoint import open_teacher
from tests.models import BUILDERS, batch, tiny


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    tiny("bert").save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("auto_class", [None, "AutoModelForMaskedLM", AutoModelForMaskedLM, "BertForMaskedLM"])
def test_class_is_the_checkpoints_or_the_one_said(auto_class: object, bert: Path) -> None:
    student = from_weak_teacher(bert, auto_class=auto_class, hidden_size=32)
    assert type(student).__name__ == "BertForMaskedLM"
    assert not student.growth_report.untrained


def test_another_class_is_built_when_said(bert: Path) -> None:
    assert type(from_weak_teacher(bert, auto_class=AutoModel, hidden_size=32)).__name__ == "BertModel"


def test_checkpoint_without_a_class_needs_one(bert: Path) -> None:
    edit_config(bert, architectures=None)
    with pytest.raises(GrowthError, match=r"auto_class=None: .*names no class.*AutoModelForMaskedLM"):
        from_weak_teacher(bert, hidden_size=32)
    assert from_weak_teacher(bert, hidden_size=32, auto_class="AutoModelForMaskedLM").config.hidden_size == 32


@pytest.mark.parametrize(
    ("auto_class", "words"),
    [
        ("AutoModelForMaskdLM", "Did you mean 'AutoModelForMaskedLM'"),
        ("AutoModelForImageClassification", "builds no model from a BertConfig"),
    ],
)
def test_a_wrong_class_is_refused(auto_class: str, words: str, bert: Path) -> None:
    with pytest.raises(GrowthError, match=f"auto_class='{auto_class}': ") as caught:
        from_weak_teacher(bert, auto_class=auto_class)
    assert words in str(caught.value)


def test_a_loaded_model_has_its_class(bert: Path) -> None:
    model = tiny("bert")
    assert type(from_weak_teacher(model, auto_class="AutoModelForMaskedLM")) is type(model)
    with pytest.raises(GrowthError, match="builds BertForTokenClassification, and the teacher is BertForMaskedLM"):
        from_weak_teacher(model, auto_class=BertForTokenClassification)
    with pytest.raises(GrowthError, match=r"revision='main': .*Leave them out"):
        from_weak_teacher(model, revision="main")


def test_parameters_missing_from_the_checkpoint_are_fresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An encoder has no masked-LM head: copying the random one that loading made up would teach nothing."""
    teacher = tiny("bert")
    teacher.bert.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="hf_dwt.growth"):
        student = from_weak_teacher(tmp_path, auto_class="AutoModelForMaskedLM", hidden_size=32)
    report = student.growth_report
    assert "cls.predictions.transform.dense.weight" in report.untrained
    assert "cls.predictions.transform.dense.weight" in caplog.text
    assert "not in the teacher's checkpoint" in str(report)
    own = dict(from_weak_teacher(teacher, hidden_size=32, init="random").named_parameters())
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, own[name]) is (report.parameters[name].copied == 0), name
        assert (report.parameters[name].name is None) is name.startswith("cls."), name
    # Counter-case: the complete checkpoint is copied throughout, without a warning.
    caplog.clear()
    teacher.save_pretrained(tmp_path)
    assert not from_weak_teacher(tmp_path, hidden_size=32).growth_report.untrained
    assert "checkpoint" not in caplog.text


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("init", ["random", "remap"])
def test_nothing_there(init: str, offline: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "somebody/no-such-model" if offline else str(tmp_path / "no-such-folder")
    with pytest.raises(GrowthError) as caught:
        from_weak_teacher(name, hidden_size=32, init=init)
    message = str(caught.value)
    assert message.startswith(f"teacher='{name[:60]}"), message
    assert "Check the spelling" in message and "HF_HUB_OFFLINE=1" in message


def test_what_is_no_teacher() -> None:
    with pytest.raises(GrowthError, match=r"teacher='Linear'.*Hub id, a local path or a transformers model"):
        from_weak_teacher(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(GrowthError, match=r"config=.*pass the model"):
        from_weak_teacher("somewhere", config=tiny("bert").config)


def test_a_quantised_teacher_is_refused(bert: Path) -> None:
    edit_config(bert, quantization_config={"quant_method": "fp8"})
    for init in ("random", "remap"):
        with pytest.raises(GrowthError, match=r"teacher=.*quantised \(fp8\).*dequantize=True"):
            from_weak_teacher(bert, hidden_size=32, init=init)
    model = tiny("bert")
    model.is_quantized = True
    model.config.quantization_config = {"quant_method": "gguf"}
    with pytest.raises(GrowthError, match=r"teacher=.*quantised \(gguf\).*GgufConfig\(dequantize=True\)"):
        from_weak_teacher(model, hidden_size=32)


def test_a_packed_gguf_file_is_refused_before_it_is_read(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("bert", architectures=["BertForMaskedLM"]).config
    monkeypatch.setattr("hf_dwt.growth.checkpoint.read_config", lambda name, arguments: config)
    with pytest.raises(GrowthError, match=r"teacher=.*quantised \(gguf\).*GgufConfig\(dequantize=True\)"):
        from_weak_teacher(bert, hidden_size=32, gguf_file="x.gguf")
    assert from_weak_teacher(bert, hidden_size=32, gguf_file="x.gguf", init="random").growth_report.copied == 0


def test_a_broken_weight_file_is_said(bert: Path) -> None:
    (bert / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(GrowthError, match=r"teacher=.*SafetensorError.*Check"):
        from_weak_teacher(bert, hidden_size=32)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_weights_of_a_checkpoint_are_mapped_not_copied(bert: Path) -> None:
    def lie_in_the_file(model: torch.nn.Module) -> bool:
        lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(bert) in line]
        spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
        return all(any(a <= p.data_ptr() < b for a, b in spans) for p in model.parameters() if p.ndim > 1)

    assert lie_in_the_file(open_teacher(bert, None, {}).model)
    assert not lie_in_the_file(tiny("bert"))  # counter-case: a model in memory


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_blank_model_with_all_parameters_written_is_the_model(name: str) -> None:
    """What is not saved, such as tables of positions, is there as well."""
    model = tiny(name)
    written = blank(type(model), model.config, "cpu")
    saved = model.state_dict()
    written.load_state_dict(saved)
    for buffer in written.buffers():
        if buffer.is_floating_point() and not any(
            buffer is kept for kept in written.state_dict(keep_vars=True).values()
        ):
            buffer.fill_(float("nan"))
    complete(written, [key for key, _ in (*model.named_parameters(), *model.named_buffers()) if key in saved])
    assert all(torch.equal(written.state_dict()[key], value) for key, value in saved.items())
    inputs = batch(model)
    with torch.no_grad():
        assert torch.equal(written.eval()(**inputs).logits, model.eval()(**inputs).logits)


def test_a_renewed_model_gives_up_its_memory_first() -> None:
    model, other = tiny("bert"), tiny("bert", seed=1)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight

    def build_again() -> torch.nn.Module:
        assert sum(p.numel() for p in model.parameters()) == 0
        return other

    renew(model, build_again)  # type: ignore[arg-type]
    assert all(torch.equal(model.state_dict()[key], value) for key, value in other.state_dict().items())
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    assert build(type(model), model.config, "meta").num_parameters() == model.num_parameters()


def test_growth_stands_alone() -> None:
    """It imports nothing that trains, and never the Trainer, whose import takes seconds."""
    room = Path(hf_dwt.growth.__file__).parent
    beside = {"adapters", "engines", "errors", "kinds", "modes", "parts", "precision", "hub_access", "hub_errors"}
    beside |= {"lazy", "signatures", "tokenization"}
    files = [*sorted(room.rglob("*.py")), *(room.parent / f"{name}.py" for name in sorted(beside))]
    assert len(files) > 35
    for file in files:
        up = len(file.relative_to(room.parent).parts)  # dots by which an import leaves growth
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level < up or node.module in beside or room not in file.parents, file.name
                assert node.level < 2 or room in file.parents, file.name
                assert "Trainer" not in {alias.name for alias in node.names}, file.name
                assert not (node.module or "").startswith(("hf_dwt", "transformers.trainer")), file.name
