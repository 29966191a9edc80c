"""Bad input: a typed error that names the argument, the value and the fix, before the first step."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertModel, GgufConfig, PreTrainedTokenizerFast
from transformers.models import auto

from hf_dwt import DistillationTrainer
from hf_dwt.errors import ArgumentError, CacheError, DataError, SetupError, TaskError, TeacherError, VocabularyError
from hf_dwt.tasks import find_task

from .models import VOCAB, tiny
from .training import arguments, pad, ragged_examples, trainer


def tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=words[0], pad_token=words[1])


WORDS = ["<unk>", "<pad>"] + [f"w{n}" for n in range(VOCAB - 4)]


def build(out: Path, student: Any = None, teacher: Any = None, more: Any = None, **settings: Any) -> Any:
    student = tiny("bert") if student is None else student
    teacher = tiny("bert", seed=1) if teacher is None else teacher
    return trainer(student, teacher, out, more=more, **settings)


# ---- the teacher ----


@pytest.mark.parametrize("name", ["nobody/no-such-model", "./no/such/folder"])
def test_a_teacher_that_does_not_exist(name: str, tmp_path: Path) -> None:
    with pytest.raises(TeacherError) as error:
        build(tmp_path, teacher=name)
    assert f"teacher_model='{name}'" in str(error.value) and "Check the id or path" in str(error.value)


def test_an_encoder_without_its_head_would_teach_noise(tmp_path: Path) -> None:
    encoder: BertModel = tiny("bert").base_model  # type: ignore[assignment]
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(TeacherError, match="taught by noise") as error:
        build(tmp_path, teacher=str(tmp_path / "encoder"))
    assert "cls.predictions" in str(error.value) and "fill-mask" in str(error.value)
    tiny("bert", seed=1).save_pretrained(tmp_path / "whole")
    build(tmp_path, teacher=str(tmp_path / "whole")).train()


def test_a_teacher_of_another_task(tmp_path: Path) -> None:
    tiny("gpt2").save_pretrained(tmp_path / "gpt2")
    for teacher in (tiny("gpt2"), str(tmp_path / "gpt2")):
        with pytest.raises(TeacherError, match="teacher_model=.*AutoModelForMaskedLM"):
            build(tmp_path, teacher=teacher)


def test_a_teacher_that_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="teacher_model=42.*Hub id, a path, or a model"):
        build(tmp_path, teacher=42)


def test_init_kwargs_for_a_model_that_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="teacher_model_init_kwargs=.*has no effect"):
        build(tmp_path, teacher_model_init_kwargs={"revision": "v1"})


def test_init_kwargs_reach_from_pretrained(tmp_path: Path) -> None:
    tiny("bert", seed=1).save_pretrained(tmp_path / "teacher")
    run = build(tmp_path, teacher=str(tmp_path / "teacher"), teacher_model_init_kwargs='{"dtype": "float64"}')
    assert next(run.teacher.model.parameters()).dtype == torch.float64


def test_a_teacher_that_shares_weights_with_the_student(tmp_path: Path) -> None:
    student = tiny("bert")
    with pytest.raises(TeacherError, match="shares weights with the student.*deepcopy"):
        build(tmp_path, student=student, teacher=student)
    build(tmp_path, student=student, teacher=copy.deepcopy(student))


def test_a_teacher_from_gguf_that_was_not_dequantised(tmp_path: Path) -> None:
    teacher: Any = tiny("bert", seed=1)
    teacher.is_quantized, teacher.config.quantization_config = True, GgufConfig()
    with pytest.raises(TeacherError, match="dequantize=True"):
        build(tmp_path, teacher=teacher)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_teacher_whose_logits_are_not_finite(value: float, tmp_path: Path) -> None:
    student, teacher = tiny("bert"), tiny("bert", seed=1)
    before = copy.deepcopy(student.state_dict())
    with torch.no_grad():
        teacher.cls.predictions.decoder.bias[3] = value
    with pytest.raises(TeacherError, match="NaN or infinite.*float32"):
        build(tmp_path, student, teacher).train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())  # nothing is lost


def test_a_teacher_that_breaks_later_stops_the_run_before_the_step(tmp_path: Path) -> None:
    student, teacher = tiny("bert"), tiny("bert", seed=1)
    run = build(tmp_path, student, teacher, soft_weight_schedule="constant")
    run.train()
    with torch.no_grad():
        teacher.cls.predictions.decoder.bias[3] = float("nan")
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(TeacherError, match="teacher_model="):
        run.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


# ---- the vocabulary ----


def test_tokenizers_that_differ(tmp_path: Path) -> None:
    other = [*WORDS[:10], WORDS[11], WORDS[10], *WORDS[12:]]
    more = {"processing_class": tokenizer(WORDS), "teacher_processing_class": tokenizer(other)}
    with pytest.raises(VocabularyError, match=r"teacher_processing_class=.*4 entries differ.*'w8' with id 10"):
        build(tmp_path, more=more)
    build(tmp_path, more={**more, "teacher_processing_class": tokenizer(WORDS)})


def test_a_teachers_own_tokenizer_is_found_beside_it(tmp_path: Path) -> None:
    tiny("bert", seed=1).save_pretrained(tmp_path / "teacher")
    tokenizer(WORDS[::-1]).save_pretrained(tmp_path / "teacher")
    with pytest.raises(VocabularyError, match="another tokenizer than the student's"):
        build(tmp_path, teacher=str(tmp_path / "teacher"), more={"processing_class": tokenizer(WORDS)})


@pytest.mark.parametrize("sizes", [(VOCAB, VOCAB + 6), (VOCAB + 6, VOCAB)])
def test_vocabularies_that_differ_in_padding_alone(sizes: tuple[int, int], tmp_path: Path) -> None:
    student, teacher = tiny("bert", vocab_size=sizes[0]), tiny("bert", seed=1, vocab_size=sizes[1])
    with pytest.raises(VocabularyError, match="nothing shows that they mean the same.*teacher_processing_class"):
        build(tmp_path, student, teacher)
    same = {"processing_class": tokenizer(WORDS), "teacher_processing_class": tokenizer(WORDS)}
    run = build(tmp_path, student, teacher, same, soft_weight_schedule="constant")
    assert run.teacher.shared_classes == VOCAB
    run.train()
    assert all(entry["soft_loss"] > 0 for entry in run.state.log_history if "soft_loss" in entry)


def test_a_tokenizer_with_more_tokens_than_a_model_has_rows(tmp_path: Path) -> None:
    words = WORDS + [f"x{n}" for n in range(10)]
    more = {"processing_class": tokenizer(words), "teacher_processing_class": tokenizer(words)}
    with pytest.raises(VocabularyError, match=r"processing_class=.*beyond the 64.*resize_token_embeddings"):
        build(tmp_path, more=more)


def test_classes_that_do_not_mean_the_same(tmp_path: Path) -> None:
    student, teacher = (
        tiny("bert-token-classification", seed=seed, id2label={0: "a", 1: "b", 2: last})
        for seed, last in ((0, "c"), (1, "d"))
    )
    with pytest.raises(VocabularyError, match="id2label=.*names other classes"):
        build(tmp_path, student, teacher)


# ---- the task, the data, the arguments ----


def test_a_task_that_is_not_distilled_is_refused_by_name(tmp_path: Path) -> None:
    config = tiny("bert").config
    student = auto.AutoModelForNextSentencePrediction.from_config(config)
    with pytest.raises(TaskError, match="model='BertForNextSentencePrediction'.*fill-mask, text-generation"):
        build(tmp_path, student)


def test_a_classifier_with_a_single_class(tmp_path: Path) -> None:
    config = copy.deepcopy(tiny("bert").config)
    config.num_labels, config.problem_type = 1, "single_label_classification"
    student = auto.AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(TaskError, match="num_labels=1: are too few"):
        build(tmp_path, student, train_dataset=None)


def test_a_model_of_no_library(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"model='Linear'.*fill-mask, text-generation"):
        build(tmp_path, torch.nn.Linear(2, 2))


def test_a_batch_without_labels(tmp_path: Path) -> None:
    examples = [{"input_ids": e["input_ids"]} for e in ragged_examples()]

    def without(batch: list[dict[str, Any]]) -> dict[str, Any]:
        padded = pad([{**e, "labels": [0] * len(e["input_ids"])} for e in batch])
        return {name: value for name, value in padded.items() if name != "labels"}

    with pytest.raises(DataError, match="labels=None.*which are attention_mask, input_ids: .*DataCollatorForLang"):
        build(tmp_path, train_dataset=examples, more={"data_collator": without}).train()


def test_labels_beyond_the_classes(tmp_path: Path) -> None:
    examples = ragged_examples(classes=VOCAB + 30)
    with pytest.raises(DataError, match=r"labels=.*beyond the student's 64 classes"):
        trainer(tiny("bert"), tiny("bert", seed=1), tmp_path, train_dataset=examples).train()


@pytest.mark.parametrize("schedule", ["constant", "knowledge_inheritance"])
def test_a_batch_whose_labels_do_not_count_costs_zero(schedule: str, tmp_path: Path) -> None:
    some, others = ragged_examples()[:8], ragged_examples()[8:]
    examples = some + [{**e, "labels": [-100] * len(e["labels"])} for e in others]
    student = tiny("bert")
    run = trainer(student, tiny("bert", seed=1), tmp_path, train_dataset=examples, soft_weight_schedule=schedule)
    run.train()
    first, *steps = [entry for entry in run.state.log_history if "grad_norm" in entry]
    assert first["hard_loss"] > 1 and len(steps) == 4
    assert all(entry["loss"] == entry["grad_norm"] == 0 and "hard_loss" not in entry for entry in steps)
    assert all(torch.isfinite(parameter).all() for parameter in student.parameters())


def test_a_soft_term_for_one_vocabulary_is_tried_on_it(tmp_path: Path) -> None:
    """The number of classes is not known to the arguments, so its own error waits for the models."""

    def weighted(classes: int) -> Any:
        return lambda student, teacher: (teacher.exp() * (teacher - student) * torch.ones(classes)).sum(-1)

    build(tmp_path, soft_term=weighted(VOCAB)).train()
    with pytest.raises(ArgumentError, match=f"soft_term=.*raised RuntimeError.*for 3 rows of {VOCAB} classes"):
        build(tmp_path, soft_term=weighted(VOCAB + 1))


@pytest.mark.parametrize("returned", [lambda loss: loss.expand(3), lambda loss: loss.item(), lambda loss: None])
def test_a_loss_function_that_returns_no_one_number(returned: Any, tmp_path: Path) -> None:
    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> Any:
        return returned(outputs.logits.square().mean())

    with pytest.raises(ArgumentError, match="compute_loss_func=.*Return one number"):
        build(tmp_path, more={"compute_loss_func": loss}).train()


def test_a_cache_without_a_folder_or_a_model_is_refused_before_a_teacher_is_loaded(tmp_path: Path) -> None:
    class Own:
        columns: frozenset[str] = frozenset()

        def targets(self, batch: Any, rows: Any) -> Any: ...

    with pytest.raises(CacheError, match="teacher_cache='cache': cannot keep the targets of a Own"):
        build(tmp_path, teacher=Own(), teacher_cache="cache")
    build(tmp_path, teacher=Own())
    with pytest.raises(CacheError, match="teacher_cache=None: names no folder.*Add --teacher_cache DIR"):
        build(tmp_path, teacher="nobody/no-such-model", teacher_cache_only=True)


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="hard_weight=0: without teacher_model"):
        DistillationTrainer(tiny("bert"), arguments(tmp_path, hard_weight=0.0), train_dataset=ragged_examples())


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    args = arguments(tmp_path, teacher_model_init_kwargs={"revision": "v1"})
    args._n_gpu = 2
    with pytest.raises(SetupError) as error:
        DistillationTrainer(tiny("bert"), args, train_dataset=ragged_examples(), teacher_model=tiny("bert", seed=1))
    assert [problem.argument for problem in error.value.problems] == ["n_gpu", "teacher_model_init_kwargs"]
    assert not (tmp_path / "checkpoint-1").exists()


def test_a_checkpoint_that_is_none(tmp_path: Path) -> None:
    run = build(tmp_path)
    with pytest.raises(ArgumentError, match="resume_from_checkpoint=True.*no whole checkpoint"):
        run.train(resume_from_checkpoint=True)
    with pytest.raises(ArgumentError, match="resume_from_checkpoint='nowhere'"):
        run.train(resume_from_checkpoint="nowhere")


def test_every_task_has_its_own_head() -> None:
    expected = {
        "bert": "fill-mask",
        "gpt2": "text-generation",
        "bart": "text2text-generation",  # also in the masked LM's list
        "bert-token-classification": "token-classification",
    }
    assert {name: find_task(tiny(name)).name for name in expected} == expected
