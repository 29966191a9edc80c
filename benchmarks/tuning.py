"""What pruning saves in a forward pass: `python -m benchmarks.tuning`, BERT-base's shape beside less of it, in turns.

The widths are those of `DualSparse.prune`; weights are random, since time does not depend on them.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch, as in the other benchmarks
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from .loop import quartiles

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tuning.md"
RESULT = ROOT / "benchmarks" / "results" / "tuning.json"
TOKENS = 128
NEURONS = {"whole": 3072, "0.385": 3072 - 1183, "1184 neurons": 3072 - 1184}
"""Name -> neurons of a feed-forward layer: 38.5 % gone, and the nearest number that leaves a multiple of 32."""


def encoder(neurons: int, device: str, **sizes: Any) -> BertModel:
    """BERT without a head, in eval mode."""
    with torch.device(device):
        return BertModel(BertConfig(intermediate_size=neurons, **sizes), add_pooling_layer=False).eval()


def counted(neurons: int) -> dict[str, int]:
    """Operations of a sequence: those that torch counts, and those that `layer_flops` says."""
    from hf_dwt.tuning import layer_flops

    model = encoder(neurons, "meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(1, TOKENS, dtype=torch.long, device="meta"))
    return {"counted": counter.get_total_flops(), "analytic": layer_flops(model, TOKENS)}


def measured(batch: int, rounds: int, layers: int) -> dict[str, list[float]]:
    """Seconds of a forward pass of each width in each round."""
    models = {name: encoder(neurons, "cpu", num_hidden_layers=layers) for name, neurons in NEURONS.items()}
    ids = torch.randint(5, 30_000, (batch, TOKENS), generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for turn in range(rounds + 1):
            for name, model in models.items():
                began = time.perf_counter()
                model(input_ids=ids)
                if turn:  # the first warms up
                    seconds[name].append(time.perf_counter() - began)
    return seconds


def table(results: Mapping[str, Any]) -> str:
    """Markdown: a line for each batch and width."""
    lines = [
        "| sequences | neurons of a layer | operations, counted | analytic | seconds / whole (quartiles) |",
        "|---|---|---|---|---|",
    ]
    whole = results["operations"]["whole"]
    for batch, seconds in results["seconds"].items():
        for name, neurons in NEURONS.items():
            flops = results["operations"][name]
            pairs = zip(seconds[name], seconds["whole"], strict=True)
            low, middle, high = quartiles([own / base for own, base in pairs])
            ratio = "1" if name == "whole" else f"{middle:.3f} ({low:.3f} to {high:.3f})"
            shares = [f"{flops[kind] / whole[kind]:.2%}".replace("%", " %") for kind in ("counted", "analytic")]
            lines.append(f"| {batch} | {neurons} | {shares[0]} | {shares[1]} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, keep the figures, and write the page's table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--layers", type=int, default=12, help="fewer for a trial, whose figures are not kept")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    results = {
        "operations": {name: counted(neurons) for name, neurons in NEURONS.items()},
        "seconds": {str(batch): measured(batch, options.rounds, options.layers) for batch in options.batches},
        "load": os.getloadavg()[0],
    }
    print(table(results))
    if options.layers != 12:
        return
    RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    begin, end = "<!-- tuning: written by `python -m benchmarks.tuning` -->", "<!-- /tuning -->"
    before, rest = PAGE.read_text(encoding="utf-8").split(begin)
    PAGE.write_text(f"{before}{begin}\n\n{table(results)}\n\n{end}{rest.split(end)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
