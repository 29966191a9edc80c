"""Columns that are exported from a model teach what the model teaches."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from hf_dwt import cli
from hf_dwt.errors import DataError, TeacherError
from hf_dwt.teachers import ColumnTeacher, export_columns

from .models import VOCAB, tiny
from .test_columns import IDS, LOGPROBS, figures, log_probs, teacher_of, trained, weights
from .training import ragged_examples


def data() -> datasets.Dataset:
    return datasets.Dataset.from_list(ragged_examples())


def test_a_run_from_columns_is_that_from_the_cache_of_as_many_classes(tmp_path: Path) -> None:
    columns = export_columns(data(), teacher_of("gpt2"), 5, add_label=False, dtype="float16")
    cache = {"teacher_cache": str(tmp_path / "cache"), "teacher_cache_form": "top_k", "teacher_cache_k": 5}
    cached = trained(tmp_path, "gpt2", teacher_of("gpt2"), data(), **cache)  # type: ignore[arg-type]
    read = trained(tmp_path, "gpt2", ColumnTeacher(), columns)  # type: ignore[arg-type]
    assert np.allclose(figures(read), figures(cached), rtol=1e-6, atol=1e-6)
    assert torch.allclose(weights(read), weights(cached), atol=1e-6)
    plain = trained(tmp_path, "gpt2", None, data(), max_steps=1)  # type: ignore[arg-type]
    assert not torch.allclose(weights(read), weights(plain), atol=1e-3)


@pytest.mark.parametrize("add_label", [True, False])
@pytest.mark.parametrize(("name", "aligned"), [("gpt2", "label"), ("gpt2", "position"), ("bert", "label")])
def test_an_entry_is_what_the_model_predicts(name: str, aligned: str, add_label: bool) -> None:
    examples, model = ragged_examples(9, share=0.5), teacher_of(name)
    found = export_columns(
        datasets.Dataset.from_list(examples), model, 4, aligned=aligned, add_label=add_label, batch_size=4
    )
    added = 0
    for example, columns in zip(examples, found, strict=True):
        predicted, tokens = log_probs(model, example), len(example["input_ids"])
        for place in range(tokens):
            if name == "bert":
                row, label = place, example["labels"][place]
            else:
                row = place - (aligned == "label")
                label = example["input_ids"][row + 1] if 0 <= row < tokens - 1 else -100
            ids, values = columns[IDS][place], columns[LOGPROBS][place]
            if label == -100:
                assert ids == [] and values == []
                continue
            top = predicted[row].topk(4).indices.tolist()
            expected = [*top, *([label] if add_label and label not in top else [])]
            added += len(expected) - 4
            assert ids == expected and torch.allclose(torch.tensor(values), predicted[row][ids], atol=1e-5)
    assert (added > 5) == add_label


def test_the_command_writes_what_the_function_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher_of("gpt2").save_pretrained(tmp_path / "teacher")
    data().save_to_disk(tmp_path / "data")
    data().to_parquet(tmp_path / "data.parquet")
    expected = export_columns(data(), teacher_of("gpt2"), 3)[:]
    words = ["cache", "--teacher", str(tmp_path / "teacher"), "--k", "3", "--export"]
    for source, out in (("data", "columns.parquet"), ("data.parquet", "columns")):
        assert cli.main([*words, str(tmp_path / out), str(tmp_path / source)]) == 0
    assert str(tmp_path / "columns") in capsys.readouterr().out
    assert datasets.load_from_disk(tmp_path / "columns")[:] == expected
    assert datasets.Dataset.from_parquet(str(tmp_path / "columns.parquet"))[:] == expected
    datasets.DatasetDict({"train": data(), "test": data()}).save_to_disk(tmp_path / "splits")
    assert cli.main([*words, str(tmp_path / "both"), str(tmp_path / "splits")]) == 0
    both = datasets.load_from_disk(tmp_path / "both")
    assert both["train"][:] == both["test"][:] == expected
    assert cli.main([*words, str(tmp_path / "both.parquet"), str(tmp_path / "splits")]) == 1
    assert "has the splits train, test" in capsys.readouterr().err
    assert cli.main([*words, str(tmp_path / "columns"), str(tmp_path / "data")]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--export", "OUT", "NO_DATA"], "--teacher=None"),
        (["--export", "OUT", "--teacher", "me/teacher", "NO_DATA"], "data='NO_DATA'"),
        (["--export", "OUT", "--teacher", "me/teacher", "NO_DATA", "--k", "0"], "k=0"),
        (["NO_DATA", "--export", "OUT"], "no such script: NO_DATA; --export goes in front of the data"),
        (["--exprot", "OUT", "--teacher", "me/teacher", "NO_DATA"], "Did you mean '--export'?"),
    ],
)
def test_what_the_command_lacks_is_named(line: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(["cache", *line])
    except SystemExit as error:
        code = error.code  # type: ignore[assignment]
    assert code in (1, 2)
    assert words in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused() -> None:
    gpt2, plain = teacher_of("gpt2"), datasets.Dataset.from_list([{"input_ids": [5, 6, 7]}])
    cases: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        (ragged_examples(3), gpt2, {}, DataError, "cannot be given columns"),
        (datasets.Dataset.from_list([{"text": "a"}]), gpt2, {}, DataError, "input_ids=None"),
        (plain.add_column(IDS, [1]), gpt2, {}, DataError, f"{IDS}='a column': is there already"),
        (plain, teacher_of("bert"), {}, DataError, "labels=None"),
        (plain, tiny("t5"), {}, TeacherError, "no causal or masked language model"),
        (plain, "examples/no-such-teacher", {}, TeacherError, "could not be loaded"),
        (plain, gpt2, {"k": 0}, TeacherError, "k=0"),
        (plain, gpt2, {"dtype": "int8"}, TeacherError, "dtype='int8'"),
        (plain, gpt2, {"aligned": "token"}, TeacherError, "aligned='token'"),
        (datasets.Dataset.from_list([{"input_ids": [5, VOCAB]}]), gpt2, {}, DataError, f"input_ids={VOCAB}"),
    ]
    for dataset, teacher, settings, error, words in cases:
        with pytest.raises(error) as caught:
            export_columns(dataset, teacher, **settings)
        assert words in str(caught.value), words
