"""Programs of the package, run from a file as `hf-dwt train` does, and those of examples/ with few steps."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import torch
import transformers

from hf_dwt import cli
from hf_dwt.errors import DataError
from hf_dwt.programs import PROGRAMS
from hf_dwt.programs.record import Model

from .test_examples import EXAMPLES, example

pytestmark = pytest.mark.examples

TEACHER = EXAMPLES / "data" / "weak_teacher"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two steps of the masked LM, on some lines of the shipped text."""
    text = (EXAMPLES / "data" / "train.txt").read_text(encoding="utf-8").splitlines()[:60]
    (tmp_path / "text.txt").write_text("\n".join(text), encoding="utf-8")
    flags = {"program": "mlm", "teacher": str(TEACHER), "hidden_size": 96, "train_file": str(tmp_path / "text.txt")}
    flags |= {"max_steps": 5, "output_dir": str(tmp_path / "student"), "fill_mask": "we [MASK] here"}
    (tmp_path / "run.yaml").write_text(json.dumps(flags), encoding="utf-8")  # JSON is YAML
    return tmp_path / "run.yaml"


def test_a_file_alone_trains_a_student(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", str(file), "--max_steps", "2"]) == 0
    place = file.parent / "student"
    assert capsys.readouterr().out.splitlines()[-1].startswith("we [MASK] here  ")
    assert [*json.loads((place / "results.json").read_text())] == ["teacher", "student"]
    assert json.loads((place / "trainer_state.json").read_text())["global_step"] == 2
    assert transformers.AutoModelForMaskedLM.from_pretrained(place).config.hidden_size == 96


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"hiden_size": 9}, "--hiden_size is no argument of hf-dwt train. Did you mean '--hidden_size'?"),
        ({"train_file": None}, "say what to train on"),
        ({"teacher": None}, "say which models"),
    ],
)
def test_what_a_file_lacks_is_an_error_before_anything_is_loaded(
    file: Path, entries: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries), encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(file)])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_the_models_of_every_program_have_a_class_of_transformers() -> None:
    assert all(hasattr(transformers, program.auto_class) for program in PROGRAMS.values())


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A program of examples/ in a folder of its own, with a text of some lines and a teacher of few steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    text = (EXAMPLES / "data" / "train.txt").read_text(encoding="utf-8").splitlines()
    Path("text.txt").write_text("\n".join(text[:60]), encoding="utf-8")

    def module(name: str) -> ModuleType:
        program = example(name)
        for flag in ("train_file", "validation_file"):
            if program.EXAMPLE_TEXT[flag].endswith(".txt"):  # others are made by the program
                monkeypatch.setitem(program.EXAMPLE_TEXT, flag, str(tmp_path / "text.txt"))
        monkeypatch.setattr(program, "TEACHER_STEPS", 3, raising=False)
        return program

    return module


def test_a_causal_lm_is_trained_after_its_teacher_and_goes_on_with_prompts(
    short: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    program = short("run_clm_dwt")
    results = program.main(["--max_steps=3", "--prompts=we must|the whale", "--new_tokens=3"])
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith("we must ... ") and second.startswith("the whale ... ")
    assert results["teacher"]["seconds"] > 0 and results["student"]["blocks"] == results["teacher"]["blocks"]
    student = transformers.AutoModelForCausalLM.from_pretrained("outputs/clm")
    tokenizer = transformers.AutoTokenizer.from_pretrained("outputs/clm")
    assert type(student) is transformers.LlamaForCausalLM and student.config.hidden_size == 128
    assert tokenizer("we must")["input_ids"][-1] != tokenizer.sep_token_id  # which would end what is to go on
    made = Path(program.TEACHER, "results.json").stat().st_mtime_ns
    program.main(["--max_steps=1"])
    assert Path(program.TEACHER, "results.json").stat().st_mtime_ns == made  # the teacher is trained once


def test_an_adapter_is_loaded_by_peft_alone_beside_the_student_it_belongs_to(
    short: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    short("run_clm_dwt")  # which makes the teacher
    results = short("run_lora_dwt").main(["--max_steps=3", "--prompts=we must", "--new_tokens=3", "--lora_r=2"])
    size, last = capsys.readouterr().out.splitlines()[-2:]
    assert size.startswith("The adapter has ") and last.startswith("we must ... ")
    place = "outputs/lora"
    assert Path(place, "adapter_model.safetensors").is_file() and not Path(place, "model.safetensors").exists()
    student = peft.AutoPeftModelForCausalLM.from_pretrained(place).eval()
    base = transformers.AutoModelForCausalLM.from_pretrained(f"{place}/base").eval()
    assert results["teacher"]["loss"] != results["student"]["loss"]
    assert student.peft_config["default"].r == 2 and base.config.hidden_size == 128
    words = transformers.AutoTokenizer.from_pretrained(place)("we must", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert not torch.equal(student(words).logits, base(words).logits)  # it has learnt
        with student.disable_adapter():
            torch.testing.assert_close(student(words).logits, base(words).logits)


def test_a_classifier_knows_the_labels_of_its_data_by_name(
    short: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = short("run_classification_dwt")
    monkeypatch.setattr(program, "EVERY", 4000)  # one piece of a paragraph
    with pytest.raises(SystemExit):
        program.main(["--help"])
    assert not Path("outputs").exists()  # nothing is made for it
    results = program.main(["--max_steps=3", "--classify=the whale", "--eval_strategy=no"])
    last = capsys.readouterr().out.splitlines()[-1]
    place = "outputs/classification"
    (found,) = transformers.pipeline("text-classification", model=place)("the whale")
    assert last == f"the whale  {found['label']} {found['score']:.0%}" and found["label"] in ("novel", "speech")
    student = transformers.AutoModelForSequenceClassification.from_pretrained(place)
    assert student.config.id2label == {0: "novel", 1: "speech"} and student.config.hidden_size == 128
    # The same figures by the stock classes alone, from the file of the held-out pieces.
    pieces = [json.loads(line) for line in Path(program.EXAMPLE_TEXT["validation_file"]).read_text().splitlines()]
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    batch = tokenizer([piece["text"] for piece in pieces], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        guesses = student.eval()(**batch).logits.argmax(-1).tolist()
    right = [student.config.id2label[guess] == piece["label"] for guess, piece in zip(guesses, pieces, strict=True)]
    assert results["student"]["accuracy"] == pytest.approx(sum(right) / len(right), abs=2e-3)
    assert {piece["label"] for piece in pieces} == {"novel", "speech"}


def test_labels_that_the_student_has_no_class_for_are_an_error(short: Callable[[str], ModuleType]) -> None:
    rows = [json.dumps({"text": "we must", "label": label}) for label in ("novel", "poem", "speech", "novel")]
    Path("rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    named = {"id2label": {0: "novel", 1: "speech"}, "label2id": {"novel": 0, "speech": 1}}
    config = transformers.AutoConfig.from_pretrained(TEACHER, **named)
    model = Model(transformers.AutoTokenizer.from_pretrained(TEACHER), config, 32, 0)
    options = PROGRAMS["classification"].options(train_file="rows.jsonl", holdout=0.25)
    with pytest.raises(DataError, match="no class for: poem"):
        PROGRAMS["classification"](options, model)
