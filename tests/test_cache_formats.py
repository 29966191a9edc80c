"""A cache format is one record: whatever names, chooses or uses formats finds it there."""

import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import HfArgumentParser

import hf_dwt.arguments
from hf_dwt import DistillationArguments
from hf_dwt.errors import ArgumentError, CacheError
from hf_dwt.objective import Targets
from hf_dwt.objective.logits import LinearLogits
from hf_dwt.teachers.cache.formats import AUTO, FORMATS, CacheFormat, choose_format, format_names
from hf_dwt.teachers.cache.read import MANIFEST
from hf_dwt.teachers.cache.store import to_numpy

from .test_cache import close, living, trained


class HalfLogits:
    """Logits in fp16; in truth 2 P bytes a row, fewer so that "auto" takes it."""

    bytes_per_row = 1

    def __init__(self, sample: Targets, k: int, temperature: float) -> None:
        self.settings: Mapping[str, object] = {"classes": sample.logits.shape[-1]}

    def encode(self, targets: Targets, part: slice, labels: Tensor, key: bytes) -> dict[str, np.ndarray]:
        logits = targets.logits[part]
        assert isinstance(logits, Tensor)
        return {"logits": to_numpy(logits).astype(np.float16)}

    def decode(self, values: Mapping[str, Tensor]) -> Targets:
        return Targets(values["logits"].float())


HALF = CacheFormat(
    name="half_logits",
    title="logits in fp16",
    function=HalfLogits,
    promise="the soft term within the rounding of fp16",
    size="2 P",
    unbiased=True,
    every_divergence=True,
)


def again(module: ModuleType) -> ModuleType:
    """The module as another process would import it, apart from the one that is there."""
    assert module.__file__ is not None
    spec = importlib.util.spec_from_file_location(module.__name__ + "_again", module.__file__)
    assert spec is not None and spec.loader is not None
    fresh = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look there
    try:
        spec.loader.exec_module(fresh)
    finally:
        del sys.modules[spec.name]
    return fresh


def test_a_format_is_found_by_arguments_help_auto_and_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="teacher_cache_form='half_logits'"):
        DistillationArguments("unused", teacher_cache_form="half_logits")
    monkeypatch.setitem(FORMATS, HALF.name, HALF)
    with pytest.raises(ArgumentError, match="Did you mean 'half_logits'?"):
        DistillationArguments("unused", teacher_cache_form="half_logit")
    help_text = " ".join(HfArgumentParser(again(hf_dwt.arguments).DistillationArguments).format_help().split())
    assert "half_logits (logits in fp16)" in help_text and "sampled, half_logits)" in help_text
    for form in (HALF.name, AUTO):
        run = trained(tmp_path, tmp_path / form, teacher_cache_form=form)
        assert json.loads((tmp_path / form / MANIFEST).read_text())["made_of"]["form"] == HALF.name
        assert close(run, living("bert"), 2e-3)


def test_the_card_cites_the_format_of_a_cache() -> None:
    assert FORMATS["sampled"].references
    for cache, cited in (("folder", True), (None, False)):
        args = DistillationArguments("unused", teacher_cache=cache, teacher_cache_form="sampled")
        assert (FORMATS["sampled"] in args.parts()) == cited


def sample(linear: bool) -> Targets:
    """The targets of three rows, of 100 classes."""
    hidden, weight = torch.randn(3, 8), torch.randn(100, 8)
    logits = LinearLogits(hidden, weight)
    return Targets(logits if linear else logits[:])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("linear", [True, False])
def test_a_codec_stores_the_bytes_that_it_says(name: str, linear: bool) -> None:
    record, targets = FORMATS[name], sample(linear)
    if record.linear_head and not linear:
        with pytest.raises(CacheError, match=f"teacher_cache_form='{name}'.*'sampled'"):
            choose_format(name, True, targets, 5, 1.0)
        return
    chosen, codec = choose_format(name, record.vocabulary, targets, 5, 1.0)
    values = codec.encode(targets, slice(1, 3), torch.tensor([4, 99]), bytes(16))
    assert chosen is record and {len(value) for value in values.values()} == {2}
    assert sum(value.nbytes for value in values.values()) == 2 * codec.bytes_per_row
    formula = record.size.replace(" H", " * 8").replace(" P", " * 100").replace(" k", " * 5")
    assert codec.bytes_per_row == eval(formula)


def test_auto_takes_the_smallest_of_what_fits_and_is_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    for k, linear, name in ((2, True, "sampled"), (50, True, "hidden"), (50, False, "sampled")):
        assert choose_format(AUTO, True, sample(linear), k, 1.0)[0].name == name
    monkeypatch.setitem(FORMATS, HALF.name, replace(HALF, unbiased=False))
    assert choose_format(AUTO, True, sample(False), 50, 1.0)[0].name == "sampled"
    assert choose_format(AUTO, False, sample(False), 50, 1.0)[0].name == "logits"


def test_a_format_that_keeps_all_is_offered_for_other_divergences(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {record.name for record in FORMATS.values() if record.every_divergence and record.vocabulary}
    assert set(format_names(every_divergence=True)) == whole and AUTO in format_names()
    monkeypatch.setitem(FORMATS, HALF.name, HALF)
    assert HALF.name in format_names(every_divergence=True)
