"""FSDP2 on one card beside no engine: the same steps, and their memory. `python -m benchmarks.gpu.fsdp`.

Run with `--engine plain`, and then under torchrun with `--engine fsdp2 --beside FILE`, the file of the first run. One
card holds every shard: this shows what the engine does to a step, and nothing of what several cards exchange.
"""

import argparse
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn import Dropout
from transformers import PrinterCallback

from hf_dwt import DistillationArguments, DistillationTrainer
from tests.engines import ENGINES, cpu_as_accelerator

from ..__main__ import machine
from ..sizes import Size, collator, examples, models

STEPS = 5
FIGURES = ("loss", "grad_norm", "hard_loss", "soft_loss")
EXACT = 1e-4
"""Largest relative difference of a figure in fp32: a GPU adds in another order each time, and steps magnify that."""
SIZES = {
    "gpt2": Size("gpt2", (4, 256), (2, 128), 50257, tokens=(8, 256)),
    "qwen": Size("qwen", (4, 256), (2, 128), 151936, tokens=(4, 256)),
}
TINY = {"gpt2": Size("gpt2", (2, 64), (1, 64), 97, tokens=(4, 8))}


def run(size: Size, engine: str, device: str, bf16: bool) -> dict[str, Any]:
    """The figures of every step, and the peak of the memory of the run with the weights in it."""
    student, teacher = models(size)
    for module in student.modules():
        if isinstance(module, Dropout):
            module.p = 0.0  # an engine may draw from the same generator
    with tempfile.TemporaryDirectory() as out:
        arguments = DistillationArguments(
            out,
            per_device_train_batch_size=size.tokens[0],
            max_steps=STEPS,
            logging_steps=1,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            soft_weight_schedule="constant",
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
            use_cpu=device == "cpu",
            bf16=bf16,
            **({} if engine == "plain" else ENGINES[engine].settings(student)),
        )
        trainer = DistillationTrainer(
            student,
            arguments,
            teacher_model=teacher,
            train_dataset=examples(size, STEPS * size.tokens[0]),
            data_collator=collator(size),
        )
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    sharded = isinstance(trainer.model_wrapped, FSDPModule)
    if sharded != (engine != "plain"):
        raise RuntimeError(f"{engine}: the model is {'' if sharded else 'not '}sharded")
    return {
        "steps": [[entry[name] for name in FIGURES] for entry in trainer.state.log_history if "grad_norm" in entry],
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }


def compare(plain: dict[str, Any], sharded: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each run the largest relative difference of a figure, and the ratio of the peaks."""
    found = {}
    for name, expected in plain["runs"].items():
        theirs, ours = (torch.tensor(runs["steps"], dtype=torch.float64) for runs in (expected, sharded["runs"][name]))
        peaks = [runs["peak_bytes"] for runs in (sharded["runs"][name], expected)]
        found[name] = {
            "difference": ((ours - theirs).abs() / theirs.abs()).max().item(),
            "peak": peaks[0] / peaks[1] if all(peaks) else None,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.fsdp", description=__doc__)
    parser.add_argument("--engine", choices=("plain", "fsdp2"), required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a size that runs in a second")
    parser.add_argument("--json", type=Path, required=True, help="file that is written")
    parser.add_argument("--beside", type=Path, help="what the other engine wrote: compare, and fail if fp32 differs")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "device": options.device, "engine": options.engine, "runs": {}}
    # Accelerate gives FSDP to accelerators alone.
    with cpu_as_accelerator() if (options.engine, options.device) == ("fsdp2", "cpu") else nullcontext():
        for name, size in (TINY if options.tiny else SIZES).items():
            for bf16 in (False, True):
                kind = f"{name}, {'bf16' if bf16 else 'fp32'}"
                results["runs"][kind] = run(size, options.engine, options.device, bf16)
                options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.beside is None:
        return
    results["compared"] = compare(json.loads(options.beside.read_text(encoding="utf-8")), results)
    options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for kind, found in results["compared"].items():
        print(
            f"{kind}: figures differ by {found['difference']:.1e}, peak {found['peak'] or 'not measured'}", flush=True
        )
    wrong = [kind for kind, found in results["compared"].items() if "fp32" in kind and not found["difference"] < EXACT]
    if wrong:
        raise SystemExit(f"not exact: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
