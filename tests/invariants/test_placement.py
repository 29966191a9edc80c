"""A teacher that is read under an engine, and one that is placed anywhere, gives the steps of one process."""

import math
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.integrations.deepspeed import deepspeed_config, unset_hf_deepspeed_config

from hf_dwt import DistillationTrainer, assess_teacher, from_weak_teacher
from hf_dwt.teachers.placement import PLACEMENTS, choice
from hf_dwt.teachers.placement.choice import SHARE
from hf_dwt.teachers.placement.layers import layers_of, nbytes, size_of
from hf_dwt.teachers.placement.shard import shard
from tests.engines import ENGINES, Engine, fsdp
from tests.models import BUILDERS, batch, tiny
from tests.training import arguments, history, pad, ragged_examples

pytestmark = pytest.mark.engines

NAMES = ("gpt2", "llama", "modernbert")
FIGURES = ("loss", "grad_norm", "soft_loss")
LAYERS = {"gpt2": "n_layer", "llama": "num_hidden_layers", "modernbert": "num_hidden_layers"}


class Case(NamedTuple):
    """A run.

    name: architecture of student and teacher.
    teacher: how it is given: "path", "loaded" (a model that is loaded when the arguments are there), "object" (a model
        that was there before).
    placement: its `teacher_placement`.
    grown: whether the student is grown from the teacher's files, when the arguments are there.
    cached: whether the teacher's targets come from a cache.
    """

    name: str
    teacher: str = "object"
    placement: str = "replicate"
    grown: bool = False
    cached: bool = False


class Found(NamedTuple):
    """What a run has shown.

    steps: figures of each.
    evaluated: figures of seven examples, which two processes do not share evenly.
    held: the share of the bytes of the teacher's layers that this process holds between calls.
    kept: whether the teacher that was given is as it was.
    restricted: whether the teacher's last layer runs at the rows alone.
    """

    steps: list[tuple[float, ...]]
    evaluated: tuple[float, ...]
    held: float
    kept: bool
    restricted: bool


def run(case: Case, folder: str, engine: Engine | None = None) -> Found:
    """Three steps of eight samples over all processes, and an evaluation."""
    student, given, processes = tiny(case.name), teacher(case.name), 1 if engine is None else engine.data_parallel
    settings = {} if engine is None else engine.settings(student)
    path = Path(folder, case.name)
    with tempfile.TemporaryDirectory() as out:
        args = arguments(
            out,
            per_device_train_batch_size=8 // processes,
            per_device_eval_batch_size=2,
            max_steps=3,
            soft_weight_schedule="constant",
            teacher_placement=case.placement,
            teacher_cache=str(path / "cache") if case.cached else None,
            **settings,
        )
        if case.grown:
            student = from_weak_teacher(path, hidden_size=32, init="clone")
            assert engine is None or not engine.deepspeed or deepspeed_config() is not None  # set aside, not dropped
        loaded = type(given).from_pretrained(path) if case.teacher == "loaded" else given
        data = {"train_dataset": examples(), "eval_dataset": ragged_examples(7, seed=4)}
        source = path if case.teacher == "path" else loaded
        trained = DistillationTrainer(student, args, pad, teacher_model=source, **data)
        trained.train()
        figures = trained.evaluate()
        unset_hf_deepspeed_config()  # under which whatever model is made next would be sharded
    placed: Any = trained.teacher
    size = size_of(given)
    layers = [parameter for layer in layers_of(placed.model) for parameter in layer.parameters()]
    held = nbytes(parameter for parameter in layers if not parameter.is_meta) / size.layers
    evaluated = (figures["eval_loss"], figures["eval_soft_loss"], figures["eval_teacher_loss"])
    restricted = bool(placed.row_logits.last_modules)
    return Found(history(trained, *FIGURES), evaluated, held, is_whole(given), restricted)


def examples() -> list[Any]:
    """33: of two processes the first caches one batch of four more, and the first batch of the second has no rows."""
    made = ragged_examples(33)
    for example in made[1:8:2]:
        example["labels"] = [-100] * len(example["labels"])
    return made


def teacher(name: str) -> PreTrainedModel:
    """Of six layers, in training mode."""
    made = tiny(name, seed=1, **{LAYERS[name]: 6})
    made.train()
    return made


def is_whole(model: nn.Module) -> bool:
    """Whether no placement has changed the model that `teacher` made."""
    plain = all(
        type(p) is nn.Parameter and p.numel() and not p.is_meta and p.requires_grad for p in model.parameters()
    )
    return plain and all(module.training for module in model.modules())


def on_each_rank(cases: list[Case], folder: str, engine: Engine) -> list[Found]:
    return [run(case, folder, engine) for case in cases]


EFFICIENT = Engine(
    settings=fsdp(2, cpu_ram_efficient_loading=True),
    environment={"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
)
PLACED = [*(Case(name, "object", "shard") for name in NAMES), *(Case(name, "path", "offload") for name in NAMES)]
READ = [Case("gpt2", "path"), Case("llama", "loaded"), Case("modernbert", "loaded", "shard")]
RUNS: dict[str, tuple[Engine, list[Case]]] = {
    "ddp": (ENGINES["ddp"], PLACED),
    "fsdp2": (ENGINES["fsdp2"], PLACED[:4]),
    "fsdp2, loading on the first rank": (EFFICIENT, [*READ, Case("llama", "path", "shard", grown=True)]),
    "zero3": (ENGINES["zero3"], [*READ, Case("llama", "path", "shard", grown=True)]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The teachers' files."""
    made = tmp_path_factory.mktemp("teachers")
    for name in NAMES:
        teacher(name).save_pretrained(made / name)
    return str(made)


@cache
def alone(name: str, grown: bool, folder: str) -> Found:
    """The run of one process that keeps all of the teacher."""
    return run(Case(name, grown=grown), folder)


@pytest.mark.parametrize("kind", RUNS)
def test_a_teacher_gives_the_steps_of_one_process(kind: str, folder: str) -> None:
    engine, cases = RUNS[kind]
    expected = {(case.name, case.grown): alone(case.name, case.grown, folder) for case in cases}
    for results in engine.run(on_each_rank, cases, folder, engine):
        for case, found in zip(cases, results, strict=True):
            single = expected[case.name, case.grown]
            np.testing.assert_allclose(found.steps, single.steps, rtol=1e-5, atol=1e-7, err_msg=str(case))
            np.testing.assert_allclose(found.evaluated, single.evaluated, rtol=1e-5, err_msg=str(case))
            assert found.held == {"replicate": 1.0, "shard": 0.5, "offload": 0.0}[case.placement] and found.kept, case
            assert found.restricted is (case.placement != "offload"), case


def caching(folder: str, engine: Engine) -> dict[str, Found]:
    """With a cache that a sharded teacher makes, with the same that is read, and without."""
    cached = Case("modernbert", "path", "shard", cached=True)
    return {
        "made": run(cached, folder, engine),
        "read": run(cached, folder, engine),
        "live": run(cached._replace(cached=False), folder, engine),
    }


def test_processes_that_share_a_teacher_cache_it_together(folder: str) -> None:
    engine = ENGINES["ddp"]
    for found in engine.run(caching, folder, engine):
        assert found["made"].steps == found["read"].steps
        np.testing.assert_allclose(found["made"].steps, found["live"].steps, rtol=2e-3)  # fp16 of the hidden states
    single = run(Case("modernbert", cached=True), folder)  # the same teacher, by its fingerprint
    np.testing.assert_allclose(single.steps, found["made"].steps, rtol=1e-5)


def automatic(engine: Engine, folder: str, free: int) -> tuple[Found, list[str]]:
    """A run under "auto" where the second process's device has `free` bytes beside the teacher, and what it logs."""
    lines: list[str] = []
    own = free if int(os.environ["RANK"]) else 10**12
    with (
        patch.object(choice, "free_bytes", lambda device: own),
        patch.object(choice.logger, "warning", lambda text, *values: lines.append(text % values)),
    ):
        return run(Case("llama", placement="auto"), folder, engine), lines


def test_all_processes_take_the_choice_of_the_fullest_and_the_first_says_so(folder: str) -> None:
    engine, single = ENGINES["ddp"], alone("llama", False, folder)
    size, learning = size_of(teacher("llama")), nbytes(tiny("llama").parameters())
    needed = PLACEMENTS["shard"].bytes_needed(size, engine.processes)
    assert needed < size.total
    left = (needed + size.total) / 2 / SHARE  # too little for the whole
    free = math.ceil(left) + 3 * learning - size.total  # training takes a gradient and two numbers of Adam's
    for rank, (found, lines) in enumerate(engine.run(automatic, engine, folder, free)):
        np.testing.assert_allclose(found.steps, single.steps, rtol=1e-5)
        assert found.held == 0.5 and [line.split(" (")[0] for line in lines] == [
            "teacher_placement='auto' chooses 'shard'"
        ] * (rank == 0)


def gathering(folder: str) -> list[tuple[str, list[np.ndarray]]]:
    """The weights of students that are grown from a model which ZeRO-3 keeps in parts, and its assessed loss."""
    with tempfile.TemporaryDirectory() as out:
        args = arguments(out, **ENGINES["zero3"].settings(tiny("llama")))
        parts = LlamaForCausalLM.from_pretrained(Path(folder, "llama"))
        assert args.deepspeed and not any(parameter.numel() for parameter in parts.parameters())
        assessed = assess_teacher(parts, ragged_examples(), student=parts, data_collator=pad, samples=8)
        assert assessed.students["as given"] == assessed.teacher
        return [*students(parts), ("loss", [np.array(assessed.teacher.loss)])]


def students(model: PreTrainedModel) -> list[tuple[str, list[np.ndarray]]]:
    grown = {init: from_weak_teacher(model, hidden_size=32, init=init) for init in ("clone", "remap")}
    return [(init, [parameter.detach().numpy() for parameter in one.parameters()]) for init, one in grown.items()]


def test_a_model_in_parts_is_grown_and_assessed_as_the_whole_one(folder: str) -> None:
    whole = teacher("llama")
    loss = assess_teacher(whole, ragged_examples(), data_collator=pad, samples=8).teacher.loss
    expected = [*students(whole), ("loss", [np.array(loss)])]
    for found in ENGINES["zero3"].run(gathering, folder):
        for (name, arrays), (_, others) in zip(found, expected, strict=True):
            assert all(np.array_equal(one, other) for one, other in zip(arrays, others, strict=True)), name


def sharded() -> dict[str, tuple[bool, int]]:
    """Of each architecture: whether its sharded twin gives the same, twice; and by how many gathers a layer."""
    found = {}
    for name in BUILDERS:
        model = tiny(name)
        inputs = batch(model, seed=int(os.environ["RANK"]))
        placed = shard(model, PartialState(cpu=True).device)
        with torch.no_grad(), Gathers() as gathers:
            same = [torch.equal(placed(**inputs).logits, model(**inputs).logits) for _ in range(2)]
        found[name] = (all(same), gathers.count // len(layers_of(placed)))
    return found


class Gathers(TorchDispatchMode):
    """Counts what gathers tensors."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "allgather" in str(func)
        return func(*args, **(kwargs or {}))


def test_every_architecture_runs_sharded_with_one_gather_a_layer() -> None:
    for found in ENGINES["ddp"].run(sharded):
        assert found == dict.fromkeys(BUILDERS, (True, 2))  # of two calls


def lacking(folder: str) -> dict[str, int]:
    """The grown parameters of a model whose files lack some of them: those of its pooler."""
    with tempfile.TemporaryDirectory() as out:
        args = arguments(out, **EFFICIENT.settings(tiny("bert")))
        grown = from_weak_teacher(folder, auto_class="AutoModel", hidden_size=32, init="clone", num_hidden_layers=2)
        assert args.fsdp_config["cpu_ram_efficient_loading"] is True  # type: ignore[index]
    return {name: parameter.numel() for name, parameter in grown.named_parameters() if not parameter.is_meta}


def test_what_the_files_lack_is_whole_on_every_rank(tmp_path: Path) -> None:
    """Under FSDP's efficient loading transformers leaves it on the meta device, on all ranks but the first."""
    tiny("bert").save_pretrained(tmp_path)
    first, second = EFFICIENT.run(lacking, str(tmp_path))
    assert first == second and "pooler.dense.weight" in first
