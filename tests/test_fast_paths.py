"""What is fast under an engine: rows before the head, a loss in chunks, the last layer at the rows; and exact."""

import json
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from hf_dwt.forward.calls import logits_of_outputs
from hf_dwt.forward.last_layer import restriction_is_exact
from hf_dwt.forward.row_logits import gathering, trial_batch
from hf_dwt.forward.sharding import own_part
from hf_dwt.objective import chunked
from hf_dwt.objective.logits import LinearLogits

from .engines import ENGINES, Engine, fsdp
from .models import VOCAB, tiny
from .training import history, ragged_examples, trainer

pytestmark = pytest.mark.engines

PAGE = Path(__file__).parents[1] / "docs" / "distribution.md"
MEMORY = Path(__file__).parents[1] / "benchmarks" / "results" / "engine_memory.json"


UNDER: dict[str, Engine] = {
    "DDP": ENGINES["ddp"],
    "DDP, `ddp_static_graph`": Engine(settings=lambda _: {"ddp_static_graph": True}, of_accelerators=False),
    "FSDP1": Engine(settings=fsdp(1, sync_module_states=False, use_orig_params=False)),
    "FSDP1, `use_orig_params`": Engine(settings=fsdp(1, sync_module_states=False, use_orig_params=True)),
    "FSDP2": ENGINES["fsdp2"],
    "HSDP": ENGINES["hsdp"],
    "FSDP2 of transformers": ENGINES["native fsdp2"],
    "ZeRO-1": ENGINES["zero1"],
    "ZeRO-2": ENGINES["zero2"],
    "ZeRO-3": ENGINES["zero3"],
    "TP": ENGINES["tp"],
}


def examples() -> list[dict[str, list[int]]]:
    """Batches of four with labels on most positions, and on few, in turn: half the processes are beyond one half."""
    most, few = (ragged_examples(16, share=share) for share in (0.9, 0.2))
    return [(few if number // 4 % 2 else most)[number] for number in range(16)]


@dataclass
class Seen:
    """What a run has taken: its figures, what the objective was given, and the positions of the model's products."""

    figures: list[tuple[float, ...]] = field(default_factory=list)
    evaluation: float = 0.0
    in_chunks: set[bool] = field(default_factory=set)
    before_the_head: set[bool] = field(default_factory=set)
    at_the_rows: bool = False


def watched(run: Any, seen: Seen) -> None:
    """Have a run note what its objective is given."""
    terms = run._terms

    def noting(logits: Any, rows: Any, *rest: Any) -> Any:
        seen.in_chunks.add(isinstance(logits, LinearLogits))
        return terms(logits, rows, *rest)

    run._terms = noting


def run_of(name: str, engine: Engine | None = None, **more: Any) -> Seen:
    """Two steps and an evaluation, in chunks of five rows."""
    student, settings, processes, seen = tiny(name), {}, 1, Seen()
    if engine is not None:
        settings, student, processes = engine.settings(student), engine.load(student), engine.data_parallel
    few = patch.multiple(chunked, BYTES_ON_CPU=5 * VOCAB * 4, LEAST_ROWS=1)
    with tempfile.TemporaryDirectory() as out, few:
        run = trainer(
            student,
            tiny(name, seed=1),
            out,
            train_dataset=examples(),
            per_device_train_batch_size=8 // processes,
            per_device_eval_batch_size=4,
            max_steps=2,
            soft_weight_schedule="constant",
            **settings,
            **more,
        )
        watched(run, seen)
        run.train()
        seen.evaluation = run.evaluate(examples()[:7])["eval_loss"]
    seen.figures = history(run, "loss", "grad_norm", "soft_loss")
    assert run._student is not None
    seen.before_the_head = {bool(run._student.gathers)}
    seen.at_the_rows = bool(run._student.last_modules)
    return seen


whole = cache(run_of)


def on_a_rank(name: str, engine: Engine, more: dict[str, Any]) -> Seen:
    try:
        return run_of(name, engine, **more)
    finally:
        unset_hf_deepspeed_config()


def cells() -> dict[str, tuple[bool, ...]]:
    """The table of the page: for each engine, what is fast under it."""
    lines = PAGE.read_text(encoding="utf-8").split("## What is fast where", 1)[1].split("\n## ", 1)[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {engine: tuple(value == "yes" for value in values) for engine, *values in rows[2:]}


def test_the_page_has_every_engine() -> None:
    assert cells().keys() == {"one process", *UNDER} and cells()["one process"] == (True, True, True)


def test_the_page_has_the_measured_memory() -> None:
    """Under an engine a step takes about the memory of one in a single process, and a fraction of all logits."""
    peaks = json.loads(MEMORY.read_text(encoding="utf-8"))["peaks"]
    words = " ".join(PAGE.read_text(encoding="utf-8").split())
    for name in ("one process", "zero2", "fsdp2", "zero3"):
        assert peaks[name]["auto"] <= 1.3 * peaks["one process"]["auto"] < 0.1 * peaks[name]["plain"]
        assert f"{peaks[name]['auto'] / 2**20:.0f} MiB" in words
        assert 2790 <= round(peaks[name]["plain"] / 2**20) <= 2810


@pytest.mark.parametrize("engine", UNDER)
def test_the_page_says_what_is_fast_and_it_is_exact(engine: str) -> None:
    name = "llama" if UNDER[engine].loading else "gpt2"
    expected = whole(name)
    assert expected.in_chunks == expected.before_the_head == {True} and expected.at_the_rows
    for seen in UNDER[engine].run(on_a_rank, name, UNDER[engine], {}):
        assert (seen.before_the_head, seen.in_chunks, seen.at_the_rows) == (
            {cells()[engine][0]},
            {cells()[engine][1]},
            cells()[engine][2],
        )
        np.testing.assert_allclose(seen.figures, expected.figures, rtol=1e-5)
        assert seen.evaluation == pytest.approx(expected.evaluation, rel=1e-5)


@pytest.mark.parametrize("engine", ["FSDP1", "FSDP2"])
def test_mixed_precision_of_an_engine_changes_no_path(engine: str) -> None:
    """Logits come out in bf16 there; and a trial that awaits a backward pass would leave FSDP1 gradients in bf16."""
    expected = whole("gpt2", bf16=True)
    for seen in UNDER[engine].run(on_a_rank, "gpt2", UNDER[engine], {"bf16": True}):
        assert seen.before_the_head == seen.in_chunks == {True} and seen.at_the_rows is cells()[engine][2]
        np.testing.assert_allclose(seen.figures, expected.figures, rtol=1e-2)


def last_layer_trials(engine: Engine | None = None) -> list[bool]:
    """Whether the chosen modules pass the trial, and whether keys do, of a last layer that gives nothing yet.

    That layer hides everything from the logits. Only the gradients show that keys at other positions are read.
    """
    student: Any = tiny("llama")
    with tempfile.TemporaryDirectory() as out:
        run = trainer(student, None, out, max_steps=1, **({} if engine is None else engine.settings(student)))
        run.train()
    model: Any = run.model
    assert run._student is not None and run._student.last_modules
    layer = model.get_submodule("model.layers.1")
    with torch.no_grad():
        own_part(layer.self_attn.o_proj.weight).zero_()
    inputs, rows = trial_batch(model.eval())

    def logits() -> torch.Tensor:
        with gathering(model, rows):
            return logits_of_outputs(model(**inputs))[0]

    chosen = run._student.last_modules
    return [restriction_is_exact(model, modules, logits, rows) for modules in (chosen, (layer.self_attn.k_proj,))]


def test_gradients_are_compared_where_parameters_are_sharded() -> None:
    assert last_layer_trials() == [True, False]
    for found in ENGINES["fsdp2"].run(last_layer_trials, ENGINES["fsdp2"]):
        assert found == [True, False]


def error_of(engine: Engine) -> str:
    student = tiny("bert")
    with tempfile.TemporaryDirectory() as out:
        run = trainer(student, tiny("bert", seed=1), out, **engine.settings(student))
        try:
            run.train()
        except Exception as error:
            return repr(error)
    return ""


def test_the_first_error_of_an_engine_is_seen() -> None:
    """What FSDP2 finds at its first forward pass; the next one fails as well, and for another reason."""
    for error in ENGINES["fsdp2"].run(error_of, ENGINES["fsdp2"]):
        assert "decoder.bias' is shared" in error
