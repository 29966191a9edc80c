"""What a teacher cannot read is known before the first step, or named with the teacher in the step that meets it."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models import auto

from hf_dwt import from_weak_teacher
from hf_dwt.errors import ArgumentError, SetupError, TeacherError
from hf_dwt.forward.row_logits import RowLogits
from hf_dwt.tasks import config_parts, find_task
from hf_dwt.training.setup.validation import padding_problems

from .every_type import MAPS, batch_of, tiny_of
from .models import BUILDERS, tiny
from .test_validation import WORDS, build, tokenizer
from .training import arguments, pad, ragged_examples, sequence_examples, trainer

# ---- positions ----


def long_examples(length: int = 24) -> list[dict[str, list[int]]]:
    return [{"input_ids": [5] * length, "labels": [6] * length} for _ in range(16)]


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "distilbert"])
def test_a_batch_that_is_longer_than_the_teacher_reads_names_it(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the first step a warning; in it an error with the length, the limit and the way out."""
    positions = {"max_position_embeddings": 16}
    teacher = tiny(name, seed=1, **({"n_positions": 16} if name == "gpt2" else positions))
    student = from_weak_teacher(teacher, max_position_embeddings=64, init="clone")
    with caplog.at_level(logging.WARNING, "hf_dwt"):
        run = trainer(student, teacher, tmp_path, train_dataset=long_examples(), soft_weight_schedule="constant")
    assert "up to 16 tokens, the student of up to 64" in caplog.text and "max_length=16" in caplog.text
    with pytest.raises(TeacherError, match=r"max_position_embeddings=16: .* 24 tokens .* max_length=16"):
        run.train()
    assert run.state.global_step == 0
    short = trainer(student, teacher, tmp_path, train_dataset=long_examples(12), max_steps=1)
    short.train()
    assert short.state.global_step == 1


def test_positions_that_are_computed_have_no_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = (tiny("qwen3", seed=seed, max_position_embeddings=64 // (1 + 3 * seed)) for seed in (0, 1))
    with caplog.at_level(logging.WARNING, "hf_dwt"):
        run = trainer(student, teacher, tmp_path, train_dataset=long_examples(), max_steps=1)
    run.train()
    assert "reads examples of up to" not in caplog.text and run.state.global_step == 1


def test_other_errors_of_a_teacher_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a short batch, and memory that runs out, on which the Trainer tries smaller batches."""
    run = trainer(tiny("bert"), tiny("bert", seed=1), tmp_path)
    for error, examples in (
        (RuntimeError("broken"), ragged_examples(8)),
        (torch.OutOfMemoryError(), long_examples(40)),
    ):

        def fail(*_: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(RowLogits, "__call__", fail)
        batch = pad(examples)
        with pytest.raises(type(error)) as raised:
            run.teacher.targets(batch, run._rows(batch))  # type: ignore[union-attr]
        assert raised.value is error


# ---- padding ----


def classifier(name: str, seed: int, **values: Any) -> Any:
    config: Any = BUILDERS[name][0](**{**BUILDERS[name][2], "num_labels": 3, **values})
    torch.manual_seed(seed)
    return auto.AutoModelForSequenceClassification.from_config(config)


def test_classifiers_that_do_not_know_their_padding_are_named(tmp_path: Path) -> None:
    models = {
        pads: [classifier("llama", seed, pad_token_id=0 if pads else None) for seed in (0, 1)] for pads in (0, 1)
    }
    examples: Any = {"train_dataset": sequence_examples(classes=3), "soft_weight_schedule": "constant"}
    with pytest.raises(ArgumentError, match=r"^model.config.pad_token_id=None: .* batch of 8, and LlamaFor"):
        build(tmp_path, models[0][0], models[1][1], **examples)
    with pytest.raises(TeacherError, match=r"^teacher_model.config.pad_token_id=None"):
        build(tmp_path, models[1][0], models[0][1], **examples)
    with pytest.raises(SetupError) as both:
        build(tmp_path, *models[0], **examples)
    assert len(both.value.problems) == 2
    # one example at a time has no padding; the Trainer writes the tokenizer's into the student's config
    build(tmp_path, *models[0], **examples, per_device_train_batch_size=1, max_steps=1).train()
    build(tmp_path, *models[1], **examples, max_steps=1).train()
    more = {"processing_class": tokenizer(WORDS)}
    build(tmp_path, models[0][0], models[1][1], **examples, max_steps=1, more=more).train()


@pytest.mark.parametrize("model_type", ["bert", "roberta", "gpt2", "qwen3", "opt", "gemma3", "t5gemma", "modernbert"])
def test_those_that_need_it_are_found_by_what_they_read(model_type: str, tmp_path: Path) -> None:
    assert model_type in MAPS["sequence"]
    model = tiny_of("sequence", model_type)
    batch = batch_of(model, "sequence")
    for part in config_parts(model.config):
        part.pad_token_id = None
    problems = padding_problems(model, find_task(model), arguments(tmp_path), "model")
    if problems:
        with pytest.raises(ValueError, match="padding token is defined|pad_token_id has to be defined"):
            model(**batch)
    else:
        assert torch.isfinite(model(**batch).loss)


# ---- arguments of loading ----


@pytest.mark.parametrize(("key", "nearest"), [("revison", "revision"), ("dtyp", "dtype"), ("zzzz", "")])
def test_a_misspelt_argument_of_loading_is_named_with_the_nearest(key: str, nearest: str, tmp_path: Path) -> None:
    tiny("bert", seed=1).save_pretrained(tmp_path / "teacher")
    folder = str(tmp_path / "teacher")
    with pytest.raises(TeacherError, match=f"teacher_model_init_kwargs='{key}': is unknown") as error:
        build(tmp_path, teacher=folder, teacher_model_init_kwargs={key: "x"})
    assert (f"Did you mean {nearest!r}?" in str(error.value)) == bool(nearest)
    known = {"hidden_dropout_prob": 0.1, "attn_implementation": "eager", "low_cpu_mem_usage": True, "dtype": "float32"}
    run = build(tmp_path, teacher=folder, teacher_model_init_kwargs=known)
    assert run.teacher.model.config.hidden_dropout_prob == 0.1
