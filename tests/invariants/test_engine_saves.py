"""What a run leaves behind under an engine is what it leaves in one process; what could never be pushed is refused."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator, ParallelismConfig
from accelerate.utils import FullyShardedDataParallelPlugin
from peft import LoraConfig, get_peft_model
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from hf_dwt import DistillationTrainer, from_weak_teacher
from hf_dwt.callbacks import PushRun
from hf_dwt.errors import DistillationError
from hf_dwt.publish.run_record import RunRecord
from tests.engines import DEEPSPEED, ENGINES, Engine, fsdp, zero
from tests.hub import ME, Hub
from tests.models import tiny
from tests.training import trainer

pytestmark = pytest.mark.engines

REPO = f"{ME}/student"
WHOLE = ("fsdp2", "zero3", "tp", "native fsdp2")
"""Engines whose saves hold a whole model, of each kind that there is."""
SHARDED = replace(ENGINES["fsdp2"], settings=fsdp(2, state_dict_type="SHARDED_STATE_DICT"))


def student(grown: bool) -> Any:
    return from_weak_teacher(tiny("llama", seed=1), hidden_size=32, init="remap") if grown else tiny("llama")


def run_of(out: Path, engine: Engine | None, model: Any = None, grown: bool = False, **settings: Any) -> Any:
    """A run of one step, and the teacher's section and growth in its record."""
    model, size = student(grown) if model is None else model, 8
    if engine is not None:
        settings, size = engine.settings(model) | settings, 8 // engine.data_parallel
        model = engine.load(model)
    return trainer(model, tiny("llama", seed=1), out, per_device_train_batch_size=size, max_steps=1, **settings)


def pushed(out: Path, repo: str, engine: Engine | None, only_model: bool, grown: bool) -> None:
    """Train, push the checkpoint with the state of the training, and push the model."""
    saving = {"save_strategy": "steps", "save_steps": 1, "save_only_model": only_model, "hub_strategy": "checkpoint"}
    run = run_of(out, engine, grown=grown, push_to_hub=True, hub_model_id=repo, **saving)
    run.train()
    run.push_to_hub()


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_pushed_is_what_one_process_pushes(name: str, hub: Hub, tmp_path: Path) -> None:
    """The model and nothing of its training; the training in a place of its own, whole."""
    engine = ENGINES[name]
    grown = not engine.loading  # a model that is read from files has no report of its growth
    pushed(tmp_path / "one", f"{REPO}-one", None, bool(engine.loading), grown)
    engine.run(pushed, tmp_path / "many", REPO, engine, bool(engine.loading), grown)
    one, many = hub.repos[f"{REPO}-one"].files, hub.repos[REPO].files
    beside = {name for name in many if not name.startswith("last-checkpoint/")}
    assert beside == {name for name in one if not name.startswith("last-checkpoint/")} >= {"run.json", "README.md"}
    checkpoint = tmp_path / "many" / "checkpoint-1"
    written = {f"last-checkpoint/{path.relative_to(checkpoint)}" for path in checkpoint.rglob("*") if path.is_file()}
    assert set(many) - beside == written and len(written) > len(beside) - 3
    assert many["config.json"] == one["config.json"]
    records = [RunRecord.load(folder) for folder in (tmp_path / "one", tmp_path / "many")]
    for section in ("model", "teacher", "growth"):
        assert getattr(records[0], section) == getattr(records[1], section), section
    assert records[0].training["examples_per_step"] == records[1].training["examples_per_step"] == 8
    # Those of the first process, as often as there are others.
    assert records[1].training["tokens"] == pytest.approx(records[0].training["tokens"], rel=0.1)
    assert records[1].model["class"] == "LlamaForCausalLM" and bool(records[1].growth) == grown


def described(engine: Engine, out: Path) -> RunRecord:
    run = run_of(out, engine, grown=True)
    run.train()
    record: RunRecord = run._run_record()
    return record


IN_PARTS = {
    "fsdp1": ENGINES["fsdp1"],
    "fsdp1, original parameters": replace(
        ENGINES["fsdp1"], settings=fsdp(1, sync_module_states=False, use_orig_params=True)
    ),
    "DeepSpeed's tensor parallelism": replace(ENGINES["zero1"], settings=zero(1, tensor_parallel={"autotp_size": 2})),
}


@pytest.mark.parametrize("engine", IN_PARTS)
def test_the_record_is_of_the_whole_model(engine: str, tmp_path: Path) -> None:
    """Here parameters have the size of a part: those of the model are counted before the engine has them."""
    one = run_of(tmp_path, None, grown=True)
    for record in IN_PARTS[engine].run(described, IN_PARTS[engine], tmp_path):
        assert record.model == one._run_record().model and record.growth == one._run_record().growth
        assert record.model["parameters"] == sum(parameter.numel() for parameter in one.model.parameters())


# ---- what is refused ----


def refusal(make: Callable[[], object]) -> str:
    """The argument and the value of the error, or nothing."""
    try:
        make()
    except DistillationError as error:
        return f"{type(error).__name__}: {error.argument}={error.value}"
    finally:
        unset_hf_deepspeed_config()
    return ""


PUSHING = {"push_to_hub": True, "hub_model_id": REPO, "save_strategy": "steps"}


def under_fsdp(out: Path) -> list[str]:
    engine = SHARDED

    def with_callback(**options: Any) -> DistillationTrainer:
        model = tiny("llama")
        callbacks = {"callbacks": [PushRun(REPO, **options)]}
        return trainer(model, None, out, more=callbacks, **engine.settings(model))

    def after_an_accelerator() -> DistillationTrainer:
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
        model, settings = tiny("llama"), engine.settings(tiny("llama"))
        split = ParallelismConfig(cp_size=2)
        make = DistillationTrainer.create_accelerator_and_postprocess

        def late(run: DistillationTrainer) -> None:
            Accelerator(parallelism_config=split, fsdp_plugin=plugin)
            make(run)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DistillationTrainer, "create_accelerator_and_postprocess", late)
            return trainer(model, None, out, **settings)

    found = [
        refusal(lambda: run_of(out, engine, **PUSHING)),
        refusal(with_callback),
        refusal(lambda: with_callback(when="end")),
        refusal(after_an_accelerator),
    ]
    run = run_of(out, engine, **PUSHING, hub_strategy="end")
    run.train()
    log: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("hf_dwt.training.publishing").addHandler(handler)
    run.save_model()
    found.append(" ".join(line for line in log if "save_model wrote no whole model" in line)[:32])
    found.append(refusal(run.push_to_hub))
    run.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    run.push_to_hub()
    return found


def test_parts_of_fsdp_are_not_pushed(hub: Hub, tmp_path: Path) -> None:
    """Not even the model that an earlier run has left in the folder."""
    tiny("llama", seed=5).save_pretrained(tmp_path)
    sharded = "HubError: fsdp_config.state_dict_type=SHARDED_STATE_DICT"
    end, split = "HubError: when=end", "ArgumentError: parallelism_config.cp_size=2"
    for found in SHARDED.run(under_fsdp, tmp_path):
        assert found == [sharded, sharded, end, split, "save_model wrote no whole model.", sharded]
    commits = [commit for commit in hub.repos[REPO].revisions["main"] if commit.files]
    assert len(commits) == 1 and commits[0].files["model.safetensors"] == (tmp_path / "model.safetensors").read_bytes()


UNGATHERED = Engine(
    settings=lambda model: {
        **zero(3)(model),
        "deepspeed": zero(3)(model)["deepspeed"] | {"zero_optimization": {"stage": 3}},
    },
    environment=DEEPSPEED,
)


def under_zero(out: Path) -> list[str]:
    sequences = replace(ENGINES["zero2"], settings=zero(2, sequence_parallel_size=2))
    found = [
        refusal(lambda: run_of(out, UNGATHERED, **PUSHING)),
        refusal(lambda: run_of(out, UNGATHERED, **PUSHING, hub_strategy="end")),
        refusal(lambda: run_of(out, sequences)),
    ]
    adapter = get_peft_model(tiny("llama"), LoraConfig(target_modules=["q_proj"]))
    run = run_of(out, UNGATHERED, adapter, **PUSHING, save_steps=1)
    run.train()
    return found


def test_parts_of_zero_are_not_pushed_and_adapters_are(hub: Hub, tmp_path: Path) -> None:
    gather = "HubError: zero_optimization.stage3_gather_16bit_weights_on_model_save=False"
    for found in UNGATHERED.run(under_zero, tmp_path):
        assert found == [gather, gather, "ArgumentError: deepspeed.sequence_parallel_size=2"]
    assert "adapter_model.safetensors" in hub.repos[REPO].files and "model.safetensors" not in hub.repos[REPO].files
