"""Ways of transformers to pad less leave the loss of every row as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorWithFlattening

from hf_dwt import DistillationTrainer

from .models import tiny
from .test_cache import masked, run_of
from .training import pad, ragged_examples, trainer


def epoch(run: DistillationTrainer) -> tuple[float, int, int]:
    """Over the batches of the first epoch: the sum of the loss, the rows, and all positions, padding among them."""
    run.state.epoch, run.state.global_step = 0.0, 0
    batches = list(run.get_train_dataloader())
    with torch.no_grad():
        loss = sum(float(run.compute_loss(run.model.train(), dict(batch), num_items_in_batch=1)) for batch in batches)
    return (
        loss,
        sum(int((batch["labels"] != -100).sum()) for batch in batches),
        sum(batch["labels"].numel() for batch in batches),
    )


def test_batches_of_one_length_find_their_masks_and_their_cached_targets(tmp_path: Path) -> None:
    """The same sums from less padding, whether masks are drawn and the teacher read from its cache or not."""
    found = {}
    for strategy in ("random", "group_by_length"):
        run = run_of(
            tmp_path,
            tmp_path / "cache",
            collator=masked,
            train_sampling_strategy=strategy,
            per_device_train_batch_size=4,
            learning_rate=0.0,
            max_steps=1,
            teacher_cache_epochs=1,
            train_dataset=ragged_examples(64),
        )
        run.train()
        assert run.cached_teacher is not None
        found[strategy] = epoch(run)
    (loss, rows, positions), (same_loss, same_rows, fewer) = found.values()
    assert same_loss == pytest.approx(loss, rel=1e-5) and same_rows == rows and fewer < 0.9 * positions


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_causal_batches_without_padding_have_the_same_loss(name: str, tmp_path: Path) -> None:
    examples = ragged_examples(16, share=1)
    found = {}
    collators: dict[str, Any] = {
        "padded": pad,
        "flattened": DataCollatorWithFlattening(),
        "without positions": DataCollatorWithFlattening(return_position_ids=False),
    }
    for key, collator in collators.items():
        more = {"data_collator": collator}
        models = (tiny(name, seed=seed, max_position_embeddings=256) for seed in (0, 1))
        found[key] = epoch(
            trainer(*models, tmp_path, train_dataset=examples, soft_weight_schedule="constant", more=more)
        )
    loss, _, positions = found["padded"]
    assert found["flattened"][0] == pytest.approx(loss, rel=5e-6) and found["flattened"][2] < positions
    assert found["without positions"][0] != pytest.approx(loss, rel=5e-5)


@pytest.mark.parametrize("when", ["by argument", "by config"])
def test_a_cache_of_keys_and_values_joins_no_examples(when: str, tmp_path: Path) -> None:
    """Beside one, transformers looks for no bounds between examples: a teacher that is the student says the same."""
    examples, more = ragged_examples(16, share=1), {"data_collator": DataCollatorWithFlattening()}
    student, teacher = (tiny("qwen3", max_position_embeddings=256) for _ in range(2))
    run = trainer(
        student,
        teacher,
        tmp_path,
        train_dataset=examples,
        soft_weight_schedule="constant",
        more=more,
        use_cache=when == "by argument",
    )
    student.config.use_cache = teacher.config.use_cache = True
    batch = next(iter(run.get_train_dataloader()))
    joined = student.train()(**batch).loss.item()
    rows = run._rows(batch)
    targets, weights = run.teacher.targets(batch, rows), run._weights(0)
    _, terms = run._run_student(
        student, batch, rows, lambda logits, _: run._terms(logits, rows, targets, weights, None), False
    )
    assert terms["soft_loss"].item() == pytest.approx(0.0, abs=1e-5)
    alone = run.compute_loss(student, dict(batch)).item()
    assert (
        terms["hard_loss"].item() / len(rows.labels)
        == pytest.approx(alone, rel=1e-6)
        != pytest.approx(joined, rel=1e-4)
    )
    assert student.config.use_cache and teacher.config.use_cache
