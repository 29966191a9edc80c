"""A file of stages is the same as the list in Python, and what is wrong in it is named with its key."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hf_dwt import DistillationArguments, cli
from hf_dwt.errors import DistillationError
from hf_dwt.stages import BodyOf, Stage, plan_stages, progressive
from hf_dwt.stages.file import plan_file

EXAMPLE = Path(__file__).parents[1] / "examples" / "data"
WEAK = str(EXAMPLE / "weak_teacher")
FILE = """
teacher: {weak}
args:
  output_dir: {out}
  per_device_train_batch_size: 2
  learning_rate: 1.0e-3
  use_cpu: true
  report_to: none
  save_strategy: "no"
  disable_tqdm: true
train_dataset: {{path: text, data_files: {text}, split: train, max_length: 16}}
stages:
  - {{name: wide, grow: {{hidden_size: 96}}, mask: 0.1, steps: 1}}
  - {{name: deep, grow: {{num_hidden_layers: 3}}, mask: 0.2, steps: 2, teacher: previous, soft_weight: 0.5}}
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = (EXAMPLE / "valid.txt").read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:12]), encoding="utf-8")
    return path


def write(place: Path, text: Path, old: str = "", new: str = "") -> Path:
    content = FILE.format(weak=WEAK, out=place / "out", text=text)
    assert old in content
    (place / "plan.yaml").write_text(content.replace(old, new, 1) if old else content, encoding="utf-8")
    return place / "plan.yaml"


def in_python(out: Path, data: Any) -> Any:
    args = DistillationArguments(
        str(out),
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    later: dict[str, Any] = {"grow": {"num_hidden_layers": 3}, "mask": 0.2, "teacher": "previous", "soft_weight": 0.5}
    stages = [Stage(name="wide", grow={"hidden_size": 96}, mask=0.1, steps=1), Stage(name="deep", steps=2, **later)]
    tokenizer = AutoTokenizer.from_pretrained(WEAK)
    return plan_stages(stages, teacher=WEAK, args=args, train_dataset=data, processing_class=tokenizer)


def test_a_file_is_the_list_in_python(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, text)
    assert cli.main(["stages", str(file), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    plan = plan_file(file)
    data: Any = plan.stages[0].dataset
    assert len(data) > 10 and {len(ids) for ids in data["input_ids"]} == {16}
    same = in_python(tmp_path / "out", data)
    assert [one.stage for one in plan.stages] == [one.stage for one in same.stages]
    assert [one.description for one in plan.stages] == [one.description for one in same.stages]
    assert str(plan) == str(same) and str(plan) in shown and not (tmp_path / "out").exists()
    assert cli.main(["stages", str(file)]) == 0
    assert capsys.readouterr().out.endswith(f"saved in {tmp_path / 'out' / '2-deep'}\n")
    in_python(tmp_path / "python", data).run()
    of_file, of_python = (load_file(tmp_path / one / "2-deep" / "model.safetensors") for one in ("out", "python"))
    assert of_file.keys() == of_python.keys() and all(torch.equal(of_file[n], of_python[n]) for n in of_file)


def test_the_file_of_the_page_is_read(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (EXAMPLE.parents[1] / "docs" / "stages.md").read_text(encoding="utf-8")
    built, block = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert "examples/data/train.txt" in block
    (tmp_path / "plan.yaml").write_text(block.replace("examples/data/train.txt", str(text)), encoding="utf-8")
    monkeypatch.chdir(EXAMPLE.parents[1])
    assert [one.folder.name for one in plan_file(tmp_path / "plan.yaml").stages] == ["1-wide", "2-deep"]
    rest = block[: block.index("stages:")].replace("examples/data/train.txt", str(text))
    (tmp_path / "plan.yaml").write_text(rest + built, encoding="utf-8")
    assert [one.folder.name for one in plan_file(tmp_path / "plan.yaml").stages] == ["1-size-1", "2-size-2"]


def test_a_builder_in_place_of_the_list(text: Path, tmp_path: Path) -> None:
    built = "progressive: {{sizes: [{{hidden_size: 96}}, {{num_hidden_layers: 3}}], masks: [0.1, 0.2], steps: {}}}\n"
    file = write(tmp_path, text)
    content = file.read_text(encoding="utf-8")
    head = content[: content.index("  - {name: wide")]
    file.write_text(head + "  " + built.format("[1, 2]"), encoding="utf-8")
    expected = progressive([{"hidden_size": 96}, {"num_hidden_layers": 3}], [0.1, 0.2], [1, 2])
    assert [one.stage for one in plan_file(file).stages] == expected
    for steps, words in (
        ("[1]", r"stages.progressive.steps=\[1\]: is not of"),
        ("1, mask: 1", "progressive.mask=1: is that of each stage"),
    ):
        file.write_text(head + "  " + built.format(steps), encoding="utf-8")
        with pytest.raises(DistillationError, match=words):
            plan_file(file)


def test_data_with_labels_and_a_teacher_of_two(text: Path, tmp_path: Path) -> None:
    table = tmp_path / "topics.csv"
    table.write_text("what,topic\na ship at sea,1\nthe union,0\n", encoding="utf-8")
    labelled = f"dataset: {{path: csv, data_files: {table}, split: train, text_column: what, label_column: topic}}"
    bodies = f"teacher: {{body: {WEAK}, head: {WEAK}}}"
    plan = plan_file(write(tmp_path, text, "teacher: previous", f"{bodies}, {labelled}"))
    stage = plan.stages[1]
    data: Any = stage.dataset
    assert stage.teacher == BodyOf(WEAK, WEAK) and data["labels"] == [1, 0]
    read = AutoTokenizer.from_pretrained(WEAK)(["a ship at sea", "the union"])
    assert data["input_ids"] == read["input_ids"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps: 2", "step: 2", r"plan.yaml: stages\[1\].step=2.*Did you mean 'steps'"),
        ("teacher: previous", "teacher: [a, b]", r"plan.yaml: stages\[1\].teacher=\['a', 'b'\]: is no teacher"),
        ("train_dataset", "train_data", "plan.yaml: train_data=.*Did you mean 'train_dataset'"),
        ("1.0e-3", "1e-3", "plan.yaml: args.learning_rate='1e-3'.*write 1.0e-4"),
        ("output_dir", "output", "plan.yaml: args.output_dir=None: is missing"),
        ("stages:", "stages: [", "plan.yaml': cannot be read: .*line"),
        ("path: text", "path: nowhere/at_all", "plan.yaml: train_dataset.path='nowhere/at_all': cannot be loaded"),
        ("split: train", "split: train, text_column: words", "plan.yaml: train_dataset.text_column='words'.*text"),
        ("split: train, ", "", "plan.yaml: train_dataset.split=None: is open, and there are train"),
        ("max_length: 16", "max_lenght: 16", "train_dataset.max_lenght=16.*Did you mean 'max_length'"),
        ("hidden_size: 96", "hidden_size: 32", r"plan.yaml: stages\[0\].grow\['hidden_size'\]=32: It is smaller"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(old: str, new: str, words: str, text: Path, tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match=f"(?s){words}"):
        plan_file(write(tmp_path, text, old, new))
