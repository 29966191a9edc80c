"""A teacher that ran elsewhere teaches what the same model teaches that is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import DataCollatorWithFlattening, PreTrainedModel

from hf_dwt import DistillationTrainer
from hf_dwt.data.columns import ColumnCollator
from hf_dwt.errors import ArgumentError, CacheError, DataError, DistillationError, TeacherError
from hf_dwt.forward.rows import select_rows
from hf_dwt.objective import Targets
from hf_dwt.objective.sparse import TopK
from hf_dwt.teachers.columns import ColumnTeacher
from hf_dwt.teachers.several import SeveralTeachers

from .models import VOCAB, randomise, tiny
from .training import arguments, history, pad, ragged_examples, trainer

IDS, LOGPROBS = "teacher_ids", "teacher_logprobs"
FIGURES = ("loss", "grad_norm", "soft_loss", "agreement")


def teacher_of(name: str) -> PreTrainedModel:
    return randomise(tiny(name, seed=1), seed=5, scale=0.3)


@torch.no_grad()
def log_probs(model: PreTrainedModel, example: dict[str, Any]) -> torch.Tensor:
    """(L, V) of each position, of an example by itself."""
    logits: torch.Tensor = model(input_ids=torch.tensor([example["input_ids"]])).logits[0]
    return F.log_softmax(logits.double(), -1).float()


def with_columns(
    name: str,
    examples: list[dict[str, Any]],
    k: Callable[[int], int],
    aligned: str = "label",
) -> list[dict[str, Any]]:
    """Examples with the k(i) most likely classes of the i-th token, in no order; k = 0 is None."""
    model, ahead = teacher_of(name), aligned == "label" and name != "bert"
    found = []
    for example in examples:
        entries: list[Any] = []
        for number, row in enumerate(log_probs(model, example)):
            top = row.topk(k(number))
            places = torch.randperm(len(top.indices), generator=torch.Generator().manual_seed(number))
            entries.append((top.indices[places].tolist(), top.values[places].tolist()) if k(number) else (None, None))
        entries = [(None, None), *entries[:-1]] if ahead else entries
        found.append({**example, IDS: [ids for ids, _ in entries], LOGPROBS: [values for _, values in entries]})
    return found


def pad_left(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """As `pad`, on the other side."""
    turned = pad([{name: value[::-1] for name, value in example.items()} for example in examples])
    return {name: value.flip(1) for name, value in turned.items()}


def run_of(out: Path, name: str, teacher: Any, examples: list[dict[str, Any]], **settings: Any) -> DistillationTrainer:
    more = {"data_collator": settings.pop("collator", pad), **settings.pop("more", {})}
    defaults = {"soft_weight_schedule": "constant", "hard_weight": 0.5}
    return trainer(tiny(name), teacher, out, train_dataset=examples, more=more, **{**defaults, **settings})


def trained(*args: Any, **settings: Any) -> DistillationTrainer:
    run = run_of(*args, **settings)
    run.train()
    return run


def figures(run: DistillationTrainer) -> np.ndarray:
    found = np.array(history(run, *FIGURES))
    assert len(found) >= 5 and found[:, :3].min() > 1e-3
    return found


def weights(run: DistillationTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


# ---- exactness ----


@pytest.mark.parametrize("aligned", ["label", "position"])
@pytest.mark.parametrize(("name", "collator"), [("gpt2", pad), ("qwen3", pad_left), ("bert", pad_left)])
def test_all_classes_teach_what_the_model_teaches(name: str, collator: Any, aligned: str, tmp_path: Path) -> None:
    examples = ragged_examples()
    columns = with_columns(name, examples, lambda _: VOCAB, aligned)
    settings: dict[str, Any] = {"collator": collator}
    live = trained(tmp_path, name, teacher_of(name), examples, **settings)
    read = trained(tmp_path, name, ColumnTeacher(aligned=aligned), columns, **settings)
    assert np.allclose(figures(read), figures(live), rtol=2e-6, atol=1e-6)
    assert torch.allclose(weights(read), weights(live), atol=1e-6)
    margins = np.array(history(read, "teacher_margin")), np.array(history(live, "teacher_margin"))
    assert np.allclose(*margins, atol=2e-6) and abs(margins[0]).min() > 1e-2
