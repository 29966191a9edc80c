"""What is drawn for an example in evaluation is the same beside whichever others, whatever the collator draws with."""

import logging
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from hf_dwt.batches.collation import ExampleCollator
from hf_dwt.batches.row_draws import RowDraws

from .training import pad, ragged_examples

TOKENIZER = AutoTokenizer.from_pretrained(str(Path(__file__).parents[1] / "examples" / "data" / "weak_teacher"))
Batch = dict[str, torch.Tensor]


def left(examples: list[Any]) -> Batch:
    """As `pad`, with the padding in front."""
    batch, longest = pad(examples), max(len(one["input_ids"]) for one in examples)
    shifts = [longest - len(one["input_ids"]) for one in examples]
    return {k: torch.stack([row.roll(n) for row, n in zip(v, shifts, strict=True)]) for k, v in batch.items()}


def hidden(batch: Batch, drawn: torch.Tensor) -> Batch:
    batch["labels"] = batch["input_ids"].masked_fill(~drawn | (batch["attention_mask"] == 0), -100)
    batch["input_ids"] = batch["input_ids"].masked_fill(drawn & (batch["attention_mask"] > 0), 4)
    return batch


def by_rand(examples: list[Any]) -> Batch:
    batch = pad(examples)
    return hidden(batch, torch.rand(batch["input_ids"].shape) < 0.5)


def by_rand_like(examples: list[Any]) -> Batch:
    batch = pad(examples)
    return hidden(batch, torch.rand_like(batch["input_ids"], dtype=torch.float, device="cpu") < 0.5)


def by_row(examples: list[Any]) -> Batch:
    batch = pad(examples)
    return hidden(batch, torch.rand(len(examples), 1) < torch.rand(*batch["input_ids"].shape))


def by_numpy(examples: list[Any]) -> Batch:
    batch = pad(examples)
    return hidden(batch, torch.from_numpy(np.random.rand(*batch["input_ids"].shape)) < 0.5)


def by_python(examples: list[Any]) -> Batch:
    for one in examples:
        drawn = [random.random() < 0.5 for _ in one.pop("labels")]  # takes a column out of the example itself
        one["labels"] = [token if kept else -100 for token, kept in zip(one["input_ids"], drawn, strict=True)]
    return pad(examples)


def of_the_batch(examples: list[Any]) -> Batch:
    """Draws one number for the whole batch, and then each row."""
    batch = pad(examples)
    return hidden(batch, torch.rand(batch["input_ids"].shape) < torch.rand(()))


def from_the_left(examples: list[Any]) -> Batch:
    batch = left(examples)
    return hidden(batch, torch.rand(batch["input_ids"].shape) < 0.5)


def until_some(examples: list[Any]) -> Batch:
    """Draws again where nothing was drawn: how often depends on the batch."""
    batch = pad(examples)
    drawn = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
    while not drawn.any():
        drawn = torch.rand(drawn.shape) < 0.1
    return hidden(batch, drawn)


def stock(**settings: Any) -> Any:
    collator = DataCollatorForLanguageModeling(TOKENIZER, **{"mlm_probability": 0.5, **settings})

    def collate(examples: list[Any]) -> Batch:
        found = collator([{name: value for name, value in one.items() if name != "labels"} for one in examples])
        return {name: torch.as_tensor(value) for name, value in found.items()}

    return collate


COLLATORS: dict[str, Any] = {
    "stock": lambda: stock(),
    "stock, masks alone": lambda: stock(mask_replace_prob=1.0, random_replace_prob=0.0),
    "stock, padded to eights": lambda: stock(pad_to_multiple_of=8),
    "stock, numpy": lambda: stock(return_tensors="np"),
    **{f.__name__: (lambda f=f: f) for f in (by_rand, by_rand_like, by_row, by_numpy, by_python)},
    **{f.__name__: (lambda f=f: f) for f in (of_the_batch, from_the_left, until_some)},
}
AT_ONCE = {"stock", "stock, masks alone", "stock, padded to eights", "by_rand", "by_rand_like", "by_row"}


def seen(collate: Any, batches: list[list[dict[str, Any]]]) -> dict[tuple[int, ...], tuple[Any, ...]]:
    """What each example became, without its padding."""
    found = {}
    for examples in batches:
        batch = collate(examples)
        for number, one in enumerate(examples):
            inside = batch["attention_mask"][number] > 0
            parts = (batch[name][number][inside] for name in ("input_ids", "labels"))
            found[tuple(one["input_ids"])] = tuple(tuple(part.tolist()) for part in parts)
            assert (batch["labels"][number][~inside] == -100).all()
    return found


def data() -> list[dict[str, Any]]:
    return [{"input_ids": one["input_ids"], "labels": one["input_ids"]} for one in ragged_examples(60)]


def in_batches(size: int, order: int = 0) -> list[list[dict[str, Any]]]:
    examples = data()
    random.Random(order).shuffle(examples)
    return [examples[start : start + size] for start in range(0, len(examples), size)]


@pytest.mark.parametrize("name", COLLATORS)
def test_an_example_is_the_same_in_every_batch(name: str) -> None:
    collates = [ExampleCollator(COLLATORS[name](), 0) for _ in range(4)]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first, *others = (
        seen(collate, in_batches(size, order))
        for collate, size, order in zip(collates, (1, 2, 7, 60), (0, 1, 2, 3), strict=True)
    )
    assert others == [first] * 3 and len(first) == 60
    assert collates[2]._at_once is (name in AT_ONCE), "the fast path is the one that is taken, where it is right"
    drawn = sum(label != -100 for _, labels in first.values() for label in labels)
    assert 20 < drawn < sum(map(len, first)) - 20
    assert seen(ExampleCollator(COLLATORS[name](), 1), in_batches(7)) != first
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert seen(COLLATORS[name](), in_batches(7)) != first  # what the collator draws by itself


def test_whole_words_are_masked_as_wholes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        collator = stock(whole_word_mask=True)
    examples = [{**one, "offset_mapping": [(n // 2 * 9 + n % 2, n // 2 * 9 + n % 2 + 1) for n in range(8)]}
                for one in ({"input_ids": list(range(10 + i, 18 + i))} for i in range(12))]  # fmt: skip
    collate, other = ExampleCollator(collator, 0), ExampleCollator(collator, 0)
    whole, parts = collate(examples), [other(examples[start : start + 4]) for start in (0, 4, 8)]
    assert collate._at_once and other._at_once
    assert torch.equal(whole["labels"], torch.cat([part["labels"] for part in parts]))
    masked = whole["labels"] != -100
    assert torch.equal(masked[:, ::2], masked[:, 1::2]) and 0 < masked.sum() < masked.numel()


def test_a_collator_that_draws_nothing_is_called_once() -> None:
    calls = []

    def collator(examples: list[Any]) -> Any:
        calls.append(len(examples))
        return {"pixels": torch.zeros(len(examples), 2)}  # no text, and nothing to lay into padding

    collate = ExampleCollator(collator, 0)
    for size in (3, 1, 3):
        collate(data()[:size])
    assert calls == [3, 1, 3]


def test_what_cannot_be_told_apart_is_drawn_for_as_a_whole(caplog: pytest.LogCaptureFixture) -> None:
    def packed(examples: list[Any]) -> Batch:
        ids = torch.tensor([token for one in examples for token in one["input_ids"]])[None]
        return {"input_ids": ids, "labels": ids.masked_fill(torch.rand(ids.shape) < 0.5, -100)}

    collate = ExampleCollator(packed, 0)
    with caplog.at_level(logging.WARNING):
        first, again = collate(data()[:3]), collate(data()[:3])
    assert torch.equal(first["labels"], again["labels"])
    assert [record.message for record in caplog.records if "as a whole" in record.message] == [
        "data_collator=function draws for a batch as a whole: figures depend on per_device_eval_batch_size."
    ]


def test_rows_are_drawn_as_torch_draws() -> None:
    seeds = [int(seed) for seed in np.random.default_rng(0).integers(0, 2**63, 500)]

    def draw() -> tuple[torch.Tensor, ...]:
        with RowDraws(500, lambda: seeds):
            uniform, chance = torch.rand(500, 200), torch.full((500, 200), 0.15)
            return uniform, torch.bernoulli(chance), torch.randint(3, 10, (500, 200)), torch.rand(500, 200)

    uniform, hits, integers, second = draw()
    assert all(torch.equal(one, other) for one, other in zip(draw(), (uniform, hits, integers, second), strict=True))
    assert 0 <= uniform.min() < 1e-3 and 1 - 1e-3 < uniform.max() < 1
    # five standard deviations of 100,000 draws each
    assert abs(float(uniform.mean()) - 0.5) < 5 * (1 / 12 / 1e5) ** 0.5
    assert abs(float(hits.mean()) - 0.15) < 5 * (0.15 * 0.85 / 1e5) ** 0.5 and hits.dtype == torch.float32
    counts = torch.bincount(integers.flatten(), minlength=10)[3:]
    assert counts.sum() == 100_000 and (counts - 1e5 / 7).abs().max() < 5 * (1e5 / 7) ** 0.5
    # neighbours in a row, rows below each other, and the next draw of the same place say nothing of each other
    centred, other = uniform - 0.5, second - 0.5
    for product in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1], centred * other):
        assert abs(float(product.mean())) < 5 / 12 / 1e5**0.5
    with RowDraws(500, lambda: seeds[::-1]):
        assert torch.equal(torch.rand(500, 120), uniform.flip(0)[:, :120])  # of whatever length, in whatever row


def test_other_draws_come_from_where_they_always_come() -> None:
    def draw() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return [
            torch.rand(4),
            torch.rand(2, 4),
            torch.randn(3, 4),
            torch.randperm(3),
            torch.rand(3, 4, dtype=torch.float64),
            torch.randint(2**40, (3, 4)),
            torch.bernoulli(torch.full((3, 4), 0.5, dtype=torch.bfloat16)),
        ]

    expected = draw()
    with RowDraws(3, lambda: [1, 2, 3]) as draws:
        found = draw()
        with pytest.raises(RuntimeError):
            torch.randint(5, 5, (3, 2))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)) and draws.count == 0
