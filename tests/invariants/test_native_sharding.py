"""A student that `from_pretrained(distributed_config=...)` has sharded takes the steps of one process."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from transformers import MixtralConfig

from tests.engines import Engine
from tests.models import BUILDERS, DECODER

from .test_engines import steps

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
