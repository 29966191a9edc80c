"""Records, cards, pictures, clocks and pushes never end a training: what fails is left out, and named once."""

import copy
import functools
import importlib
import inspect
import math
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

import hf_dwt
from hf_dwt import DistillationArguments, DistillationTrainer, from_weak_teacher
from hf_dwt.objective import Weights
from hf_dwt.programs.measuring import Clock
from hf_dwt.publish.bookkeeping import Bookkeeping, BookkeepingCallback
from hf_dwt.publish.card import model_card
from hf_dwt.publish.push import Pusher, PushRun
from hf_dwt.publish.run_record import RunRecord
from hf_dwt.stages.moments import GrownMoments
from hf_dwt.training.interrupting import Interruption
from hf_dwt.training.meter import TermMeter
from hf_dwt.training.publishing import Publishing

from .hub import ME, Hub
from .models import tiny
from .training import arguments, history, pad, ragged_examples, trainer

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


@functools.cache
def grown(weak: str) -> Any:
    return from_weak_teacher(weak, hidden_size=32, init="random")


def run_of(weak: str, out: Path, **settings: Any) -> DistillationTrainer:
    """A run that has everything to record: a grown student, a teacher, evaluations, saves and, if so set, pushes."""
    ours = {**EVALUATING, "save_strategy": "steps", "save_steps": 1, "max_steps": 2, "per_device_train_batch_size": 4}
    more = {"eval_dataset": ragged_examples(4)}
    return trainer(copy.deepcopy(grown(weak)), weak, out, more=more, **{**ours, **settings})


def warnings_of(log: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in log.records if r.name.startswith("hf_dwt") and r.levelname in ("WARNING", "ERROR")]


def assert_whole(run: DistillationTrainer, out: Path) -> None:
    """Training went to its end and its weights are in the checkpoint."""
    assert run.state.global_step == 2
    saved = tiny("bert").from_pretrained(out / "checkpoint-2")
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), run.model.parameters(), strict=True))


# ---- each part in turn ----

# Modules of bookkeeping, and what is none in them or is called by the user alone.
MODULES = (
    *("publish", "training.interrupting", "training.meter", "training.opening", "training.record"),
    *("hub_errors", "assess"),
)


def is_bookkeeping(module: str) -> bool:
    return f"{module}.".startswith(tuple(f"hf_dwt.{name}." for name in MODULES))


def modules() -> list[Any]:
    names = [module.name for module in pkgutil.walk_packages(hf_dwt.__path__, "hf_dwt.")]
    found = [name for name in names if is_bookkeeping(name)]
    found.remove("hf_dwt.publish.bookkeeping")
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
                    # The first catches what each push raises, as the guard does; in the other a run is trained.
                    if function in (Pusher._work, Interruption.watched):
                        continue
                    if inspect.isfunction(function) and (clock or not method.startswith(("__", "on_"))):
                        yield Part(f"{module.__name__}.{name}.{method}", function, value)
            elif callable(value):
                yield Part(f"{module.__name__}.{name}", value)
    for name in (
        "_sections",
        "_training_section",
        "_save_records",
        "_save_growth",
        "_run_record",
        "_save_card",
        "_write_card",
        "_add_card",
        "_checkpoint_on_the_hub",
    ):
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
    assert len(done) >= 60 and {
        "hf_dwt.publish.describe.describe_environment",
        "hf_dwt.training.meter.Stopwatch.__exit__",
    } <= {p.name for p in done}
    print(f"{len(done)} parts of {len(done) + len(left)} were reached, in {number} rounds")


def events() -> list[tuple[type[TrainerCallback], str]]:
    """The events of every callback that the library has."""
    found = []
    for name in [module.name for module in pkgutil.walk_packages(hf_dwt.__path__, "hf_dwt.")]:
        for value in vars(importlib.import_module(name)).values():
            if inspect.isclass(value) and issubclass(value, TrainerCallback) and value.__module__ == name:
                found += [(value, event) for event in vars(value) if event.startswith("on_")]
    return [pair for pair in found if pair != (PushRun, "on_init_end")]  # refusals, before the first step


def plant_in(run: DistillationTrainer, kind: type[TrainerCallback], event: str) -> None:
    """Let an event of a callback of the run raise, as a subclass of it would."""
    callback = next(c for c in run.callback_handler.callbacks if type(c).__mro__[0] is kind)
    callback.__class__ = type(f"Broken{kind.__name__}", (kind,), {event: broken})


@pytest.mark.parametrize(("kind", "event"), events(), ids=lambda value: getattr(value, "__name__", value))
def test_a_callback_ends_a_run_only_if_it_belongs_to_the_mathematics(
    kind: Any, event: str, weak: str, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, settings = tmp_path / "out", {"teacher_cache": str(tmp_path / "cache")} if kind.__name__ == "UseCache" else {}
    run = run_of(weak, out, **(PUSHING if kind.__name__ == "PushRun" else {}), **settings)
    if kind is GrownMoments:
        run.add_callback(object.__new__(kind))  # as a stage does, with the moments of the one before it
    if kind is Clock:
        run.add_callback(kind())  # as a program does
    plant_in(run, kind, event)
    caplog.clear()
    assert issubclass(kind, BookkeepingCallback) == is_bookkeeping(kind.__module__)
    if not issubclass(kind, BookkeepingCallback):
        with pytest.raises(Injected):
            run.train()
        return
    run.train()
    assert_whole(run, out)
    told = warnings_of(caplog)
    assert len(told) == 1 and f"Left out: {kind.part} (" in told[0], told


def test_a_guard_warns_once_of_a_part_and_lets_a_user_stop(caplog: pytest.LogCaptureFixture) -> None:
    guard = Bookkeeping()
    for number in range(3):
        with guard("a part"):
            raise Injected(str(number))
        assert guard.get("another", lambda: 1 // 0, "default") == "default"
    assert warnings_of(caplog) == [
        "Left out: a part (Injected: 0)",
        "Left out: another (ZeroDivisionError: integer division or modulo by zero)",
    ]
    for error, through in ((KeyboardInterrupt(), ()), (SystemExit(), ()), (Injected(), (Injected,))):
        with pytest.raises(type(error)), guard("a part", through):
            raise error


# ---- what stock training survives ----


class Diverge(TrainerCallback):
    """Makes the student NaN after the first step, as a learning rate of 1e30 does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            with torch.no_grad():
                next(kwargs["model"].parameters()).fill_(torch.nan)


class AddAnEntry(TrainerCallback):
    """Writes into the log what has no step."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.log_history.append({"mine": 1.0})


def test_a_student_that_diverges_is_told_once_and_trains_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"eval_dataset": ragged_examples(8), "callbacks": [Diverge(), AddAnEntry()]}
    saving = {"save_strategy": "steps", "save_steps": 3, "soft_weight_schedule": "constant"}
    run = trainer(tiny("bert"), tiny("bert", seed=1), tmp_path, max_steps=3, more=more, **EVALUATING, **saving)
    run.train()
    seen = [entry for entry in run.state.log_history if "eval_runtime" in entry]
    assert [entry["step"] for entry in seen] == [1, 2, 3]
    assert all(math.isnan(entry[key]) for entry in seen for key in ("eval_loss", "eval_perplexity", "eval_soft_loss"))
    assert all(math.isfinite(entry["eval_teacher_loss"]) for entry in seen)
    told = [line for line in warnings_of(caplog) if "diverged" in line]
    assert len(told) == 1 and "eval_loss is nan" in told[0] and not any("Left out" in t for t in warnings_of(caplog))
    record = RunRecord.load(tmp_path)
    assert record.overtook is None and len(record.curve) == len(run.state.log_history)
    assert {"mine": 1.0} in record.curve and "eval_loss" not in record.metrics  # no earlier figure in its place
    assert (tmp_path / "checkpoint-3" / "model.safetensors").exists()


@dataclass
class WithArrays(DistillationArguments):
    """Arguments of a user's own, that no `==` makes one answer of."""

    class_weights: Any = field(default_factory=lambda: np.array([1.0, 2.0]))
    prior: Any = field(default_factory=lambda: torch.ones(3))
    table: Any = field(default_factory=lambda: {(1, 2): "pair"})
    steps_at: Any = (1, 2)


def test_arguments_of_any_kind_are_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = vars(arguments(tmp_path, max_steps=1, save_strategy="steps", save_steps=1))
    args = WithArrays(str(tmp_path), use_cpu=True, max_steps=1, save_steps=1, disable_tqdm=True, report_to="none")
    assert plain["save_steps"] == args.save_steps
    run = DistillationTrainer(tiny("bert"), args, pad, ragged_examples(), callbacks=[])
    run.train()
    settings = RunRecord.load(tmp_path / "checkpoint-1").settings
    assert settings["class_weights"] == "[1. 2.]" and "steps_at" not in settings and settings["max_steps"] == 1
    assert (tmp_path / "checkpoint-1" / "model.safetensors").exists() and not warnings_of(caplog)


@pytest.mark.parametrize("filtered", [True, False])
def test_a_step_that_is_not_finite_is_filtered_from_the_terms_as_from_the_loss(filtered: bool, tmp_path: Path) -> None:
    class Spoiled(DistillationTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            spoil = self.model.training and self.state.global_step in (2, 3, 6)
            with torch.no_grad():
                weight = self.model.get_input_embeddings().weight
                before = weight.clone()
                weight.fill_(torch.nan) if spoil else None
            loss = super().compute_loss(*args, **kwargs)
            with torch.no_grad():
                weight.copy_(before)
            return loss.detach() * 0.0 + sum(p.sum() for p in self.model.parameters()) * 0.0 if spoil else loss

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            step = self.state.global_step
            loss = super().training_step(*args, **kwargs)
            return loss * torch.nan if step in (2, 3, 6) else loss

    weights = {"hard_weight": 0.5, "soft_weight": 2.0, "soft_weight_schedule": "constant"}
    more = {"logging_steps": 3, "logging_nan_inf_filter": filtered, "learning_rate": 0.0}
    run = trainer(
        tiny("bert"), tiny("bert", seed=1), tmp_path, max_steps=9, trainer_class=Spoiled, **weights, **more
    )  # steps 2 and 3 in two windows, and 6, the first of its window
    run.train()
    logged = history(run, "loss", "hard_loss", "soft_loss")
    for loss, hard, soft in logged:
        assert math.isfinite(loss) == filtered or math.isnan(loss)
        if filtered:
            assert loss == pytest.approx(0.5 * hard + 2.0 * soft, abs=2e-4) and hard > 0 and soft > 0
    assert len(logged) == 3 and (filtered or any(math.isnan(hard) for _, hard, _ in logged))


def test_terms_of_a_window_without_a_finite_step_are_no_numbers() -> None:
    meter = TermMeter()
    for step, value in enumerate((math.nan, math.inf)):
        loss = torch.tensor(value)
        terms = {"loss": loss, "hard_loss": loss, "agreement": torch.tensor(1.0)}
        meter.add(terms, torch.tensor(0.5), step, torch.tensor(True), nan_inf_filter=True)

    class OneProcess:
        @staticmethod
        def reduce(values: torch.Tensor, reduction: str) -> torch.Tensor:
            return values

    logs = meter.drain(2, lambda step: Weights(1.0, 0.0), OneProcess())
    assert set(logs) == {"hard_loss", "agreement"} and all(math.isnan(value) for value in logs.values())


def test_named_evaluation_sets_are_described_as_one_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weak = tiny("bert", seed=1)
    sets = {"b": ragged_examples(8, seed=3), "a": ragged_examples(8, seed=4), "a_b": ragged_examples(8, seed=5)}
    saving = {"save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True}
    best = {**saving, "metric_for_best_model": "eval_a_loss"}
    out = tmp_path / "named"
    run = trainer(tiny("bert"), weak, out, max_steps=4, more={"eval_dataset": sets}, learning_rate=3e-2, **{
        **EVALUATING, "eval_steps": 2
    }, **best)  # fmt: skip
    caplog.clear()
    run.train()
    record = RunRecord.load(out)
    logged = {name: [e for e in run.state.log_history if f"eval_{name}_loss" in e] for name in sets}
    assert list(record.evaluations) == ["a", "b", "a_b"]  # the one that the best model is chosen by, first
    for name, entries in record.evaluations.items():
        assert [e["eval_loss"] for e in entries] == [e[f"eval_{name}_loss"] for e in logged[name]]
        assert [e["eval_teacher_loss"] for e in entries] == [e[f"eval_{name}_teacher_loss"] for e in logged[name]]
    assert record.metrics["eval_accuracy"] == logged["a"][-1]["eval_a_accuracy"]
    passed = [e for e in logged["a"] if e["eval_a_loss"] < e["eval_a_teacher_loss"]]
    assert (record.overtook or {}).get("step") == (passed[0]["step"] if passed else None)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = model_card(record)
    results = card.data.to_dict()["model-index"][0]["results"]
    assert [result["dataset"]["split"] for result in results] == ["a", "b", "a_b"]
    value = {metric["type"]: metric["value"] for metric in results[1]["metrics"]}["loss"]
    assert value == pytest.approx(logged["b"][-1]["eval_b_loss"], abs=1e-6)
    for name in sets:
        assert f"| **this model** on `{name}` |" in str(card) and f"| the weak teacher on `{name}` |" in str(card)
    assert not warnings_of(caplog)


def test_an_entry_of_two_prefixes_belongs_to_the_set_that_was_evaluated() -> None:
    curve = [
        {"step": 1, "eval_soft_loss": 2.0, "eval_soft_soft_loss": 0.5, "eval_soft_runtime": 1.0},
        {"step": 1, "eval_loss": 3.0, "eval_soft_loss": 0.25, "eval_runtime": 1.0},
        {"step": 2, "train_runtime": 1.0, "train_loss": 2.0},
        {"step": 2, "eval_loss": 2.5},
    ]
    found = RunRecord(curve=curve).evaluations
    assert list(found) == ["soft", ""] and found["soft"][0]["eval_soft_loss"] == 0.5
    assert found["soft"][0]["eval_loss"] == 2.0 and [e["eval_loss"] for e in found[""]] == [3.0, 2.5]
