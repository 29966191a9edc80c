"""What a student says about where it comes from."""

import dataclasses
import json

import pytest

from hf_dwt import from_weak_teacher
from hf_dwt.growth.strategies import INITS
from tests.growth.oracle import expected, teacher_name
from tests.models import BUILDERS, tiny

LARGER = {"hidden_size": 32, "num_hidden_layers": 3}


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_counts_and_sources_are_right(name: str) -> None:
    teacher = tiny(name)
    student = from_weak_teacher(teacher, **LARGER)
    report = student.growth_report
    assert report.parameters.keys() == {key for key, _ in student.named_parameters()}
    for key, parameter in student.named_parameters():
        source = report.parameters[key]
        assert source.name == teacher_name(key, teacher)
        assert source.copied == int(expected(name, key, parameter, teacher)[1].sum())
        assert source.copied + source.fresh == parameter.numel()
    assert report.copied + report.fresh == student.num_parameters()
    assert report.copied >= teacher.num_parameters() and report.fresh > 0


@pytest.mark.parametrize("init", INITS)
def test_as_json_and_as_text(init: str) -> None:
    report = from_weak_teacher(tiny("gpt2"), **LARGER, init=init, rest="zeros", seed=4).growth_report
    facts = json.loads(json.dumps(report.to_dict()))
    assert (facts["init"], facts["rest"], facts["seed"]) == (init, "zeros", 4)
    assert facts["sizes"] == {"n_embd": [16, 32], "n_layer": [2, 3], "n_head": [2, 4]}
    copied = {"random": 0, "clone": 64 * 32, "aki": 64 * 32, "auto": 64 * 32}.get(init, 64 * 16)
    assert facts["parameters"]["transformer.wte.weight"]["copied"] == copied
    text = str(report)
    assert "n_embd: 16 -> 32" in text
    assert f"init={init}, rest=zeros, seed=4" in text
    assert f"{report.copied:,}" in text.splitlines()[-1] and f"{report.fresh:,}" in text.splitlines()[-1]
    layers = "0<-0 1<-1 2<-0" if init == "aki" else "0<-0 1<-1 2<-1"  # it stacks
    assert (f"transformer.h: {layers}" in text) is (init != "random")
    assert len(text.splitlines()) < 30
    assert max(map(len, text.splitlines())) < 119


def test_same_size_says_so() -> None:
    report = from_weak_teacher(tiny("bert")).growth_report
    assert report.sizes == {} and report.fresh == 0
    assert "sizes: the teacher's" in str(report)


def test_a_report_cannot_be_changed() -> None:
    report = from_weak_teacher(tiny("bert")).growth_report
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.seed = 1
