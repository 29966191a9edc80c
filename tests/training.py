"""A short, exact training run on ragged examples, for every test that compares runs."""

from typing import Any

import torch
from transformers import PreTrainedModel

from hf_dwt import DistillationArguments, DistillationTrainer

from .models import VOCAB

Example = dict[str, list[int]]
CHECKPOINTING = "activation" if hasattr(PreTrainedModel, "activation_checkpointing_enable") else "gradient"
"""What transformers calls it: `<this>_checkpointing` in its arguments, `<this>_checkpointing_enable` of a model."""


def ragged_examples(count: int = 40, *, share: float = 0.4, seed: int = 0, classes: int = VOCAB) -> list[Example]:
    """Examples of 4 to 9 tokens with labels on a share of them; every seventh example has none at all."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for number in range(count):
        length = int(torch.randint(4, 10, (1,), generator=generator))
        ids = torch.randint(5, VOCAB, (length,), generator=generator)
        labels = torch.randint(0, classes, (length,), generator=generator)
        kept = torch.rand(length, generator=generator) < (share if number % 7 != 3 else 0.0)
        labels = torch.where(kept, labels, torch.tensor(-100))
        examples.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
    return examples


def sequence_examples(count: int = 40, *, classes: int, seed: int = 0) -> list[dict[str, Any]]:
    """Examples of 4 to 9 tokens with one class each."""
    return [
        {"input_ids": example["input_ids"], "labels": number % classes}
        for number, example in enumerate(ragged_examples(count, seed=seed))
    ]


def pad(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of B examples padded to the longest, L: ids and mask (B, L), labels (B, L) or (B,)."""
    longest = max(len(example["input_ids"]) for example in examples)

    def column(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([e[name] + [filler] * (longest - len(e[name])) for e in examples])

    ids = column("input_ids", 0)
    mask = torch.tensor([[1] * len(e["input_ids"]) + [0] * (longest - len(e["input_ids"])) for e in examples])
    flat = isinstance(examples[0]["labels"], int)
    labels = torch.tensor([e["labels"] for e in examples]) if flat else column("labels", -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def arguments(out: Any, **settings: Any) -> DistillationArguments:
    """Arguments of a quiet run on the CPU that logs every step, takes samples in order and saves nothing."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "max_steps": 5,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    return DistillationArguments(output_dir=str(out), **{**defaults, **settings})


def trainer(
    student: Any,
    teacher: Any,
    out: Any,
    *,
    train_dataset: Any = None,
    trainer_class: type[DistillationTrainer] = DistillationTrainer,
    more: dict[str, Any] | None = None,
    **settings: Any,
) -> DistillationTrainer:
    """A trainer over ragged examples; `settings` are arguments, `more` keywords of the trainer itself."""
    keywords = {"data_collator": pad, "teacher_model": teacher, **(more or {})}
    dataset = ragged_examples() if train_dataset is None else train_dataset
    return trainer_class(student, arguments(out, **settings), train_dataset=dataset, **keywords)


def history(run: DistillationTrainer, *names: str) -> list[tuple[float, ...]]:
    """The named figures of every logged step."""
    return [tuple(entry[name] for name in names) for entry in run.state.log_history if "grad_norm" in entry]
