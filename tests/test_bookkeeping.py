"""Records, cards, pictures, clocks and pushes never end a training: what fails is left out, and named once."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import hf_dwt
from hf_dwt import DistillationTrainer, from_weak_teacher
from hf_dwt.callbacks.push import Pusher
from hf_dwt.publishing import Publishing

from .hub import ME, Hub
from .models import tiny
from .training import ragged_examples, trainer

EVALUATING: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1}
PUSHING: dict[str, Any] = {"push_to_hub": True, "hub_model_id": f"{ME}/student", "hub_always_push": True}


class Injected(Exception):
    """What no code of the library expects."""


def broken(*args: Any, **kwargs: Any) -> Any:
    raise Injected("planted")


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("teacher") / "weak"
    tiny("bert", seed=1).save_pretrained(place)
    return str(place)


def run_of(weak: str, out: Path, **settings: Any) -> DistillationTrainer:
    """A run that has everything to record: a grown student, a teacher, evaluations, saves and, if so set, pushes."""
    ours = {**EVALUATING, "save_strategy": "steps", "save_steps": 1, "max_steps": 2, "per_device_train_batch_size": 4}
    more = {"eval_dataset": ragged_examples(4)}
    student = from_weak_teacher(weak, hidden_size=32, init="random")
    return trainer(student, weak, out, more=more, **{**ours, **settings})


def warnings_of(log: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in log.records if r.name.startswith("hf_dwt") and r.levelname in ("WARNING", "ERROR")]


def assert_whole(run: DistillationTrainer, out: Path) -> None:
    """Training went to its end and its weights are in the checkpoint."""
    assert run.state.global_step == 2
    saved = tiny("bert").from_pretrained(out / "checkpoint-2")
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), run.model.parameters(), strict=True))


# ---- each part in turn ----

# Modules of bookkeeping, and what is none in them or is called by the user alone.
MODULES = ("facts", "cards", "callbacks", "meter", "hub", "weights", "faults", "assess")


def modules() -> list[Any]:
    names = [module.name for module in pkgutil.walk_packages(hf_dwt.__path__, "hf_dwt.")]
    found = [name for name in names if name.split(".")[1] in MODULES]
    return [importlib.import_module(name) for name in found]


@dataclass(eq=False)
class Part:
    """A function or method that can be made to raise wherever its name is bound; it notes whether it was reached."""

    name: str
    original: Any
    owner: Any = None  # the class of a method
    reached: bool = False

    @property
    def text(self) -> str:
        return f"planted in {self.name}."

    def plant(self, patch: pytest.MonkeyPatch) -> None:
        def raising(*args: Any, **kwargs: Any) -> Any:
            self.reached = True
            raise Injected(self.text)

        if self.owner is not None:
            kind, name = inspect.getattr_static(self.owner, self.original.__name__), self.original.__name__
            patch.setattr(self.owner, name, property(raising) if isinstance(kind, property) else raising)
            return
        for module in [module for name, module in sys.modules.items() if name.startswith("hf_dwt")]:
            for name, value in list(vars(module).items()):
                if value is self.original:
                    patch.setattr(module, name, raising)


def parts() -> Iterator[Part]:
    """Every function and every method (but those of construction) of the modules of bookkeeping."""
    for module in modules():
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    function = function.fget if isinstance(function, property) else function
                    clock = method in ("__enter__", "__exit__")
                    if function is Pusher._work:  # catches what each push raises, as the guard does
                        continue
                    if inspect.isfunction(function) and (clock or not method.startswith(("__", "on_"))):
                        yield Part(f"{module.__name__}.{name}.{method}", function, value)
            elif callable(value):
                yield Part(f"{module.__name__}.{name}", value)
    for name in ("_save_facts", "_save_growth", "_facts", "_write_card", "_add_card", "_checkpoint_on_the_hub"):
        yield Part(f"publishing.{name}", getattr(DistillationTrainer, name), Publishing)


def subject(message: str) -> str:
    """What a warning says is left out, or which push failed."""
    return message.split(" (")[0].split(" failed")[0]


def test_no_part_of_the_books_ends_a_run(
    weak: str, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In each round every part raises that did not in the rounds before: a part that raises hides those it calls."""
    left, done = list(parts()), list[Part]()
    for number in range(len(left)):
        out = tmp_path / str(number)
        run = run_of(weak, out, **PUSHING)
        caplog.clear()
        with pytest.MonkeyPatch.context() as patch:
            for part in left:
                part.reached = False
                part.plant(patch)
            run.train()
        assert_whole(run, out)
        told = warnings_of(caplog)
        assert len({subject(line) for line in told}) == len(told), told
        new = [part for part in left if any(part.text in line for line in told)]
        if not new:
            break
        done += new
        left = [part for part in left if part not in new]
    assert not [part.name for part in left if part.reached]  # no part failed without a word
    assert len(done) >= 60 and {"hf_dwt.facts.environment", "hf_dwt.meter.Stopwatch.__exit__"} <= {
        p.name for p in done
    }
    print(f"{len(done)} parts of {len(done) + len(left)} were reached, in {number} rounds")


def events() -> list[tuple[type[TrainerCallback], str]]:
    """The events of every callback that the library has."""
    found = []
    for name in [module.name for module in pkgutil.walk_packages(hf_dwt.__path__, "hf_dwt.")]:
        for value in vars(importlib.import_module(name)).values():
            if inspect.isclass(value) and issubclass(value, TrainerCallback) and value.__module__ == name:
                found += [(value, event) for event in vars(value) if event.startswith("on_")]
    return found
