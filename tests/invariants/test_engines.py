"""Every engine that spreads a model over processes gives what one process gives."""

import importlib.util
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.engines import ENGINES

from .engine_cases import ALL, CASES, on_each_rank

pytestmark = pytest.mark.engines

TOLERANCE = 1e-5
CANNOT = {
    ("fsdp1", "evaluated before"): "evaluate='before train()': has prepared the student without an optimizer",
    ("fsdp2", "evaluated before"): "fsdp_config.version=2: shards a model together with its optimizer",
    ("fsdp2 options", "evaluated before"): "fsdp_config.version=2: shards a model together with its optimizer",
    ("hsdp", "evaluated before"): "fsdp_config.version=2: shards a model together with its optimizer",
    ("zero1", "evaluated before"): "deepspeed.zero_optimization.stage=1: has DeepSpeed evaluate after train()",
    ("zero2", "evaluated before"): "deepspeed.zero_optimization.stage=2: has DeepSpeed evaluate after train()",
    ("zero3", "evaluated before"): "evaluate='before train()': has prepared the student without an optimizer",
    ("tp", "adapted"): "adds to parts of layers",
    **{(engine, "best"): "load_best_model_at_end=True: would read whole weights" for engine in ("tp", "native fsdp2")},
    # In the words of transformers:
    ("fsdp2 options", "checkpointed"): "can't both be set to True",
    **{(f"zero{stage}", "in bf16"): "Your setup doesn't support bf16" for stage in (1, 2, 3)},
    **{("tp", case): "has no `tp_plan`" for case in ("gpt2", "shares of gpt2", "modernbert")},
    **{(engine, "resumed"): "Resuming is not supported for models sharded" for engine in ("tp", "native fsdp2")},
}
"""(engine, case) -> what the error reads like of what an engine is not able to do."""

ENDS = {("fsdp1", "resumed"), ("fsdp1", "best")}
"""What ends the process, under transformers' own trainer too: FSDP 1 saves a whole state on accelerators alone."""


@pytest.fixture(scope="module")
def of_engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the ranks of an engine found of all cases, started once."""

    @cache
    def run(name: str) -> list[dict[str, Any]]:
        engine, cases = ENGINES[name], [case for case in ALL if (name, case) not in ENDS]
        try:
            return engine.run(on_each_rank, engine, tmp_path_factory.mktemp("run"), cases)
        except (EOFError, AssertionError) as error:  # a rank died: kept, for all cases to tell
            return [dict.fromkeys(ALL, f"a rank ended: {error!r}")]

    return run


@pytest.fixture(scope="module")
def of_one_process(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def run(case: str) -> Any:
        return ALL[case](None, tmp_path_factory.mktemp("run"))

    return run


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_as_in_one_process(engine: str, case: str, of_engine: Any, of_one_process: Any) -> None:
    require_installed(engine)
    if (engine, case) in ENDS:
        pytest.skip("torch ends the process")
    for found in of_engine(engine):
        if is_done(engine, case, found[case]):
            assert_close(found[case], of_one_process(case))


@pytest.mark.parametrize("engine", ENGINES)
def test_bf16_is_as_close_to_one_process_as_stock_is(engine: str, of_engine: Any, of_one_process: Any) -> None:
    require_installed(engine)
    one = of_one_process("in bf16")
    for found in of_engine(engine):
        if not is_done(engine, "in bf16", found["in bf16"]):
            continue
        ours, stock = (
            np.abs(np.divide(found["in bf16"][kind], one[kind]) - 1).max() for kind in ("DistillationTrainer", "Stock")
        )
        assert ours <= 3 * stock + TOLERANCE


def is_done(engine: str, case: str, found: Any) -> bool:
    """Whether the case ran to its end; it has to, or to end in the error that is expected of it."""
    if (expected := CANNOT.get((engine, case))) is None:
        assert not isinstance(found, str), found
        return True
    assert isinstance(found, str) and expected in found, found
    return False


def require_installed(engine: str) -> None:
    if ENGINES[engine].deepspeed and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed: pip install deepspeed, then make test-engines")


def assert_close(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)
    elif isinstance(expected, list) and isinstance(expected[0], list):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=1e-7)
