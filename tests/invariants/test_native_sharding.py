"""A student that `from_pretrained(distributed_config=...)` has sharded takes the steps of one process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from transformers import MixtralConfig

from tests.engines import Engine
from tests.models import BUILDERS, DECODER, tiny
from tests.training import history, trainer

from .test_engines import FIGURES, steps

MIXTRAL = (MixtralConfig, "AutoModelForCausalLM", {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2})
LAYOUTS: dict[str, tuple[int, dict[str, Any], tuple[str, ...]]] = {
    "fsdp2": (2, {"fsdp_size": 2}, ("gpt2", "t5")),  # which transformers shards as a whole
    "tp": (2, {"tp_size": 2}, ("qwen3",)),
    "fsdp2 and tp": (4, {"fsdp_size": 2, "tp_size": 2}, ("qwen3",)),
    "experts": (2, {"fsdp_size": 2, "ep_size": 2}, ("mixtral",)),
}


@pytest.fixture(autouse=True)
def mixtral() -> Iterator[None]:
    with patch.dict(BUILDERS, mixtral=MIXTRAL):
        yield


def on_each_rank(engine: Engine, names: tuple[str, ...]) -> dict[str, list[tuple[float, ...]]]:
    return {name: steps(name, engine) for name in names}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_steps_are_those_of_one_process(layout: str) -> None:
    processes, loading, names = LAYOUTS[layout]
    engine = Engine(processes, loading=loading)
    for results in engine.run(on_each_rank, engine, names):
        for name, found in results.items():
            np.testing.assert_allclose(found, steps(name), rtol=1e-5, err_msg=name)


def steps_of_sharded_models(engine: Engine | None, out: Path) -> list[tuple[float, ...]]:
    """As `steps`, with a teacher that is sharded as the student is."""
    student, teacher = (
        model if engine is None else engine.load(model) for model in (tiny("gpt2"), tiny("gpt2", seed=1))
    )
    size = 8 // (1 if engine is None else engine.data_parallel)
    run = trainer(student, teacher, out, per_device_train_batch_size=size, soft_weight_schedule="constant")
    run.train()
    return history(run, *FIGURES)


def test_a_teacher_may_be_sharded_as_the_student_is(tmp_path: Path) -> None:
    """Its parts have addresses of their own on every process: it is not taken for the student."""
    engine = Engine(loading={"fsdp_size": 2})
    for found in engine.run(steps_of_sharded_models, engine, tmp_path):
        np.testing.assert_allclose(found, steps_of_sharded_models(None, tmp_path), rtol=1e-5)
