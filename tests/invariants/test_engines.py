"""Every engine that spreads a model over processes takes the steps of one process."""

import tempfile

import numpy as np
import pytest
from accelerate import PartialState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from tests.engines import ENGINES, Engine
from tests.models import tiny
from tests.training import history, trainer

FIGURES = ("loss", "grad_norm", "hard_loss", "soft_loss")
NAMES = ("gpt2", "llama", "modernbert")


def steps(name: str, engine: Engine | None = None) -> list[tuple[float, ...]]:
    """The figures of five steps of eight samples, over all processes."""
    student, settings, processes = tiny(name), {}, 1
    if engine is not None:
        settings, student, processes = engine.settings(student), engine.load(student), engine.data_parallel
    with tempfile.TemporaryDirectory() as out:
        run = trainer(
            student,
            tiny(name, seed=1),
            out,
            per_device_train_batch_size=8 // processes,
            soft_weight_schedule="constant",
            **settings,
        )
        run.train()
    assert engine is None or PartialState().num_processes == engine.processes
    return history(run, *FIGURES)


def on_each_rank(engine: Engine) -> dict[str, list[tuple[float, ...]]]:
    found = {}
    for name in engine.can(NAMES):
        found[name] = steps(name, engine)
        unset_hf_deepspeed_config()  # under which whatever model is made next would be sharded
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_the_steps_are_those_of_one_process(engine: str) -> None:
    for results in ENGINES[engine].run(on_each_rank, ENGINES[engine]):
        for name, found in results.items():
            expected = steps(name)
            assert len({loss for loss, *_ in expected}) == 5  # it trains: the steps differ
            np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)
