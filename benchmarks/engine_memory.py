"""Peak memory of a causal step under engines that shard, beside one process: `python -m benchmarks.engine_memory`.

A GPT-2 with a head of 50,257 entries and a tiny body takes steps of 8 x 256 labelled tokens on every process, in
chunks and with the logits of all rows at once. Each step's peak of resident memory is taken above what is resident
before the step: parameters, the state of the optimizer and the buffers that an engine keeps are set aside. Gradients,
and parameters that an engine makes whole for a while, count.
"""

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import re
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

import torch
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from hf_dwt import DistillationArguments, DistillationTrainer
from hf_dwt.training.opening import PrintAssessment
from tests.engines import ENGINES, Engine

from .__main__ import machine
from .sizes import Size, examples, models

RESULT = Path(__file__).parent / "results" / "engine_memory.json"
SIZE = Size("gpt2", (2, 64), (1, 64), 50257, tokens=(8, 256))
STEPS = 3
KERNELS = ("auto", "plain")
WITH: dict[str, Engine | None] = {"one process": None, **{name: ENGINES[name] for name in ("fsdp2", "zero2", "zero3")}}


def status(entry: str) -> int:
    """Bytes of an entry of this process's status."""
    found = re.search(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found.group(1)) * 1024


class Peak(TrainerCallback):
    """Notes the peak of the resident memory of each step, above what was resident before it."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL("libc.so.6")
        for setting in (-1, -3):  # what is freed goes back to the system: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            self.libc.mallopt(setting, 1 << 20)
        self.before, self.steps = 0, list[int]()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        gc.collect()
        self.libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
        self.before = status("VmRSS")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append(status("VmHWM") - self.before)


def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([example["input_ids"] for example in batch])
    return {"input_ids": ids, "labels": ids.clone()}


def peak(kernel: str, engine: Engine | None) -> int:
    """Bytes of the last step, when optimizer and buffers have been made."""
    student, teacher = models(SIZE)
    processes = 1 if engine is None else engine.processes
    seen = Peak()
    with tempfile.TemporaryDirectory() as out:
        settings: dict[str, Any] = {"use_cpu": True, **({} if engine is None else engine.settings(student))}
        trainer = DistillationTrainer(
            student,
            DistillationArguments(
                out,
                per_device_train_batch_size=SIZE.tokens[0],
                max_steps=STEPS,
                learning_rate=1e-4,
                soft_weight_schedule="constant",
                loss_kernel=kernel,
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                report_to="none",
                **settings,
            ),
            teacher_model=teacher,
            train_dataset=examples(SIZE, STEPS * SIZE.tokens[0] * processes),
            data_collator=collate,
            callbacks=[seen],
        )
        trainer.remove_callback(PrintAssessment)
        trainer.train()
    return seen.steps[-1]


def on_a_rank(engine: Engine | None) -> dict[str, int]:
    """The peak with each kernel."""
    found = {}
    for kernel in KERNELS:
        found[kernel] = peak(kernel, engine)
        unset_hf_deepspeed_config()
    return found


def measure(name: str) -> dict[str, int]:
    """The largest peaks of all ranks, in processes of their own."""
    engine = WITH[name]
    if engine is None:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            ranks = [pool.apply(on_a_rank, (None,))]
    else:
        ranks = engine.run(on_a_rank, engine)
    return {kernel: max(rank[kernel] for rank in ranks) for kernel in KERNELS}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_memory", description=__doc__)
    parser.add_argument("--engines", nargs="+", choices=WITH, default=[*WITH])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for name in parser.parse_args().engines:
        peaks = json.loads(RESULT.read_text(encoding="utf-8"))["peaks"] if RESULT.exists() else {}
        peaks[name] = measure(name)
        RESULT.write_text(json.dumps({"machine": machine(), "peaks": peaks}, indent=1) + "\n", encoding="utf-8")
        parts = (f"{kernel} {peak / 2**20:.0f} MiB" for kernel, peak in peaks[name].items())
        print(f"{name}: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
