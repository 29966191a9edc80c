"""What the matrix of engines has not: more of transformers' own sharding, and DeepSpeed's tensor parallelism."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from transformers import MixtralConfig

from tests.engines import DEEPSPEED, Engine, zero
from tests.models import BUILDERS, DECODER, tiny
from tests.training import history

from .engine_cases import FIGURES, Figures, figures, run_of

pytestmark = pytest.mark.engines

MIXTRAL = (MixtralConfig, "AutoModelForCausalLM", {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2})


class SharesBatches(Engine):
    """An engine all of whose processes have the same batch."""

    @property
    def data_parallel(self) -> int:
        return 1


LAYOUTS: dict[str, tuple[Engine, str]] = {
    "fsdp2, as a whole": (Engine(loading={"fsdp_size": 2}), "t5"),  # which has no plan
    "tp": (Engine(loading={"tp_size": 2}), "qwen3"),
    "fsdp2 and tp": (Engine(4, loading={"fsdp_size": 2, "tp_size": 2}), "qwen3"),
    "hsdp": (Engine(4, loading={"dp_replicate_size": 2, "fsdp_size": 2}), "llama"),
    "experts": (Engine(loading={"fsdp_size": 2, "ep_size": 2}), "mixtral"),
    "DeepSpeed's tp": (
        SharesBatches(settings=zero(1, tensor_parallel={"autotp_size": 2}), environment=DEEPSPEED),
        "llama",
    ),
}


@pytest.fixture(autouse=True)
def mixtral() -> Iterator[None]:
    with patch.dict(BUILDERS, mixtral=MIXTRAL):
        yield


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_steps_are_those_of_one_process(layout: str) -> None:
    engine, name = LAYOUTS[layout]
    for found in engine.run(figures, engine, name):
        np.testing.assert_allclose(found, figures(None, name), rtol=1e-5)


def figures_of_sharded_models(engine: Engine | None, out: Path) -> Figures:
    """Those of a student with a teacher that is sharded as it is."""
    teacher = tiny("gpt2", seed=1)
    run = run_of(engine, tiny("gpt2"), teacher if engine is None else engine.load(teacher), out)
    run.train()
    return history(run, *FIGURES)


def test_a_teacher_may_be_sharded_as_the_student_is(tmp_path: Path) -> None:
    """Its parts have addresses of their own on every process: it is not taken for the student."""
    engine = Engine(loading={"fsdp_size": 2})
    for found in engine.run(figures_of_sharded_models, engine, tmp_path):
        np.testing.assert_allclose(found, figures_of_sharded_models(None, tmp_path), rtol=1e-5)
