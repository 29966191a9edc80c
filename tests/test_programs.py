"""Programs of the package, run from a file as `hf-dwt train` does, and those of examples/ with few steps."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from hf_dwt import cli
from hf_dwt.programs import PROGRAMS

from .test_examples import EXAMPLES

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
