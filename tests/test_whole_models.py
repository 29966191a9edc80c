"""What an engine has set up for the loading of models is set aside where they must be whole, and put back."""

import os

import pytest
from transformers.integrations.deepspeed import (
    HfDeepSpeedConfig,
    is_deepspeed_zero3_enabled,
    unset_hf_deepspeed_config,
)

from hf_dwt.engines import gathered, whole_models

from .models import tiny

VARIABLE = "FSDP_CPU_RAM_EFFICIENT_LOADING"


@pytest.mark.parametrize("efficient", [None, "true", "false"])
def test_the_users_settings_come_back_whatever_happens(efficient: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if efficient is not None:
        monkeypatch.setenv(VARIABLE, efficient)
    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})  # lives as long as its name
    try:
        with pytest.raises(KeyError), whole_models():
            assert not is_deepspeed_zero3_enabled() and VARIABLE not in os.environ
            with whole_models():
                assert not is_deepspeed_zero3_enabled()
            assert not is_deepspeed_zero3_enabled()
            raise KeyError
        assert is_deepspeed_zero3_enabled() and os.environ.get(VARIABLE) == efficient and config.is_zero3()
    finally:
        unset_hf_deepspeed_config()
    with whole_models():
        pass
    assert not is_deepspeed_zero3_enabled()


def test_a_model_that_is_whole_is_not_copied() -> None:
    model = tiny("bert")
    assert gathered(model) is model
