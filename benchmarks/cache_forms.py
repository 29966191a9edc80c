"""What each cache format costs in bytes and in the soft term: `python -m benchmarks.cache_forms`.

The teacher of examples/ is stored for rows of its training text in every format, at several k, and the soft term of a
student half-way through its training is computed from what is read back. Beside the live teacher's: the error of the
soft term and of its gradient (of all parameters of the student), as the mean over draws (bias) and around it (noise).
Then students are trained with each, from the same start on the same batches.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two threads are slower on small models
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, PreTrainedModel

from hf_dwt import DistillationArguments, DistillationTrainer, from_weak_teacher
from hf_dwt.forward.rows import Rows, select_rows
from hf_dwt.objective import Targets, Weights, distillation_terms
from hf_dwt.objective.logits import LinearLogits
from hf_dwt.tasks import find_task
from hf_dwt.teachers.cache.formats import FORMATS, Codec
from hf_dwt.teachers.frozen import FrozenTeacher

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "data"
RESULT = ROOT / "benchmarks" / "results" / "cache_forms.json"
PAGE = ROOT / "docs" / "cache.md"
MARKS = ("<!-- cost of the forms: written by `python -m benchmarks.cache_forms` -->", "<!-- /cost of the forms -->")
BATCH, LENGTH = 8, 128
# k of top_k and of sampled at the same bytes a row: 4 k + 8 = 2 (2 k - 1) + 10
SPARSE = {"top_k": lambda k: k, "sampled": lambda k: 2 * k - 1}
KS = (5, 12, 25, 50, 100)
TRAINED = (("hidden", 0), *((form, own(k)) for k in (5, 25) for form, own in SPARSE.items()))

Batch = dict[str, Tensor]
Block = dict[str, list[int]]
Errors = dict[str, float]


def blocks(name: str) -> list[Block]:
    """The text as blocks of tokens without padding."""
    tokenizer = AutoTokenizer.from_pretrained(DATA / "weak_teacher")
    text = (DATA / f"{name}.txt").read_text(encoding="utf-8")
    ids = tokenizer(text, truncation=False, verbose=False).input_ids
    return [{"input_ids": ids[start : start + LENGTH]} for start in range(0, len(ids) - LENGTH + 1, LENGTH)]


def collator(seed: int | None = None) -> DataCollatorForLanguageModeling:
    tokenizer = AutoTokenizer.from_pretrained(DATA / "weak_teacher")
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=seed)


def trainer(
    student: PreTrainedModel, out: Path, steps: int, seed: int, form: str = "", k: int = 0
) -> DistillationTrainer:
    """The run of examples/, with the teacher live, or cached under one mask an example."""
    args = DistillationArguments(
        output_dir=str(out / "run"),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=64,
        learning_rate=2e-3,
        warmup_steps=0.05,
        weight_decay=0.01,
        seed=seed,
        data_seed=0,
        soft_weight_schedule="constant",
        teacher_cache_epochs=1,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        teacher_cache=str(out / "cache") if form else None,
        teacher_cache_form=form or "hidden",
        teacher_cache_k=k or 1,
    )
    return DistillationTrainer(
        student,
        args,
        collator(),
        blocks("train")[: steps * BATCH],
        blocks("valid")[:200],
        teacher_model=str(DATA / "weak_teacher"),
    )


def grown(seed: int) -> PreTrainedModel:
    student = from_weak_teacher(
        str(DATA / "weak_teacher"), hidden_size=128, auto_class=AutoModelForMaskedLM, seed=seed
    )
    assert isinstance(student, PreTrainedModel)
    return student


# ---- the soft term and its gradient ----


def batches(count: int, seed: int) -> Iterator[tuple[Batch, Rows]]:
    collate = collator(seed)
    text = blocks("train")
    for number in range(count):
        batch = dict(collate(text[number * BATCH : (number + 1) * BATCH]))
        yield batch, select_rows(batch["labels"], shifts=False)


def soft_term(student: PreTrainedModel, batch: Batch, rows: Rows, targets: Targets) -> tuple[float, Tensor]:
    """The soft term, a mean over the rows, and its gradient in one vector."""
    student.zero_grad()
    logits = rows.take(student(**{name: value for name, value in batch.items() if name != "labels"}).logits)
    terms = distillation_terms(logits, rows.labels, targets, Weights(hard=0.0, soft=1.0))
    loss = terms["soft_loss"] / len(rows.labels)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    return loss.item(), gradient


def read_back(codec: Codec, targets: Targets, rows: Rows, draw: int) -> Targets:
    """The targets as a cache stores them; `draw` is in place of the digest of an example."""
    stored = codec.encode(targets, slice(None), rows.labels, draw.to_bytes(16, "little"))
    values = {}
    for name, value in stored.items():
        values[name] = torch.from_numpy(value.astype("int64") if value.dtype.kind == "u" else value)
    return codec.decode(values)


def error(student: PreTrainedModel, teacher: FrozenTeacher, form: str, k: int, seeds: int, draws: int) -> Errors:
    """Errors beside the live teacher, the medians over batches of a mask seed each."""
    found: dict[str, list[float]] = {"loss_bias": [], "loss_noise": [], "gradient_bias": [], "gradient_noise": []}
    for seed in range(seeds):
        ((batch, rows),) = batches(1, seed)
        targets = teacher.targets(batch, rows)
        loss, gradient = soft_term(student, batch, rows, targets)
        codec = FORMATS[form](targets, k, 1.0)
        drawn = [
            soft_term(student, batch, rows, read_back(codec, targets, rows, draw + 1000 * seed))
            for draw in range(draws if form == "sampled" else 1)
        ]
        losses, gradients = torch.tensor([one for one, _ in drawn]), torch.stack([one for _, one in drawn])
        size = gradient.norm()
        found["loss_bias"].append(abs(losses.mean().item() - loss) / loss)
        found["gradient_bias"].append(((gradients.mean(0) - gradient).norm() / size).item())
        spread = (gradients - gradients.mean(0)).norm(dim=1).square().sum() / max(1, len(drawn) - 1)
        found["gradient_noise"].append((spread.sqrt() / size).item())
        found["loss_noise"].append(losses.std().item() / loss if len(drawn) > 1 else 0.0)
    return {"bytes": codec.bytes_per_row, "rows": len(rows.labels)} | {
        name: statistics.median(values) for name, values in found.items()
    }


def errors(seeds: int, draws: int, steps: int) -> dict[str, Errors]:
    """ "form k" -> its errors, for a student after `steps` steps with the live teacher."""
    student = grown(0)
    with tempfile.TemporaryDirectory() as out:
        trainer(student, Path(out), steps, seed=0).train()
    student.eval()
    model = AutoModelForMaskedLM.from_pretrained(DATA / "weak_teacher")
    teacher = FrozenTeacher(model, find_task(model), model.config.vocab_size)
    forms = [(form, 0) for form in FORMATS if form not in SPARSE and FORMATS[form].vocabulary]
    forms += [(form, own(k)) for k in KS for form, own in SPARSE.items()]
    return {f"{form} {k or ''}".strip(): error(student, teacher, form, k, seeds, draws) for form, k in forms}


def sizes(classes: int, width: int, k: int) -> dict[str, int]:
    """Bytes a row for a teacher of that width and vocabulary."""
    sample = Targets(LinearLogits(torch.zeros(1, width), torch.zeros(classes, width)))
    return {name: each(sample, k, 1.0).bytes_per_row for name, each in FORMATS.items() if each.vocabulary}


# ---- training ----


def trained(seeds: int, steps: int) -> dict[str, list[float]]:
    """ "form k" -> the held-out loss after training, a number a seed; "hidden" stands for the live teacher."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        for form, k in TRAINED:
            with tempfile.TemporaryDirectory() as out:
                run = trainer(grown(seed), Path(out), steps, seed, form, k)
                run.train()
                name = form if form not in SPARSE else f"{form} {k}"
                found.setdefault(name, []).append(run.evaluate()["eval_loss"])
            print(seed, name, found[name][-1], flush=True)
    return found


# ---- the page ----


def table(result: dict[str, Any]) -> str:
    """The table of docs/cache.md."""
    head = "| form | bytes a row | gradient: bias | gradient: noise of a step | held-out loss |"
    lines = [head, "| --- | --- | --- | --- | --- |"]
    for name, runs in result["training"].items():
        row = result["errors"][name]
        noise, draws = row["gradient_noise"], name.startswith("sampled")
        above = [one - exact for one, exact in zip(runs, result["training"]["hidden"], strict=True)]
        loss = f"+{statistics.mean(above):.4f} ({min(above):.4f} to {max(above):.4f})" if any(above) else "0"
        form, _, k = name.partition(" ")
        shown = f'`"{form}"`' + (f", k = {k}" if k else "")
        bias = "none" if draws else f"{row['gradient_bias']:.2%}"
        lines.append(f"| {shown} | {row['bytes']} | {bias} | {noise:.0%} | {loss} |")
    return "\n".join(lines)


def write_table(result: dict[str, Any]) -> None:
    """Replace the table between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{table(result)}\n\n{MARKS[1]}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="of masks, and of training (default: 3)")
    parser.add_argument("--draws", type=int, default=8, help="of the format that draws (default: 8)")
    parser.add_argument("--steps", type=int, default=200, help="of each training (default: 200)")
    parser.add_argument("--only", choices=("errors", "training"), help="one of the two parts")
    options = parser.parse_args(argv)
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    result["steps"] = options.steps
    result["sizes"] = {f"{classes} x {width}": sizes(classes, width, 50) for classes, width in ((50_000, 768),)}
    if options.only != "training":
        result["errors"] = errors(options.seeds, options.draws, options.steps)
        for name, row in result["errors"].items():
            print(name, {key: round(value, 6) for key, value in row.items()})
    if options.only != "errors":
        result["training"] = trained(options.seeds, options.steps)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.only is None:
        write_table(result)


if __name__ == "__main__":
    main()
