"""One process of a run with a cached teacher: `python -m tests.cache_processes DIR`, under any world size."""

import json
import sys
from pathlib import Path

from accelerate import PartialState

from .models import tiny
from .training import history, ragged_examples, trainer


def losses(folder: Path, cache: str | None) -> list[tuple[float, ...]]:
    """Six steps of eight examples, over all processes."""
    run = trainer(
        tiny("bert"),
        tiny("bert", seed=1),
        folder,
        train_dataset=ragged_examples(48),
        per_device_train_batch_size=8 // PartialState(cpu=True).num_processes,
        max_steps=6,
        soft_weight_schedule="constant",
        teacher_cache=cache and str(folder / cache),
    )
    run.train()
    return history(run, "loss", "grad_norm", "soft_loss")


if __name__ == "__main__":
    state, folder = PartialState(cpu=True), Path(sys.argv[1])
    results = {"made": losses(folder, "cache"), "read": losses(folder, "cache"), "live": losses(folder, None)}
    if state.is_main_process:
        (folder / "results.json").write_text(json.dumps({**results, "processes": state.num_processes}))
