"""Tokens that only one of student and teacher knows: the shared ones are taught, the new ones left to the labels."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from hf_dwt import from_weak_teacher
from hf_dwt.errors import VocabularyError
from hf_dwt.teachers.frozen import FrozenTeacher, KnownTokens
from hf_dwt.teachers.loading import load_teacher_tokenizer
from hf_dwt.teachers.vocabulary import shared_vocabulary

from .models import VOCAB, tiny
from .test_validation import WORDS, build, tokenizer
from .training import Example, history, pad, ragged_examples, trainer

NEW = 2
WHOLE = WORDS + [f"w{n}" for n in range(VOCAB - 4, VOCAB - 2)]
"""As many words as the models of the tests have rows."""
OTHER = WHOLE[:2] + WHOLE[:1:-1]
"""The same words under other ids."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A causal teacher and its tokenizer."""
    path = tmp_path_factory.mktemp("teacher")
    tiny("qwen3", seed=1).save_pretrained(path)
    tokenizer(WHOLE).save_pretrained(path)
    return str(path)


def with_new_tokens() -> PreTrainedTokenizerFast:
    more = tokenizer(WHOLE)
    assert more.add_tokens([f"<new{n}>" for n in range(NEW)]) == NEW and len(more) == VOCAB + NEW
    return more


def new_examples(count: int = 24) -> list[Example]:
    """Every second example has a new token in its middle, which is predicted and read."""
    examples = ragged_examples(count, share=1)
    for number, example in enumerate(examples):
        if number % 2:
            example["input_ids"][2] = VOCAB + number // 2 % NEW
        example["labels"] = list(example["input_ids"])
    return examples


def run_of(folder: Any, out: Path, **settings: Any) -> Any:
    """A student with rows for new tokens, grown from a teacher that has never seen them."""
    student = from_weak_teacher(folder, vocab_size=VOCAB + NEW, init="clone", new_rows="mean")
    more = {"processing_class": with_new_tokens()}
    settings = {"soft_weight_schedule": "constant", "train_dataset": new_examples(), **settings}
    return trainer(student, folder, out, more=more, **settings)


def test_old_tokens_are_taught_and_new_ones_learnt(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "hf_dwt"):
        run = run_of(folder, tmp_path, max_steps=60, learning_rate=1e-2)
    assert "does not know 2 tokens" in caplog.text and "'<new0>' with id 64: it reads '<unk>'" in caplog.text
    assert run.teacher.shared_classes == VOCAB and run.teacher.known == KnownTokens(VOCAB, 0)
    examples = new_examples()
    before = run.evaluate(examples)
    new = [e for e in examples if max(e["input_ids"]) >= VOCAB]
    for example in new:  # only the new tokens count
        example["labels"] = [i if i >= VOCAB else -100 for i in example["input_ids"]]
    at_new = run.evaluate(new)
    assert (
        at_new["eval_soft_loss"] == 0.0 and at_new["eval_teacher_loss"] != at_new["eval_teacher_loss"]
    )  # no row of its
    run.train()
    assert all(soft > 0 for (soft,) in history(run, "soft_loss"))
    after = run.evaluate(new)["eval_loss"]
    assert after < at_new["eval_loss"] - 1.0 and run.evaluate(examples)["eval_loss"] < before["eval_loss"]


def test_a_student_that_is_its_teacher_is_taught_nothing(folder: str, tmp_path: Path) -> None:
    """Over the shared classes a clone's distribution is the teacher's, where both read old tokens alone."""
    run = run_of(folder, tmp_path)
    batch = pad(ragged_examples(8, share=1))
    rows = run._rows(batch)
    targets = run.teacher.targets(batch, rows)
    weights = run._weights(0)
    outputs, terms = run._run_student(
        run.model.eval(), batch, rows, lambda logits, _: run._terms(logits, rows, targets, weights, None), False
    )
    assert terms["soft_loss"].item() == pytest.approx(0.0, abs=1e-5)
    assert outputs.logits.shape[-1] == VOCAB + NEW


def test_a_stand_in_is_read_in_place_of_new_tokens(folder: str, tmp_path: Path) -> None:
    run = run_of(folder, tmp_path)
    batch = pad(new_examples(8))
    replaced = {**batch, "input_ids": batch["input_ids"].where(batch["input_ids"] < VOCAB, 0)}
    rows = run._rows(batch)
    found, expected = (run.teacher.targets(one, rows).logits[:] for one in (batch, replaced))
    assert torch.equal(found, expected)
    plain = FrozenTeacher(run.teacher.model, run.task, VOCAB)
    with pytest.raises(IndexError):
        plain.targets(batch, rows)


@pytest.mark.parametrize("form", ["hidden", "top_k"])
def test_a_cached_teacher_says_the_same(form: str, folder: str, tmp_path: Path) -> None:
    runs = []
    for cache in (
        {},
        {"teacher_cache": str(tmp_path / "cache"), "teacher_cache_form": form, "teacher_cache_k": VOCAB},
    ):
        runs.append(run_of(folder, tmp_path, **cache))
        runs[-1].train()
    assert runs[1].cached_teacher is not None
    live, cached = (history(run, "soft_loss", "loss") for run in runs)
    for one, other in zip(live, cached, strict=True):
        assert one == pytest.approx(other, rel=1e-2 if form == "top_k" else 2e-3) and one[0] > 0


def test_tokenizers_are_compared_entry_by_entry() -> None:
    """Tokens behind all shared ones may be added on either side; anything else is another tokenizer."""
    small, large = tiny("bert"), tiny("bert", vocab_size=VOCAB + 6)
    more, fewer, whole = with_new_tokens(), tokenizer(WORDS[:50]), tokenizer(WHOLE)
    no_token = tokenizer(WHOLE)
    for name in ("unk_token", "pad_token", "mask_token", "eos_token"):
        setattr(no_token, name, None)
    cases: list[tuple[Any, ...]] = [
        (large, small, more, whole, VOCAB, KnownTokens(VOCAB, 0)),
        (large, large, more, whole, VOCAB, KnownTokens(VOCAB, 0)),  # the teacher has rows, but for no token
        (large, small, more, more, VOCAB, KnownTokens(VOCAB, 0)),  # the teacher has no rows for them
        (large, large, more, more, VOCAB + 6, None),
        (small, large, whole, more, VOCAB, None),
        (small, large, fewer, whole, 50, None),
    ]
    for student, teacher, own, other, classes, known in cases:
        assert shared_vocabulary(student, teacher, own, other) == (classes, known, ())
    refused = [
        (large, small, more, tokenizer(OTHER), "is another tokenizer"),
        (large, small, more, tokenizer([*WORDS[:10], *WORDS[11:]]), "is another tokenizer"),
        (small, small, more, whole, "beyond the 64 that the student has rows for"),
        (large, small, more, no_token, "no token to read in its place"),
    ]
    for student, teacher, own, other, words in refused:
        (problem,) = shared_vocabulary(student, teacher, own, other).problems
        assert words in str(problem) and isinstance(problem, VocabularyError)


def test_a_tokenizer_that_is_code_is_loaded_where_that_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without leave to run it, a warning says that nothing was compared."""
    tiny("bert", seed=1).save_pretrained(tmp_path / "teacher")
    said = {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": ["words.Words", None]}, "unk_token": "<unk>"}
    files = {
        "words.txt": "\n".join(OTHER),
        "tokenizer_config.json": json.dumps(said),
        "words.py": _CODE,
    }
    for name, content in files.items():
        (tmp_path / "teacher" / name).write_text(content)
    more = {"processing_class": tokenizer(WHOLE)}
    with caplog.at_level(logging.WARNING, "hf_dwt"):
        build(tmp_path, teacher=str(tmp_path / "teacher"), more=more)
    assert "cannot be loaded" in caplog.text
    assert f"the teacher {str(tmp_path / 'teacher')!r} is not checked" in caplog.text
    with pytest.raises(VocabularyError, match="'Words': is another tokenizer"):
        trusted = {"trust_remote_code": True}
        build(tmp_path, teacher=str(tmp_path / "teacher"), more=more, teacher_model_init_kwargs=trusted)


_CODE = """
from pathlib import Path

from transformers import PreTrainedTokenizer


class Words(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "words.txt"}

    def __init__(self, vocab_file, **kwargs):
        self.ids = {word: i for i, word in enumerate(Path(vocab_file).read_text().split())}
        super().__init__(**kwargs)

    def get_vocab(self):
        return dict(self.ids)

    @property
    def vocab_size(self):
        return len(self.ids)

    def _convert_token_to_id(self, token):
        return self.ids[token]
"""


def test_tokenizers_are_looked_for_where_the_weights_come_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside the model that an adapter is of, and beside a model that was loaded from a folder."""
    base, adapter, bare = (tmp_path / name for name in ("base", "adapter", "bare"))
    tiny("bert", seed=1).save_pretrained(base)
    tiny("bert", seed=1).save_pretrained(bare)
    tokenizer(OTHER).save_pretrained(base)
    model = AutoModelForMaskedLM.from_pretrained(base)
    adapted = get_peft_model(AutoModelForMaskedLM.from_pretrained(base), LoraConfig(target_modules=["query"]))
    adapted.save_pretrained(adapter)
    more = {"processing_class": tokenizer(WHOLE)}
    for teacher in (str(adapter), adapted, model):
        with pytest.raises(VocabularyError, match="is another tokenizer"):
            build(tmp_path, teacher=teacher, more=more)
    # of a folder without one, transformers makes up a tokenizer of special tokens
    with caplog.at_level(logging.WARNING, "hf_dwt"):
        assert load_teacher_tokenizer(str(bare)) is None and "it has no files" in caplog.text
        build(tmp_path, teacher=str(bare), more=more)
    assert "Give teacher_processing_class" in caplog.text
