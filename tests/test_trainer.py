"""Swapping Trainer for DistillationTrainer: everything else keeps working, and the figures are right."""

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch.utils.data import IterableDataset
from transformers import (
    DataCollatorForSeq2Seq,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.models import auto

from hf_dwt import DistillationTrainer

from .every_type import tiny_of
from .models import LABELS, VOCAB, randomise, tiny
from .training import CHECKPOINTING, arguments, history, pad, ragged_examples, sequence_examples, trainer


def mean_loss(run: DistillationTrainer) -> list[float]:
    return [loss for (loss,) in history(run, "loss")]


# ---- the way Trainer is called ----


def test_every_argument_of_trainer_keeps_its_position(tmp_path: Path) -> None:
    model, args, examples = tiny("bert"), arguments(tmp_path), ragged_examples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    given: dict[str, Any] = {
        "model": model,
        "args": args,
        "data_collator": pad,
        "train_dataset": examples[:20],
        "eval_dataset": examples[20:],
        "processing_class": None,
        "model_init": None,
        "compute_loss_func": None,
        "compute_metrics": len,
        "callbacks": [TrainerCallback()],
        "optimizers": (optimizer, None),
        "optimizer_cls_and_kwargs": None,
        "preprocess_logits_for_metrics": len,
    }
    assert list(given) == [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
    run = DistillationTrainer(*given.values(), teacher_model=tiny("bert", seed=1))
    for name in ("model", "args", "data_collator", "train_dataset", "eval_dataset", "compute_metrics"):
        assert getattr(run, name) is given[name]
    assert run.optimizer is optimizer and given["callbacks"][0] in run.callback_handler.callbacks


def test_plain_training_arguments_run_with_the_defaults(tmp_path: Path) -> None:
    common: dict[str, Any] = {"max_steps": 5, "logging_steps": 1, "use_cpu": True, "report_to": "none"}
    common |= {"disable_tqdm": True, "save_strategy": "no", "output_dir": str(tmp_path), "seed": 3}
    runs = []
    for args in (TrainingArguments(**common), arguments(tmp_path)):
        for name, value in common.items():
            setattr(args, name, value)
        args.learning_rate, args.train_sampling_strategy, args.lr_scheduler_type = (
            1e-3,
            "sequential",
            args.lr_scheduler_type,
        )
        run = DistillationTrainer(tiny("bert"), args, pad, ragged_examples(), teacher_model=tiny("bert", seed=1))
        run.train()
        runs.append(run.state.log_history)
    assert [entry.get("soft_weight") for entry in runs[0]] == [entry.get("soft_weight") for entry in runs[1]]
    assert runs[0][0]["soft_weight"] == 1.0 and runs[0][3].get("soft_weight", 0.0) < 1.0  # auto: follows the lead


def test_without_a_teacher_the_same_path_gives_the_hard_loss_alone(tmp_path: Path) -> None:
    """The honest baseline: with a schedule that would move the hard weight too, and with dropout on."""
    runs = []
    for teacher, soft_weight in ((None, 1.0), (tiny("bert", seed=1), 0.0), (tiny("bert", seed=1), 1.0)):
        # A Trainer seeds dropout when it is made, so each is made and trained in turn.
        run = trainer(tiny("bert", hidden_dropout_prob=0.1), teacher, tmp_path, soft_weight=soft_weight)
        run.train()
        runs.append(run)
    alone, silent, taught = runs
    assert mean_loss(alone) == mean_loss(silent) != mean_loss(taught)
    assert history(alone, "loss") == history(alone, "hard_loss")
    assert not any("soft_loss" in entry for entry in alone.state.log_history)


def test_model_init_makes_the_student(tmp_path: Path) -> None:
    def build() -> PreTrainedModel:
        return tiny("bert")

    args = arguments(tmp_path, soft_weight_schedule="constant")
    run = DistillationTrainer(None, args, pad, ragged_examples(), model_init=build, teacher_model=tiny("bert", seed=1))
    run.train()
    first = mean_loss(run)
    run.train()  # a new student each time
    given = trainer(tiny("bert"), tiny("bert", seed=1), tmp_path, soft_weight_schedule="constant")
    given.train()
    assert first == mean_loss(run) == mean_loss(given)


# ---- the tasks ----


def test_a_causal_lm_learns_the_next_token(tmp_path: Path) -> None:
    model, examples = tiny("llama"), ragged_examples(8)
    run = trainer(model, None, tmp_path, train_dataset=examples)
    batch = pad(examples)
    ours = run.compute_loss(model.train(), dict(batch)).item()
    stock = model(**batch).loss.item()
    logits, labels = model(**{k: v for k, v in batch.items() if k != "labels"}).logits, batch["labels"]
    unshifted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
    assert ours == pytest.approx(stock, rel=1e-5) and abs(ours - unshifted) > 1e-3


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_sequence_to_sequence_lm_makes_its_decoder_inputs(name: str, tmp_path: Path) -> None:
    model, examples = tiny(name), ragged_examples(8)
    run = trainer(model, tiny(name, seed=1), tmp_path, train_dataset=examples, soft_weight_schedule="constant")
    batch = pad(examples)
    outputs, rows = model(**batch), run._rows(batch)
    terms = run._terms(rows.take(outputs.logits), rows, None, run._weights(0), None)
    ours = terms["hard_loss"].item() / rows.positions.numel()
    assert ours == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    given = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
    with_inputs = run.compute_loss(model.train(), {**batch, "decoder_input_ids": given}).item()
    wrong = run.compute_loss(model, {**batch, "decoder_input_ids": given.flip(1)}).item()
    assert run.compute_loss(model, dict(batch)).item() == with_inputs != wrong


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_classification(kind: str, tmp_path: Path) -> None:
    config = tiny("bert-token-classification").config
    auto_class = getattr(auto, f"AutoModelFor{kind.capitalize()}Classification")
    student, teacher = (randomise(auto_class.from_config(config), seed) for seed in (0, 1))
    examples = sequence_examples(classes=LABELS) if kind == "sequence" else ragged_examples(classes=LABELS)
    run = trainer(student, teacher, tmp_path, train_dataset=examples, soft_weight_schedule="constant")
    batch = pad(examples[:8])
    loss, outputs = run.compute_loss(student.eval(), dict(batch), return_outputs=True)
    assert loss.item() == pytest.approx(student(**batch).loss.item(), rel=1e-5)
    run.train()
    assert history(run, "soft_loss")[0][0] > 0
    metrics = run.evaluate(examples)
    predictions = run.predict(examples)
    right = predictions.predictions.argmax(-1)[predictions.label_ids != -100]
    assert metrics["eval_accuracy"] == pytest.approx(
        (right == predictions.label_ids[predictions.label_ids != -100]).mean()
    )
    assert outputs["logits"].shape[-1] == LABELS


def test_a_mixture_of_experts_keeps_its_balance(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
        max_position_embeddings=32,
    )
    model = randomise(MixtralForCausalLM(config))
    batch = pad(ragged_examples(8))
    run = trainer(model, None, tmp_path, train_dataset=ragged_examples())
    ours, stock = run.compute_loss(model.train(), dict(batch)), model(**batch)
    assert ours.item() == pytest.approx(stock.loss.item(), rel=1e-5)
    assert 0.5 * stock.aux_loss.item() > 0.1  # what would be missing
    run.train()
    assert history(run, "aux_loss")[0][0] > 0


@pytest.mark.parametrize("by_name", [True, False])
def test_outputs_are_those_of_the_model_with_labels(by_name: bool, tmp_path: Path) -> None:
    """The loss first, and a tuple where the config says so."""
    config: Any = tiny("bert-token-classification").config
    classifier = randomise(auto.AutoModelForSequenceClassification.from_config(config))
    batches: list[Any] = [pad(sequence_examples(8, classes=LABELS)), pad(ragged_examples(8))]
    for model, batch in zip(
        (classifier, tiny("bert") if not by_name else tiny_of("causal", "mixtral")), batches, strict=True
    ):
        model.config.return_dict = by_name
        run = trainer(model, None, tmp_path, train_dataset=ragged_examples())
        stock = model.train()(**batch)
        loss, outputs = run.compute_loss(model, dict(batch), return_outputs=True)
        assert type(outputs) is type(stock) and len(outputs) == len(stock) and outputs[0] is loss
        if by_name:
            assert list(outputs) == list(stock) and outputs.loss is loss
        torch.testing.assert_close(tuple(outputs[n] for n in range(2)), tuple(stock[n] for n in range(2)))
        assert run.compute_loss(model, dict(batch)).item() == pytest.approx(loss.item(), rel=1e-5)
    predicted = trainer(classifier, None, tmp_path).predict(sequence_examples(classes=LABELS)).predictions
    assert predicted.shape == (40, LABELS)


# ---- what Trainer's own options do ----


def test_label_smoothing_is_that_of_stock_trainer(tmp_path: Path) -> None:
    args = arguments(tmp_path, label_smoothing_factor=0.2)
    stock = Trainer(tiny("bert"), args, pad, ragged_examples())
    ours = DistillationTrainer(tiny("bert"), args, pad, ragged_examples())
    plain = trainer(tiny("bert"), None, tmp_path)
    for run in (stock, ours, plain):
        run.train()
    np.testing.assert_allclose(mean_loss(ours), mean_loss(stock), rtol=1e-5)  # type: ignore[arg-type]
    assert abs(mean_loss(ours)[0] - mean_loss(plain)[0]) > 1e-3
    smooth, sharp = (run.evaluate(ragged_examples())["eval_loss"] for run in (ours, plain))
    model = ours.model
    assert smooth == pytest.approx(reference_loss(model, ragged_examples()), rel=1e-5) != sharp


def reference_loss(model: Any, examples: list[dict[str, list[int]]]) -> float:
    """Mean negative log-likelihood of all labels, one example at a time, without padding."""
    total = rows = 0.0
    model.eval()
    for example in examples:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example["input_ids"]])).logits[0].double()
        for place, label in enumerate(example["labels"]):
            if label != -100:
                total -= logits[place].log_softmax(-1)[label].item()
                rows += 1
    return total / rows


def test_a_loss_function_of_the_user_takes_the_place_of_the_hard_term(tmp_path: Path) -> None:
    def squares(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs.logits[labels != -100].pow(2).sum() / num_items_in_batch

    settings: dict[str, Any] = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    args = arguments(tmp_path, soft_weight_schedule="constant", **settings)
    stock = Trainer(tiny("bert"), args, pad, ragged_examples(), compute_loss_func=squares)
    stock.train()
    ours = DistillationTrainer(tiny("bert"), args, pad, ragged_examples(), compute_loss_func=squares)
    ours.train()
    taught = DistillationTrainer(
        tiny("bert"), args, pad, ragged_examples(), compute_loss_func=squares, teacher_model=tiny("bert", seed=1)
    )
    taught.train()
    np.testing.assert_allclose(mean_loss(ours), mean_loss(stock), rtol=1e-5)  # type: ignore[arg-type]
    assert taught.evaluate(ragged_examples())["eval_loss"] > 1 + reference_loss(taught.model, ragged_examples())
    first = taught.state.log_history[0]
    assert first["loss"] == pytest.approx(first["hard_loss"] + first["soft_loss"], rel=1e-5)
    assert first["hard_loss"] == pytest.approx(mean_loss(ours)[0], rel=1e-5) and first["soft_loss"] > 0


@pytest.mark.parametrize("option", [f"{CHECKPOINTING}_checkpointing", "torch_compile", "bf16"])
def test_options_that_change_how_but_not_what_is_computed(option: str, tmp_path: Path) -> None:
    more = {"torch_compile_backend": "eager"} if option == "torch_compile" else {}
    losses = []
    for settings in ({}, {option: True, **more}):
        run = trainer(tiny("llama"), tiny("llama", seed=1), tmp_path, soft_weight_schedule="constant", **settings)
        run.train()
        losses.append(history(run, "loss", "soft_loss", "agreement"))
    tolerance = {"rtol": 0.03, "atol": 0.03} if option == "bf16" else {"rtol": 1e-5}
    np.testing.assert_allclose(losses[1], losses[0], **tolerance)  # type: ignore[arg-type]
    assert len(set(losses[0])) == 5


def test_a_peft_student_learns_through_its_adapter_alone(tmp_path: Path) -> None:
    base = tiny("bert")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    student = get_peft_model(base, LoraConfig(target_modules=["query", "value"]))
    run = trainer(student, tiny("bert", seed=1), tmp_path, soft_weight_schedule="constant", learning_rate=1e-2)
    run.train()
    run.save_model()
    assert mean_loss(run)[-1] != mean_loss(run)[0]
    assert (tmp_path / "adapter_model.safetensors").exists() and not (tmp_path / "model.safetensors").exists()
    again = PeftModel.from_pretrained(tiny("bert"), tmp_path)
    batch = pad(ragged_examples(4))
    torch.testing.assert_close(again.eval()(**batch).logits, student.eval()(**batch).logits)
    assert not torch.allclose(tiny("bert")(**batch).logits, student(**batch).logits, atol=1e-4)
    kept = {name.replace("base_layer.", ""): value for name, value in base.state_dict().items() if "lora" not in name}
    assert all(torch.equal(kept[name], value) for name, value in before.items())


class Endless(IterableDataset):  # type: ignore[type-arg]
    """Examples without a length."""

    def __iter__(self) -> Any:
        while True:
            yield from ragged_examples()


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
@pytest.mark.parametrize(("name", "task"), [("gpt2", "CAUSAL_LM"), ("t5", "SEQ_2_SEQ_LM")])
def test_virtual_tokens_shift_no_rows(kind: Any, name: str, task: str, tmp_path: Path) -> None:
    student = get_peft_model(tiny(name), kind(task_type=task, num_virtual_tokens=3))
    batch = pad(ragged_examples(8, share=1))
    batch["labels"][:, 0] = -100  # peft predicts the first token too, from the virtual ones
    teacher, constant = tiny(name, seed=1), {"soft_weight_schedule": "constant"}
    run = trainer(student, teacher, tmp_path, train_dataset=ragged_examples(), **constant)
    rows, stock = run._rows(batch), student(**batch)
    _, terms = run._run_student(
        student.train(),
        run._labelled(batch),
        rows,
        lambda logits, _: run._terms(logits, rows, None, run._weights(0), None),
        False,
    )
    assert terms["hard_loss"].item() / len(rows.labels) == pytest.approx(stock.loss.item(), rel=1e-5)
    before = {name: p.clone() for name, p in student.named_parameters()}
    run.train()
    changed = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all("prompt" in name for name in changed) and history(run, "soft_loss")[0][0] > 0


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_is_the_same_model(in_place: bool, tmp_path: Path) -> None:
    losses = []
    for compiles in (False, True):
        models: list[Any] = [tiny("bert", seed=seed) for seed in (0, 1)]
        if compiles and in_place:
            [model.compile(backend="eager") for model in models]
        elif compiles:
            models = [torch.compile(model, backend="eager") for model in models]
        run = trainer(*models, tmp_path, soft_weight_schedule="constant", max_steps=2)
        run.train()
        losses.append(history(run, "loss", "soft_loss"))
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_an_iterable_dataset_with_max_steps(tmp_path: Path) -> None:
    runs = [
        trainer(tiny("bert"), tiny("bert", seed=1), tmp_path, train_dataset=dataset, max_steps=7)
        for dataset in (Endless(), ragged_examples())
    ]
    for run in runs:
        run.train()
    assert len(mean_loss(runs[0])) == 7
    assert mean_loss(runs[0])[:5] == mean_loss(runs[1])[:5]  # the same samples, and the schedule knows its end


def test_a_column_that_only_the_teacher_reads_reaches_it(tmp_path: Path) -> None:
    examples = [
        {**e, "attention_mask": [1] * 4, "token_type_ids": [0, 0, 1, 1], "other": [0]}
        for e in ({k: v[:4] for k, v in example.items()} for example in ragged_examples())
    ]
    losses = []
    for types in ([0, 0, 1, 1], [0, 0, 0, 0]):
        data = Dataset.from_list([{**e, "token_type_ids": types} for e in examples]).with_format("torch")
        run = trainer(
            tiny("distilbert"),
            tiny("bert", seed=1),
            tmp_path,
            train_dataset=data,
            soft_weight_schedule="constant",
            more={"data_collator": None},
        )
        run.train()
        losses.append(history(run, "soft_loss"))
    assert losses[0] != losses[1]


# ---- what is logged ----


def test_logged_terms_make_up_the_loss_and_follow_the_schedule(tmp_path: Path) -> None:
    weights = {"hard_weight": 2.0, "soft_weight": 3.0, "soft_weight_schedule": "knowledge_inheritance"}
    run = trainer(tiny("bert"), tiny("bert", seed=1), tmp_path, max_steps=10, **weights)
    run.train()
    for step, entry in enumerate(run.state.log_history[:10]):
        fade = max(0.0, 1 - step / 10 / 0.3)
        if fade:
            assert (entry["hard_weight"], entry["soft_weight"]) == pytest.approx((2 * (1 - fade), 3 * fade))
        else:
            assert not {"hard_weight", "soft_weight", "soft_loss", "agreement"} & entry.keys()
        soft = 3 * fade * entry.get("soft_loss", 0.0)
        assert entry["loss"] == pytest.approx(2 * (1 - fade) * entry["hard_loss"] + soft, rel=1e-5)


def test_a_log_waits_for_the_other_processes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tiny("bert"), tiny("bert", seed=1), tmp_path, soft_weight_schedule="constant")
    reduced: list[int] = []
    reduce = run.accelerator.reduce
    monkeypatch.setattr(run.accelerator, "reduce", lambda *a, **k: (reduced.append(1), reduce(*a, **k))[1])
    run.train()
    trials, ends = 3, 2  # what processes agree on before the first step; the epoch and the run
    assert len(history(run, "loss")) == 5 and len(reduced) == trials + 5 + ends


def test_first_logged_terms_are_those_of_a_reference(tmp_path: Path) -> None:
    student, teacher = tiny("bert"), tiny("bert", seed=1)
    batch = pad(ragged_examples()[:8])
    kept = batch["labels"] != -100
    with torch.no_grad():
        own, other = (m(**batch).logits[kept].double() for m in (student, teacher))
    p, q = other.softmax(-1), own.softmax(-1)
    run = trainer(student, teacher, tmp_path)
    run.train()
    first = run.state.log_history[0]
    assert first["soft_loss"] == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-5)
    assert first["hard_loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(own, batch["labels"][kept]).item(), rel=1e-5
    )
    assert first["agreement"] == pytest.approx((own.argmax(-1) == other.argmax(-1)).double().mean().item())
    assert first["soft_loss"] > 1e-2


def test_logs_are_means_over_the_steps_since_the_last_log(tmp_path: Path) -> None:
    single, grouped = (
        trainer(
            tiny("bert"),
            tiny("bert", seed=1),
            tmp_path,
            logging_steps=steps,
            max_steps=8,
            soft_weight_schedule="knowledge_inheritance",
            soft_weight_schedule_kwargs={"until": 0.8},
        )
        for steps in (1, 4)
    )
    for run in (single, grouped):
        run.train()
    for number, entry in enumerate(e for e in grouped.state.log_history if "grad_norm" in e):
        window = single.state.log_history[4 * number : 4 * number + 4]
        for name in ("loss", "hard_loss", "soft_weight", "hard_weight"):
            assert entry[name] == pytest.approx(np.mean([e.get(name, 1.0 if name[0] == "h" else 0.0) for e in window]))
        for name in ("soft_loss", "agreement"):  # over the steps in which the teacher spoke
            assert entry[name] == pytest.approx(np.mean([e[name] for e in window if name in e]))
    assert "soft_loss" not in single.state.log_history[7] and "soft_loss" in single.state.log_history[6]


# ---- evaluation ----


@pytest.mark.parametrize("size", [1, 3, 40])
def test_evaluation_counts_rows_however_examples_are_batched(size: int, tmp_path: Path) -> None:
    student, teacher, examples = tiny("bert"), tiny("bert", seed=1), ragged_examples()
    run = trainer(student, teacher, tmp_path, per_device_eval_batch_size=size)
    metrics = run.evaluate(examples)
    expected = reference_loss(student, examples)
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    assert metrics["eval_teacher_loss"] == pytest.approx(reference_loss(teacher, examples), rel=1e-5)
    assert metrics["eval_teacher_accuracy"] == trainer(teacher, None, tmp_path).evaluate(examples)["eval_accuracy"]
    per_batch = [student(**pad(examples[start : start + 3])).loss.item() for start in range(0, 40, 3)]
    assert abs(np.mean(per_batch) - expected) > 1e-4  # what a mean over batches would say


def test_evaluation_without_a_teacher_says_nothing_of_one(tmp_path: Path) -> None:
    metrics = trainer(tiny("bert"), None, tmp_path).evaluate(ragged_examples())
    assert {"eval_loss", "eval_perplexity", "eval_accuracy"} <= metrics.keys()
    assert not any("teacher" in name or "soft" in name for name in metrics)


def test_a_metric_of_the_teacher_chooses_the_best_model(tmp_path: Path) -> None:
    run = trainer(
        tiny("bert"),
        tiny("bert", seed=1),
        tmp_path,
        more={"eval_dataset": {"a": ragged_examples(8), "b": ragged_examples(8, seed=2)}},
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        max_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="eval_b_soft_loss",
        greater_is_better=False,
    )
    run.train()
    seen = [entry["eval_b_soft_loss"] for entry in run.state.log_history if "eval_b_soft_loss" in entry]
    assert len(seen) == 2 and run.state.best_metric == min(seen)


def test_compute_metrics_and_predict_see_the_logits_of_all_positions(tmp_path: Path) -> None:
    seen = {}

    def metrics(prediction: Any) -> dict[str, float]:
        seen["logits"], seen["labels"] = prediction.predictions, prediction.label_ids
        return {"accuracy": -1.0, "loss": -1.0}

    model, examples = tiny("bert"), ragged_examples(8)
    run = trainer(
        model,
        tiny("bert", seed=1),
        tmp_path,
        more={"compute_metrics": metrics, "preprocess_logits_for_metrics": lambda logits, labels: 2 * logits},
    )
    found = run.evaluate(examples)
    expected = model(**pad(examples)).logits.detach().numpy()
    np.testing.assert_allclose(seen["logits"], 2 * expected, rtol=1e-4, atol=1e-4)
    assert seen["logits"].shape == (8, max(len(e["labels"]) for e in examples), VOCAB)
    assert found["eval_accuracy"] == -1.0  # the user's stands
    assert found["eval_loss"] == pytest.approx(reference_loss(model, examples), rel=1e-5)  # but for the loss
    predicted = run.predict(examples)
    np.testing.assert_allclose(predicted.predictions, 2 * expected, rtol=1e-4, atol=1e-4)
    assert predicted.metrics["test_loss"] == pytest.approx(found["eval_loss"])


def test_predict_without_labels(tmp_path: Path) -> None:
    examples = [{"input_ids": e["input_ids"][:4]} for e in ragged_examples(8)]
    model = tiny("bert")
    run = trainer(model, tiny("bert", seed=1), tmp_path, more={"data_collator": None}, train_dataset=examples)
    predicted = run.predict(examples)
    expected = model(torch.tensor([e["input_ids"] for e in examples])).logits.detach().numpy()
    np.testing.assert_allclose(predicted.predictions, expected, rtol=1e-4, atol=1e-4)


def masking(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A collator that draws its masks anew each time, from the global generator."""
    batch = pad(examples)
    batch["labels"] = batch["input_ids"].masked_fill(torch.rand(batch["input_ids"].shape) < 0.6, -100)
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["labels"] != -100, 4)
    return batch


def test_every_evaluation_sees_the_same_masks_and_leaves_training_alone(tmp_path: Path) -> None:
    runs = []
    for settings in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        run = trainer(
            tiny("bert", hidden_dropout_prob=0.1),
            tiny("bert", seed=1),
            tmp_path,
            more={"data_collator": masking, "eval_dataset": ragged_examples(8, seed=9)},
            train_sampling_strategy="random",
            **settings,
        )
        run.train()
        runs.append(run)
    assert mean_loss(runs[0]) == mean_loss(runs[1])
    teacher_losses = {e["eval_teacher_loss"] for e in runs[1].state.log_history if "eval_teacher_loss" in e}
    assert len(teacher_losses) == 1
    runs[1].args.seed += 1
    assert runs[1].evaluate()["eval_teacher_loss"] not in teacher_losses


def test_a_stock_collator_for_sequence_to_sequence(tmp_path: Path) -> None:
    class Padder:
        """As much of a tokenizer as the collator asks for."""

        padding_side = "right"

        def pad(self, features: list[dict[str, Any]], **_: Any) -> dict[str, torch.Tensor]:
            return {
                k: v
                for k, v in pad([{**f, "labels": [0] * len(f["input_ids"])} for f in features]).items()
                if k != "labels"
            }

    model = tiny("t5")
    collator = DataCollatorForSeq2Seq(Padder(), model=model)  # type: ignore[arg-type]
    batch = collator([dict(e) for e in ragged_examples(4)])
    run = trainer(model, tiny("t5", seed=1), tmp_path, soft_weight_schedule="constant")
    expected = run.compute_loss(model.train(), {k: v for k, v in batch.items() if k != "decoder_input_ids"})
    assert "decoder_input_ids" in batch
    assert run.compute_loss(model, dict(batch)).item() == pytest.approx(expected.item(), rel=1e-6)
