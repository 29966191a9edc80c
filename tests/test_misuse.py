"""Mistakes that would train in silence are an error, or a word, before the first step."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from hf_dwt import DistillationTrainer
from hf_dwt.errors import DataError

from .models import tiny
from .test_validation import WORDS, tokenizer
from .training import arguments, ragged_examples, trainer


@pytest.fixture
def masking() -> PreTrainedTokenizerFast:
    made = tokenizer(WORDS)
    made.mask_token = "w2"
    return made


def build(name: str, collator: Any, tokens: Any, out: Path, **settings: Any) -> DistillationTrainer:
    examples = [{"input_ids": example["input_ids"]} for example in ragged_examples()]
    more = {"data_collator": collator, "processing_class": tokens, "teacher_processing_class": tokens}
    return trainer(tiny(name), tiny(name, seed=1), out, train_dataset=examples, more=more, **settings)


COPIES, FILLS_IN = "learn to copy its input.*mlm=True", "predicts the next token.*mlm=False"


@pytest.mark.parametrize(("name", "masks", "words"), [("bert", False, COPIES), ("gpt2", True, FILLS_IN)])
def test_a_collator_of_the_other_language_model(
    name: str, masks: bool, words: str, masking: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Known from the collator before a teacher is loaded; from the first batch where it is hidden in a function."""
    right, wrong = (DataCollatorForLanguageModeling(masking, mlm=mlm) for mlm in (not masks, masks))
    with pytest.raises(DataError, match=f"data_collator='DataCollatorForLanguageModeling'.*{words}"):
        build(name, wrong, masking, tmp_path)
    hidden = build(name, lambda examples: wrong(examples), masking, tmp_path)
    before = copy.deepcopy(hidden.model.state_dict())  # type: ignore[union-attr]
    with pytest.raises(DataError, match=f"data_collator='function'.*{words}"):
        hidden.train()
    after = hidden.model.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items())
    for collator in (right, lambda examples: right(examples)):
        assert build(name, collator, masking, tmp_path).train().global_step == 5


def test_a_collator_that_masks_in_a_way_of_its_own_is_asked_for_its_batch(
    masking: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    class Spans(DataCollatorForLanguageModeling):
        def torch_call(self, examples: Any) -> Any:
            batch = super().torch_call(examples)
            batch["labels"][:, ::2] = -100
            batch["input_ids"] = batch["input_ids"].masked_fill(batch["labels"] != -100, masking.mask_token_id)
            return batch

    spans = Spans(masking, mlm=False)
    assert build("bert", spans, masking, tmp_path).train().global_step == 5
    with pytest.raises(DataError, match=f"data_collator='Spans'.*{FILLS_IN}"):
        build("gpt2", spans, masking, tmp_path).train()


@pytest.mark.parametrize("count", [15, 16])
def test_a_few_labels_may_equal_their_tokens(count: int, tmp_path: Path) -> None:
    """A masked LM's collator leaves one of ten labelled tokens as it is."""
    example = {"input_ids": [5] * 20, "attention_mask": [1] * 20, "labels": [5] * count + [-100] * (20 - count)}
    run = trainer(
        tiny("bert"),
        None,
        tmp_path,
        train_dataset=[example],
        more={"data_collator": None},
        max_steps=1,
        per_device_train_batch_size=1,
    )
    if count == 15:
        assert run.train().global_step == 1
    else:
        with pytest.raises(DataError, match="all 16 labelled positions"):
            run.train()


@pytest.mark.parametrize("layers", [2, 3])
def test_a_teacher_that_is_larger_is_said_once(layers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = tiny("bert"), tiny("bert", seed=1, num_hidden_layers=layers)
    with caplog.at_level(logging.WARNING, "hf_dwt"):
        run = trainer(student, teacher, tmp_path)
        run.train()
    said = [record.getMessage() for record in caplog.records if record.name == "hf_dwt.training.setup.misuse"]
    counts = [f"{sum(p.numel() for p in model.parameters()):,}" for model in (teacher, student)]
    wanted = "The teacher has {} parameters, the student {}. If they changed places, swap model and teacher_model."
    assert said == ([wanted.format(*counts)] if layers == 3 else [])


def test_without_a_teacher_the_collator_counts_as_well(masking: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    collator = DataCollatorForLanguageModeling(masking, mlm=False)
    with pytest.raises(DataError, match=COPIES):
        DistillationTrainer(tiny("bert"), arguments(tmp_path), collator, ragged_examples())
