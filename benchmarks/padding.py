"""What padding costs, and what the parts of transformers that avoid it save: `python -m benchmarks.padding`.

Lines of the corpus of examples/, each an example of its own length, for which our Trainer runs whole epochs in turns:
padded to the longest of batches drawn at random, padded in batches of about one length, and for causal LMs laid one
behind the other without padding. Every contender sees the same examples in an epoch.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two threads are slower on small models
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, DataCollatorWithFlattening

from hf_dwt import DistillationArguments, DistillationTrainer

from .loop import Turns, interleave, quartiles
from .sizes import MASKED_SHARE, Size, models

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "padding.json"
BATCH, BATCHES = 8, 50  # the sampler groups within 50 batches, here an epoch
JOBS = {
    "masked": Size("bert", (4, 128), (2, 64), 8192, tokens=(BATCH, 256)),
    "causal": Size("gpt2", (4, 128), (2, 64), 8192, tokens=(BATCH, 256)),
}


class Counted:
    """A collator that counts positions, and those of them that are text."""

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self.collator, self.positions, self.text = collator, 0, 0

    def __call__(self, features: list[Any]) -> Any:
        batch = self.collator(features)
        self.positions += batch["input_ids"].numel()
        self.text += sum(len(feature["input_ids"]) for feature in features)
        return batch


def lines(longest: int) -> tuple[Any, list[dict[str, list[int]]]]:
    """The tokenizer, and the tokenised lines of an epoch, cut off at the longest length."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "examples" / "data" / "weak_teacher")
    text = (ROOT / "examples" / "data" / "train.txt").read_text(encoding="utf-8").splitlines()
    order = torch.randperm(len(text), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = [text[n] for n in order if text[n].strip()][: BATCH * BATCHES]
    return tokenizer, [{"input_ids": tokenizer(t, truncation=True, max_length=longest).input_ids} for t in chosen]


def contenders(name: str, tokenizer: Any) -> dict[str, tuple[Counted, str]]:
    """name -> (collator, sampling strategy)."""
    masked = name == "masked"
    share = MASKED_SHARE if masked else None

    def padding() -> Counted:
        return Counted(DataCollatorForLanguageModeling(tokenizer, mlm=masked, mlm_probability=share))

    found = {"random": (padding(), "random"), "group_by_length": (padding(), "group_by_length")}
    if not masked:
        found["flattened"] = (Counted(DataCollatorWithFlattening()), "random")
    return found


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Seconds of an epoch of each contender in each round, and its share of padding."""
    size = JOBS[name]
    tokenizer, data = lines(size.tokens[1])
    student, teacher = models(size)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    turns: dict[str, Turns] = {}
    parts = contenders(name, tokenizer)
    with tempfile.TemporaryDirectory() as out:
        try:
            for key, (collator, strategy) in parts.items():
                args = DistillationArguments(
                    out,
                    per_device_train_batch_size=BATCH,
                    max_steps=100_000,
                    train_sampling_strategy=strategy,
                    soft_weight_schedule="constant",
                    save_strategy="no",
                    disable_tqdm=True,
                    use_cpu=True,
                )
                turns[key] = turn = Turns()
                rest: dict[str, Any] = {"data_collator": collator, "optimizers": (optimizer, None)}
                turn.start(DistillationTrainer(student, args, teacher_model=teacher, train_dataset=data, **rest))
                turn.take(1)
            seconds = interleave(turns, rounds, BATCHES)
        finally:
            for turn in turns.values():
                turn.stop()
    return {
        "seconds": seconds,
        "padding": {key: 1.0 - counted.text / counted.positions for key, (counted, _) in parts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.padding", description=__doc__)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=[*JOBS])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    results = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in args.jobs:
        results[name] = {"load": os.getloadavg()[0], **measure(name, args.rounds)}
        RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        base = results[name]["seconds"]["random"]
        for key, times in results[name]["seconds"].items():
            low, middle, high = quartiles([t / b for t, b in zip(times, base, strict=True)])
            share = results[name]["padding"][key]
            print(f"{name} {key}: {middle:.2f} ({low:.2f} to {high:.2f}), {share:.1%} padding", flush=True)


if __name__ == "__main__":
    main()
