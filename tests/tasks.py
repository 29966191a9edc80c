"""A tiny model, examples and the terms of the objective for each task whose rows are no tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, PreTrainedModel, ViTConfig
from transformers.models import auto

from .models import BUILDERS, ENCODER, randomise

LENGTH, COUNT, LABELS = 6, 24, 3
Example = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One task.

    auto_class: of its models.
    config: values of theirs.
    entries: from a generator to what an example has beside its tokens; or, of an image, in place of them.
    hard, soft: from what a model puts out and a batch to (n,) terms, at tau = 2 those of the soft one.
    tau: whether there is a temperature.
    """

    auto_class: str
    config: Mapping[str, Any]
    entries: Callable[[torch.Generator, int], Example]
    hard: Callable[[Any, Mapping[str, Tensor]], Tensor]
    soft: Callable[[Any, Any], Tensor]
    tau: bool = True

    def model(self, seed: int = 0) -> PreTrainedModel:
        """A randomised model, in evaluation mode."""
        kind = ViTConfig if self.auto_class == "AutoModelForImageClassification" else BertConfig
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = getattr(auto, self.auto_class).from_config(kind(**self.config))
        return randomise(made, seed, scale=0.2).eval()

    def examples(self, count: int = COUNT) -> list[Example]:
        generator, found = torch.Generator().manual_seed(3), []
        for number in range(count):
            ids = torch.randint(5, 64, (LENGTH,), generator=generator).tolist()
            found.append({"input_ids": ids, **self.entries(generator, number)})
            if "pixel_values" in found[-1]:
                del found[-1]["input_ids"]
        return found


def stack(examples: list[Example]) -> dict[str, Tensor]:
    """A batch of examples of one length."""
    return {name: torch.tensor([example[name] for example in examples]) for name in examples[0]}


def drawn(generator: torch.Generator, *shape: int) -> Any:
    return torch.randn(*shape, generator=generator).tolist()


def _categorical(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = (torch.log_softmax(one / 2, -1) for one in (teacher, student))
    return (p.exp() * (p - q)).sum(-1)


def _bernoulli_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """By its definition, with probabilities."""
    p, q = (torch.sigmoid(one.reshape(-1) / 2) for one in (teacher, student))
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def _sides(out: Any) -> list[Tensor]:
    return [out.start_logits, out.end_logits]


def _spans(out: Any, batch: Mapping[str, Tensor]) -> Tensor:
    pairs = zip(_sides(out), (batch["start_positions"], batch["end_positions"]), strict=True)
    return torch.cat([_categorical(logits[places < LENGTH], places[places < LENGTH]) for logits, places in pairs])


def _squared(one: Tensor, other: Tensor) -> Tensor:
    return (one.reshape(-1) - other.reshape(-1)) ** 2


CLASSIFIER = "AutoModelForSequenceClassification"
_NUMBERS: dict[str, Any] = {
    "hard": lambda out, batch: _squared(out.logits, batch["labels"]),
    "soft": lambda out, other: _squared(out.logits, other.logits),
    "tau": False,
}
_CLASSES: dict[str, Any] = {
    "hard": lambda out, batch: _categorical(out.logits, batch["labels"]),
    "soft": lambda out, other: _kl(out.logits, other.logits),
}
CASES: dict[str, Case] = {
    "multi-label": Case(
        CLASSIFIER,
        {**ENCODER, "num_labels": LABELS, "problem_type": "multi_label_classification"},
        lambda g, _: {"labels": torch.randint(0, 2, (LABELS,), generator=g).float().tolist()},
        lambda out, batch: F.binary_cross_entropy_with_logits(out.logits, batch["labels"], reduction="none").view(-1),
        lambda out, other: _bernoulli_kl(out.logits, other.logits),
    ),
    # -100 is a number like any other
    "regression": Case(
        CLASSIFIER,
        {**ENCODER, "num_labels": 1},
        lambda g, i: {"labels": -100.0 if i == 5 else drawn(g, 1)[0]},
        **_NUMBERS,
    ),
    "regression of two": Case(
        CLASSIFIER,
        {**ENCODER, "num_labels": 2, "problem_type": "regression"},
        lambda g, _: {"labels": drawn(g, 2)},
        **_NUMBERS,
    ),
    "image": Case(
        "AutoModelForImageClassification",
        BUILDERS["vit"][2],
        lambda g, i: {"pixel_values": drawn(g, 3, 8, 8), "labels": i % LABELS},
        **_CLASSES,
    ),
    "multiple choice": Case(
        "AutoModelForMultipleChoice",
        ENCODER,
        lambda g, i: {"input_ids": torch.randint(5, 64, (4, LENGTH), generator=g).tolist(), "labels": i % 4},
        **_CLASSES,
    ),
    # In every batch of 8 one answer lies behind the text, start and end.
    "question answering": Case(
        "AutoModelForQuestionAnswering",
        ENCODER,
        lambda g, i: {
            name: LENGTH + 2 if i % 8 == 6 else int(torch.randint(0, LENGTH, (1,), generator=g))
            for name in ("start_positions", "end_positions")
        },
        _spans,
        lambda out, other: torch.cat([_kl(*pair) for pair in zip(_sides(out), _sides(other), strict=True)]),
    ),
}
