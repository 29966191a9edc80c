"""What attribution costs: `python -m benchmarks.attribution`, seconds and memory at 1 and 10 MB of text.

The shipped corpus, again and again up to that size, in blocks of 128 tokens; a masked and a causal model of the
tokenizer's vocabulary; one checkpoint; 100 queries of 128 tokens, with labels on 4 of them. Each size is a process
of its own, whose peak of memory is that of attribution, model and text together. With one query the time is that of
the forward passes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two threads are slower on small models
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

HERE = Path(__file__).parent
DATA = HERE.parent / "examples" / "data"
LENGTH, QUERIES, LABELLED = 128, 100, 4
TASKS = ("masked", "causal")


def model_of(task: str, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, ModernBertConfig, ModernBertForMaskedLM

    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "intermediate_size": 256, "max_position_embeddings": LENGTH}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0, "eos_token_id": 0}
    if task == "causal":
        return LlamaForCausalLM(LlamaConfig(**sizes, **ids))
    ends = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    return ModernBertForMaskedLM(ModernBertConfig(**sizes, **ids, **ends))


def blocks(megabytes: float, tokenizer: Any) -> list[dict[str, list[int]]]:
    text = (DATA / "train.txt").read_text(encoding="utf-8")
    ids = tokenizer(text.splitlines(), verbose=False)["input_ids"]
    joined = [token for one in ids for token in one]
    wanted = int(len(joined) * megabytes * 1e6 / len(text.encode()))
    joined = (joined * (1 + wanted // len(joined)))[:wanted]
    return [{"input_ids": joined[at : at + LENGTH]} for at in range(0, wanted - LENGTH + 1, LENGTH)]


def measured(task: str, megabytes: float) -> dict[str, Any]:
    """Seconds and peak memory in this process."""
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    from hf_dwt import DistillationArguments, DistillationTrainer
    from hf_dwt.attribution import attribute

    tokenizer = PreTrainedTokenizerFast.from_pretrained(DATA / "weak_teacher")
    data = blocks(megabytes, tokenizer)
    labels = [-100] * (LENGTH - LABELLED)
    queries = [{**one, "labels": [*labels, *one["input_ids"][-LABELLED:]]} for one in data[:QUERIES]]
    with tempfile.TemporaryDirectory() as out:
        args = DistillationArguments(out, report_to="none", disable_tqdm=True, per_device_eval_batch_size=32)
        given: Any = data
        run = DistillationTrainer(
            model_of(task, tokenizer),
            args,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=task == "masked"),
            train_dataset=given,
            processing_class=tokenizer,
        )
        began = time.perf_counter()
        attribute(run, queries[:1])
        forward = time.perf_counter() - began
        began = time.perf_counter()
        found = attribute(run, queries)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"examples": len(data), "rows": int(found.rows.sum()), "seconds": round(seconds, 1)}
    return {**figures, "seconds_of_one_query": round(forward, 1), "peak_mib": round(peak)}


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = ["| text | examples | rows | seconds, 100 queries | one query | peak MiB |", "|---|---|---|---|---|---|"]
    for name, found in results.items():
        cells = [f"{found['examples']:,}", f"{found['rows']:,}", found["seconds"], found["seconds_of_one_query"]]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} | {found['peak_mib']:,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "attribution.json")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--one", choices=TASKS, help="one size, in this process: its figures as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one, options.megabytes[0])))
        return
    results: dict[str, dict[str, Any]] = {}
    for task in TASKS:
        for megabytes in options.megabytes:
            command = [sys.executable, "-m", "benchmarks.attribution", "--one", task, "--megabytes", str(megabytes)]
            ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
            results[f"{megabytes:g} MB, {task}"] = json.loads(ran.stdout.splitlines()[-1])
            options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
