"""What a trained student is worth downstream: fine-tuned with stock transformers on tasks that a user points at."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from study.cells import Study

RATE, EPOCHS, BATCH, HELD_OUT = 2e-4, 2, 64, 5  # every fifth example is held out


class TaskData:
    """A classification task of JSON lines: "text", "label" (any value), and for pairs "text2".

    Raises:
        SystemExit: a line without text or label, or fewer than two labels.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if wrong := [n for n, line in enumerate(self.lines, 1) if not {"text", "label"} <= line.keys()]:
            raise SystemExit(f'error: {path}, line {wrong[0]}: give {{"text": ..., "label": ...}}')
        self.labels = sorted({str(line["label"]) for line in self.lines})
        if len(self.labels) < 2:
            raise SystemExit(f"error: {path}: a task needs two labels or more")

    def parts(self, tokenizer: "PreTrainedTokenizerFast", length: int) -> tuple[list[Any], list[Any]]:
        """Examples to train on, and held out ones."""
        examples = []
        for line in self.lines:
            texts = [line["text"], line["text2"]] if "text2" in line else [line["text"]]
            ids = tokenizer(*texts, truncation=True, max_length=length)["input_ids"]
            examples.append({"input_ids": ids, "labels": self.labels.index(str(line["label"]))})
        return [e for n, e in enumerate(examples) if n % HELD_OUT], examples[::HELD_OUT]


def fine_tuned(
    model: Any, tokenizer: "PreTrainedTokenizerFast", tasks: list[TaskData], study: "Study", seed: int
) -> dict[str, float]:
    """Held-out accuracy by task."""
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    found = {}
    for task in tasks:
        train, held_out = task.parts(tokenizer, study.length)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            set_seed(seed)  # of the new head
            own = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(task.labels))
            arguments = TrainingArguments(
                folder,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH,
                learning_rate=RATE,
                warmup_steps=0.1,
                save_strategy="no",
                seed=seed,
                disable_tqdm=True,
                report_to=[],
                **study.arguments,
            )
            trainer = Trainer(
                own,
                arguments,
                train_dataset=train,  # type: ignore[arg-type]
                data_collator=DataCollatorWithPadding(tokenizer),
                compute_metrics=lambda said: {"accuracy": float((said[0].argmax(-1) == said[1]).mean())},  # type: ignore[index]
            )
            trainer.train()
            found[task.name] = round(trainer.evaluate(held_out)["eval_accuracy"], 4)  # type: ignore[arg-type]
    return found
