"""A run with a cached teacher, under any world size."""

from pathlib import Path
from typing import Any

from accelerate import PartialState

from .models import tiny
from .training import history, ragged_examples, trainer


def losses(folder: Path, cache: str | None, only: bool = False) -> list[tuple[float, ...]]:
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
        teacher_cache_only=only,
    )
    run.train()
    return history(run, "loss", "grad_norm", "soft_loss")


def thrice(folder: Path) -> dict[str, Any]:
    """The losses of a run that makes the cache, of one that reads it, and of one without; one more only makes it."""
    made, read, live = (losses(folder, cache) for cache in ("cache", "cache", None))
    try:
        losses(folder, "only", only=True)
    except SystemExit as end:
        code = end.code
    return {"made": made, "read": read, "live": live, "ended": code, "processes": PartialState(cpu=True).num_processes}
