"""Attribution: products of gradients as autograd makes them, whatever the batches; and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DataCollatorForLanguageModeling,
    Gemma2Config,
    Gemma2ForCausalLM,
    PreTrainedModel,
)

from hf_dwt.attribution import Attribution, all_parameters, attribute
from hf_dwt.attribution import head as head_form
from hf_dwt.data import TeacherProposals
from hf_dwt.errors import ArgumentError, DistillationError, SetupError, problems_of
from hf_dwt.tasks import find_task
from hf_dwt.tuning import DualSparse

from .models import DECODER, ENCODER, VOCAB, randomise, tiny
from .test_stage_builders import tokenizer
from .training import Example, pad, ragged_examples, trainer


def queries_of(examples: list[Example]) -> list[Example]:
    return [one for one in examples if any(label != -100 for label in one["labels"])]


TRAIN, QUERIES = ragged_examples(14), queries_of(ragged_examples(5, seed=1))


def gradients(model: nn.Module, examples: list[Example], parameters: Any) -> torch.Tensor:
    """(examples, numbers) gradients of each example's summed loss, from logits of all positions."""
    shifts, rows = find_task(model).shifts, []
    for example in examples:
        batch = pad([example])
        labels = batch.pop("labels")[0]
        logits = model(**batch).logits[0]
        logits, labels = (logits[:-1], labels[1:]) if shifts else (logits, labels)
        loss = nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        rows.append(torch.cat([g.flatten() for g in grads if g is not None]))
    return torch.stack(rows)


class HeadOnly(nn.Module):
    """The head of a model with a weight of its own, so that the embeddings it is tied to get no gradient."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(head.weight.detach().clone())
        self.bias = head.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(hidden, self.weight, self.bias)


def expected(model: nn.Module, train: list[Example], queries: list[Example]) -> np.ndarray:
    own: Any = model
    head = own.get_output_embeddings()
    alone = HeadOnly(head)
    own.set_output_embeddings(alone)
    try:
        found = gradients(model, train, [alone.weight]) @ gradients(model, queries, [alone.weight]).T
    finally:
        own.set_output_embeddings(head)
    return found.detach().numpy()


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return float(np.abs(wanted).max()) > 0.1 and np.allclose(
        found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max()
    )


def capped() -> PreTrainedModel:
    """Of a small model, with a softcap and no tie."""
    values = {**DECODER, "head_dim": 4, "final_logit_softcapping": 0.5, "query_pre_attn_scalar": 4}
    config = Gemma2Config(**values, tie_word_embeddings=False)
    return randomise(Gemma2ForCausalLM(config)).eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "masked, tied": lambda: tiny("bert"),
    "masked, untied": lambda: tiny("bert", tie_word_embeddings=False),
    "causal, tied": lambda: tiny("llama", tie_word_embeddings=True),
    "causal, untied": lambda: tiny("llama"),
    "softcap": capped,
}


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_dot_products_of_gradients(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one checkpoint without a base; in one pass, and in passes of a few rows of the queries."""
    model = MODELS[name]()
    wanted = expected(model, TRAIN, QUERIES)
    run = trainer(model, None, tmp_path, train_dataset=TRAIN)
    found = attribute(run, QUERIES)
    assert close(found.scores, wanted)
    shift = int(find_task(model).shifts)
    assert found.rows.tolist() == [sum(label != -100 for label in one["labels"][shift:]) for one in TRAIN]
    monkeypatch.setattr(head_form, "BYTES_OF_SLOPES", 4 * VOCAB * 3)
    assert close(attribute(run, QUERIES).scores, wanted)


@pytest.mark.parametrize("name", ["masked, tied", "causal, untied", "classes"])
def test_scores_of_all_parameters_are_dot_products_of_gradients(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are trained alone; of a model whose classes are no vocabulary, too."""
    model = tiny("bert-token-classification") if name == "classes" else MODELS[name]()
    train = ragged_examples(6, classes=3 if name == "classes" else VOCAB)
    first = list(model.parameters())[1].requires_grad_(False)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wanted = (gradients(model, train, learning) @ gradients(model, queries_of(train)[:3], learning).T).numpy()
    run = trainer(model, None, tmp_path, train_dataset=train)
    monkeypatch.setattr(all_parameters, "BYTES_OF_GRADIENTS", 1)
    assert close(attribute(run, queries_of(train)[:3], rows="all").scores, wanted)
    assert not first.requires_grad and all(parameter.requires_grad for parameter in learning)


def test_scores_depend_on_no_batch_no_order_and_no_dropout(tmp_path: Path) -> None:
    """With masks that a collator draws: those of an example are the same whatever is beside it."""
    dropout = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    collator = DataCollatorForLanguageModeling(tokenizer(), mlm_probability=0.4)
    text = [{"input_ids": one["input_ids"], "labels": [1]} for one in ragged_examples(14)]

    def scores(model: PreTrainedModel, examples: list[Any], size: int) -> np.ndarray:
        more = {"data_collator": collator}
        settings: Any = {"train_dataset": examples, "per_device_eval_batch_size": size, "more": more}
        run = trainer(model.train(), None, tmp_path, **settings)
        torch.rand(size)
        return attribute(run, QUERIES).scores

    found = scores(tiny("bert", **dropout), text, 3)
    assert np.allclose(scores(tiny("bert"), text, 8), found, rtol=1e-4, atol=1e-4) and found.std() > 0.1
    assert np.allclose(scores(tiny("bert"), text[::-1], 3)[::-1], found, rtol=1e-4, atol=1e-4)


def test_checkpoints_are_joined_and_a_base_is_subtracted(tmp_path: Path) -> None:
    """Nothing of the user's changes: the model's weights and mode, and the random state."""
    settings: Any = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 1e-2}
    run = trainer(tiny("bert"), None, tmp_path / "run", train_dataset=TRAIN, **settings)
    run.train()
    models = [BertForMaskedLM.from_pretrained(tmp_path / "run" / f"checkpoint-{step}") for step in (2, 4)]
    each = [expected(model, TRAIN, QUERIES) for model in models]
    before, weights, state = expected(tiny("bert"), TRAIN, QUERIES), flat(run.model), torch.get_rng_state()
    run.model.train()
    folder = str(tmp_path / "run")
    assert close(attribute(run, QUERIES, checkpoints=folder).scores, (each[0] + each[1]) / 2)
    assert close(attribute(run, QUERIES, checkpoints=folder, denoise=None).scores, each[1])
    assert close(attribute(run, QUERIES, checkpoints=[f"{folder}/checkpoint-2"]).scores, each[0])
    tiny("bert").save_pretrained(tmp_path / "before")
    for base in (tiny("bert"), tmp_path / "before"):
        assert close(attribute(run, QUERIES, base=base, debias=0.5).scores, each[1] - 0.5 * before)
    assert close(attribute(run, QUERIES, base=base, debias=-1.0).scores, each[1] + before)
    assert run.model.training and torch.equal(flat(run.model), weights) and torch.equal(torch.get_rng_state(), state)


def test_checkpoints_of_an_adapter_are_those_of_the_run(tmp_path: Path) -> None:
    """Of a student that no folder has: at the last checkpoint scores are those of the student as it is."""
    settings: Any = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "learning_rate": 1e-2}
    tuning = DualSparse(rank=2, residual=2)
    run = trainer(tuning.attach(tiny("bert")), None, tmp_path / "run", train_dataset=TRAIN, **settings)
    run.train()
    names = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    parameters = [parameter for name, parameter in run.model.named_parameters() if name in names]
    wanted = gradients(run.model.eval(), TRAIN, parameters) @ gradients(run.model, QUERIES, parameters).T
    folder, weights = tmp_path / "run", flat(run.model)
    assert close(attribute(run, QUERIES, rows="all").scores, wanted.detach().numpy())
    for rows in ("all", "head"):
        last, now = (
            attribute(run, QUERIES, rows=rows, checkpoints=given, denoise=None).scores for given in (folder, None)
        )
        assert np.abs(now).max() > 0.1 and np.allclose(last, now, rtol=1e-5)
        first = attribute(run, QUERIES, rows=rows, checkpoints=folder / "checkpoint-1").scores
        assert not np.allclose(first, now, rtol=1e-3)
    assert torch.equal(flat(run.model), weights)
    text = refused(lambda: attribute(run, QUERIES, rows="all", base=tiny("bert"), debias=1.0))
    assert re.search("rows='all': .*BertForMaskedLM.*has no base_model", text)
    other = DualSparse(rank=2, residual=2, support="random", seed=1).attach(tiny("bert"))
    run = trainer(other, None, tmp_path / "other", train_dataset=TRAIN, **settings)
    text = refused(lambda: attribute(run, QUERIES, checkpoints=folder))
    assert re.search("checkpoints=.*not the student's.*other places", text)


def test_text_that_a_teacher_makes_is_not_scored(tmp_path: Path) -> None:
    """What it draws is no truth: scores are those of the plain collator."""
    plain = DataCollatorForLanguageModeling(tokenizer())
    made = TeacherProposals(plain, tiny("bert"), share=1, choose="random")
    text = [{"input_ids": one["input_ids"]} for one in TRAIN]
    found = []
    for collator in (plain, made):
        run = trainer(
            tiny("bert", seed=1), tiny("bert"), tmp_path, train_dataset=text, more={"data_collator": collator}
        )
        found.append(attribute(run, QUERIES).scores)
    assert np.array_equal(*found) and found[0].std() > 0.1


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_what_was_found_is_read_by_shares_and_as_a_table() -> None:
    found = Attribution(np.array([[0.0, 2.0], [9.0, -9.0], [1.0, 3.0], [-1.0, -1.0]]), np.array([1, 2, 3, 4]))
    assert found.top(0.5) == [2, 0] and found.rest(0.5) == [1, 3] and found.top(0.01) == [2] and not found.rest(1)
    lines = found.table(2, show=lambda index: f"text | {index}").splitlines()
    assert (
        len(lines) == 4 and lines[2] == "| 2 | 2 | 1 | 3 | text \\| 2 |" and lines[3].startswith("| 0 | 1 | 1 | 1 |")
    )
    with pytest.raises(SetupError, match=r"(?s)count='5'.*show='text'"):
        found.table("5", show="text")  # type: ignore[arg-type]
    for share in (0, -0.1, 1.1, True, "0.5", float("nan")):
        with pytest.raises(ArgumentError, match=r"share.*Give a number above 0 to 1"):
            found.top(share)  # type: ignore[arg-type]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(DistillationError) as raised:
        call()
    return "\n".join(f"{type(one).__name__} {one}" for one in problems_of(raised.value))


def test_what_cannot_be_attributed_is_refused_before_work_begins(tmp_path: Path) -> None:
    settings: Any = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    run = trainer(tiny("bert"), None, tmp_path / "run", train_dataset=TRAIN, **settings)
    trainer(tiny("bert"), None, tmp_path / "seed", train_dataset=TRAIN, seed=7, **settings).train()
    wider = tiny("bert", intermediate_size=64)
    trainer(wider, None, tmp_path / "wider", train_dataset=TRAIN, **settings).train()
    (tmp_path / "empty").mkdir()

    def says(*patterns: str, queries: Any = QUERIES, run: Any = run, **arguments: Any) -> None:
        text = refused(lambda: attribute(run, queries, **arguments))
        assert all(re.search(pattern, text) for pattern in patterns), text

    says("ArgumentError checkpoints=.*seed.*another run: seed: 7 there", checkpoints=tmp_path / "seed")
    says("another architecture: intermediate_size 64, not 32", checkpoints=[tmp_path / "wider"])
    says("checkpoints=.*neither a whole checkpoint", checkpoints=tmp_path / "empty")
    says(
        "checkpoints=.*does not exist",
        "rows='tail'",
        "denoise='median'",
        "debias='1'",
        queries=[],
        checkpoints="nowhere",
        rows="tail",
        denoise="median",
        debias="1",
    )
    says("DataError queries=.*no examples", queries=[])
    says("debias=1.0: has nothing to be a factor of", debias=1.0)
    says("base=.*has no effect", base=tiny("bert"))
    says("base=.*is a model for text-generation", base=tiny("llama"), debias=1.0)
    says("base=.*no model", base=3, debias=1.0)
    says(
        r"DataError queries=.*no labelled position at \[1\]",
        queries=[QUERIES[0], {"input_ids": [5, 6], "labels": [-100, -100]}],
    )
    says(
        "DataError queries=.*has no labels",
        queries=[{"input_ids": [5, 6]}],
        run=trainer(tiny("bert"), None, tmp_path, train_dataset=TRAIN, more={"data_collator": without_labels}),
    )
    says("DataError queries=.*no labels at 1, and others", queries=[QUERIES[0], {"input_ids": [5, 6]}])
    says("DataError queries='dict': is one example", queries=dict(QUERIES[0]))
    says(
        "DataError queries='example 1': has 3 labels for 2 tokens",
        queries=[QUERIES[0], {"input_ids": [5, 6], "labels": [5, 6, 7]}],
    )
    says("DataError queries=.*cannot be made a batch by function from str: TypeError", queries=["text"])
    says("queries=.*labels from 64 to 64", queries=[{"input_ids": [5], "labels": [64]}], rows="all")
    says("queries=.*input_ids from 64 to 64", queries=[{"input_ids": [64], "labels": [5]}])
    says(
        "ArgumentError checkpoints='BertForMaskedLM': are no folders",
        "rows=.'head'.",
        checkpoints=wider,
        rows=["head"],
    )
    cut = tmp_path / "seed" / "checkpoint-1" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:9])
    own = trainer(tiny("bert"), None, tmp_path / "run", train_dataset=TRAIN, seed=7, **settings)
    says("TeacherError checkpoints=.*could not be loaded", run=own, checkpoints=tmp_path / "seed")
    (cut.parent / "config.json").write_text("{")
    says("ArgumentError checkpoints=.*config that cannot be read", run=own, checkpoints=tmp_path / "seed")
    says("ArgumentError trainer=.*is no DistillationTrainer", run=3)
    numbers = [{**one, "labels": 0.5} for one in TRAIN]
    regression = BertForSequenceClassification(BertConfig(**ENCODER, num_labels=1))
    says("TaskError trainer=.*exclusive classes", run=trainer(regression, None, tmp_path, train_dataset=numbers))
    model = tiny("bert-token-classification")
    labelled = ragged_examples(8, classes=3)
    says(
        "TaskError rows='head': needs a linear head.*token-classification",
        queries=queries_of(labelled),
        run=trainer(model, None, tmp_path, train_dataset=labelled),
    )
    model = tiny("bert")
    model.cls.predictions.decoder = Doubled(16, VOCAB)
    says("TaskError rows='head'.*no linear map", run=trainer(model, None, tmp_path, train_dataset=TRAIN))


class Doubled(nn.Linear):
    """A head whose weight is not all that it multiplies with."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(hidden)


def without_labels(examples: list[Any]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([one["input_ids"] for one in examples])}
