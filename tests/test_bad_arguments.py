"""Every argument of every public callable: a wrong name, type or value is an error before a model is loaded."""

import inspect
import typing
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from hf_dwt import DistillationTrainer
from hf_dwt.errors import _RENAMED, ArgumentError
from hf_dwt.trainer import _STOCK

from .models import tiny
from .training import arguments


def test_the_trainers_signature_is_the_installed_trainers_and_two_more() -> None:
    stock, ours = (inspect.signature(kind).parameters for kind in (Trainer, DistillationTrainer))
    plain = [(p.name, p.kind, p.default) for p in stock.values()]
    assert [(p.name, p.kind, p.default) for p in ours.values()][: len(plain)] == plain
    rest = {name: ours[name].kind for name in list(ours)[len(plain) :]}
    assert rest == {
        "teacher_model": inspect.Parameter.KEYWORD_ONLY,
        "teacher_processing_class": inspect.Parameter.KEYWORD_ONLY,
        "newer": inspect.Parameter.VAR_KEYWORD,
    }
    hints = typing.get_type_hints(DistillationTrainer.__init__)
    assert hints["newer"] is typing.Never  # a type checker refuses what this would swallow
    assert not {name for name in stock if hints[name] is Any}
    trained, theirs = (inspect.signature(kind.train).parameters for kind in (DistillationTrainer, Trainer))
    assert [(p.name, p.kind, p.default) for p in trained.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    assert typing.get_type_hints(DistillationTrainer.train)["return"] is TrainOutput


def test_an_argument_that_a_later_trainer_takes_passes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, original = [], Trainer.__init__

    def later(self: Any, *args: Any, newest: int = 0, **named: Any) -> None:
        taken.append(newest)
        original(self, *args, **named)

    monkeypatch.setattr(Trainer, "__init__", later)
    monkeypatch.setattr("hf_dwt.trainer._STOCK", [*_STOCK, "newest"])
    more: dict[str, Any] = {"newest": 3}
    DistillationTrainer(tiny("bert"), arguments(tmp_path), **more)
    assert taken == [3]


@pytest.mark.parametrize(
    ("name", "right"), [("trian_dataset", "train_dataset"), ("teacher_modle", "teacher_model"), *_RENAMED.items()]
)
def test_a_misspelt_argument_of_the_trainer_is_named(name: str, right: str, tmp_path: Path) -> None:
    known = set(inspect.signature(DistillationTrainer).parameters)
    with pytest.raises(ArgumentError) as error:
        DistillationTrainer(tiny("bert"), arguments(tmp_path), **{name: 3})  # type: ignore[arg-type]
    assert error.value.argument == name and (repr(right) in error.value.fix) == (right in known)
