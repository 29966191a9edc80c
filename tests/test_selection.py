"""Which examples are chosen: scores as computed by hand, marks that the trainer reads, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from transformers import PreTrainedModel

from hf_dwt.attribution import Attribution
from hf_dwt.data import select, selection
from hf_dwt.data.scoring import Scorer
from hf_dwt.errors import DistillationError, problems_of
from hf_dwt.forward.rows import SOFT

from .models import tiny
from .training import history, pad, ragged_examples, trainer

EXAMPLES = ragged_examples(16, share=0.8)


def padded(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """With the mark, where examples have it."""
    batch = pad(examples)
    return batch | ({SOFT: torch.tensor([one[SOFT] for one in examples])} if SOFT in examples[0] else {})


def by_hand(teacher: PreTrainedModel, student: PreTrainedModel, k: int) -> dict[str, list[float]]:
    """Criterion -> score of each example, one at a time and from all logits."""
    found: dict[str, list[float]] = {"salt": [], "disagreement": []}
    for example in EXAMPLES:
        batch = pad([example])
        labels = batch.pop("labels")[0]
        with torch.no_grad():
            own, other = (model(**batch).logits[0].log_softmax(-1) for model in (teacher, student))
        kept = (labels != -100).nonzero()[:, 0].tolist()
        losses = [-own[at, labels[at]].item() for at in kept if labels[at] in own[at].topk(k).indices]
        distances = [(own[at].exp() * (own[at] - other[at])).sum().item() for at in kept]
        found["salt"].append(float(np.median(losses)) if losses else -np.inf)
        found["disagreement"].append(float(np.mean(distances)) if distances else -np.inf)
    return found


def test_the_examples_with_the_highest_scores_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed once for a data set in a file, however often it is asked; anew for another teacher."""
    teacher, student = tiny("bert"), tiny("bert", seed=1)
    Dataset.from_list(EXAMPLES).save_to_disk(tmp_path / "data")
    dataset = load_from_disk(tmp_path / "data")
    calls: list[int] = []
    rows = Scorer._row_scores
    monkeypatch.setattr(Scorer, "_row_scores", lambda *a: calls.append(1) or rows(*a))
    for by, more in {"salt": {"by_kwargs": {"k": 20}}, "disagreement": {"student": student}}.items():
        wanted = by_hand(teacher, student, 20)[by]
        best = set(np.argsort(-np.array(wanted), kind="stable")[:6].tolist())
        assert len(set(wanted)) > 8
        arguments: Any = {"by": by, "share": 0.4, "data_collator": padded, "batch_size": 3, **more}
        marked = select(dataset, teacher, **arguments)
        assert [index for index, mark in enumerate(marked[SOFT]) if mark] == sorted(best)
        assert marked.remove_columns(SOFT)[:] == dataset[:]
        ran = len(calls)
        assert select(dataset, teacher, drop=True, **arguments)[:] == dataset.select(sorted(best))[:]
        assert len(calls) == ran > 0
        select(dataset, tiny("bert", seed=2), **arguments)
        assert len(calls) > ran


def test_scores_may_come_from_elsewhere() -> None:
    dataset = Dataset.from_list(EXAMPLES[:4])
    numbers = [0.5, 3.0, -1.0, 2.0]
    found = Attribution(np.array(numbers)[:, None] * [[0.5, 1.5]], np.ones(4))
    for by in (numbers, np.array(numbers), torch.tensor(numbers), found, lambda data: numbers[: len(data)]):
        assert select(dataset, by=by, share=0.5)[SOFT] == [False, True, False, True]
    assert select(dataset, by=numbers, share=0.5, drop=True)[:] == dataset.select([1, 3])[:]


def test_the_teacher_supervises_the_marked_examples_alone(tmp_path: Path) -> None:
    """A run on a data set of which half is marked: soft terms of the other half are 0, hard ones stay."""
    dataset = Dataset.from_list([one for one in EXAMPLES if any(label != -100 for label in one["labels"])][:8])
    settings: Any = {"max_steps": 1, "soft_weight_schedule": "constant", "more": {"data_collator": padded}}

    def losses(data: Any) -> tuple[float, ...]:
        run = trainer(tiny("bert", seed=1), tiny("bert"), tmp_path, train_dataset=data, **settings)
        run.train()
        return history(run, "hard_loss", "soft_loss")[0]

    whole = losses(dataset)
    first = losses(select(dataset, by=[1, 1, 1, 0, 0, 0, 0, 0], share=3 / 8))
    rest = losses(select(dataset, by=[0, 0, 0, 1, 1, 1, 1, 1], share=5 / 8))
    assert first[0] == rest[0] == whole[0] and first[1] + rest[1] == pytest.approx(whole[1], rel=1e-5)
    assert 0.1 * whole[1] < first[1] < 0.9 * whole[1]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(DistillationError) as raised:
        call()
    return "\n".join(f"{type(one).__name__} {one}" for one in problems_of(raised.value))


def test_what_cannot_be_chosen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a model is loaded or run."""
    monkeypatch.setattr(selection, "load_teacher", None)
    dataset, bert = Dataset.from_list(EXAMPLES[:4]), tiny("bert")
    marked = select(dataset, by=[1, 2, 3, 4])

    def says(*patterns: str, data: Any = dataset, teacher: Any = bert, **arguments: Any) -> None:
        text = refused(lambda: select(data, teacher, **arguments))
        assert all(re.search(pattern, text) for pattern in patterns), text

    says(
        "DataError dataset=",
        "ArgumentError share=1.5",
        "by='salty'.*Did you mean 'salt'",
        "drop='no'",
        "batch_size=0",
        data=EXAMPLES,
        share=1.5,
        by="salty",
        drop="no",
        batch_size=0,
    )
    says("share=0: is no share", share=0)
    says("DataError dataset=.*no examples", data=dataset.select([]))
    says("DataError soft_row_weight=.*there already", data=marked, by=[1, 2, 3, 4])
    says(r"by_kwargs\['k'\]=0", by_kwargs={"k": 0})
    says(r"by_kwargs\['k'\]=2.5", by_kwargs={"k": 2.5})
    says("by_kwargs=.*unexpected keyword", by_kwargs={"top": 3})
    says("by_kwargs=.*no criterion", by=[1, 2, 3, 4], by_kwargs={"k": 3})
    says("ArgumentError teacher=None: is needed", teacher=None)
    says("student='NoneType': is needed", by="disagreement")
    says("student='a model': has no effect", student=bert)
    says(r"by=.*scores of shape \(3,\) for 4 examples", by=lambda data: [1, 2, 3])
    says(r"scores of shape \(4, 1\) for 4", by=np.ones((4, 1)))
    says("by=.*gives NaN, for example 1", by=[1.0, float("nan"), 0, 0])
    says("by=.*no numbers", by=lambda data: ["a"] * 4)
    says("by=.*raised KeyError", by=lambda data: {}["score"])
    says("by_kwargs='k=3': are no parameters by name", by_kwargs="k=3")
    says("student='a model': has no effect", by=[1, 2, 3, 4], student=bert)


def test_what_cannot_be_scored_is_refused() -> None:
    """Where only the models and the examples tell."""
    dataset, bert = Dataset.from_list(EXAMPLES[:4]), tiny("bert")

    def says(pattern: str, teacher: Any = bert, data: Any = dataset, **arguments: Any) -> None:
        text = refused(lambda: select(data, teacher, data_collator=padded, **arguments))
        assert re.search(pattern, text), text

    says("student='LlamaForCausalLM': is a model for text-gen", by="disagreement", student=tiny("llama"))
    small = tiny("bert", vocab_size=5)
    says("VocabularyError student='BertForMaskedLM': knows 5 tokens.*id 63", by="disagreement", student=small)
    broken = tiny("bert")
    with torch.no_grad():
        broken.cls.predictions.bias.fill_(torch.nan)
    says("TeacherError teacher='BertForMaskedLM': predicts NaN", teacher=broken)
    says("DataError dataset=.*no column that models read: KeyError", data=Dataset.from_list([{"text": "a"}]))
    says("teacher='no/such/folder': shows no task: there is no model", teacher="no/such/folder")
