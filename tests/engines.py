"""Every engine that spreads a model over processes, on the CPU."""

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from accelerate import ParallelismConfig, PartialState
from accelerate.utils import DistributedType
from torch.nn import ModuleList
from transformers import PreTrainedModel
from transformers.distributed import DistributedConfig

from .processes import run_in_processes


@dataclass(frozen=True)
class Engine:
    """One way of spreading a model and its batches over processes.

    Args:
        processes: of the world.
        settings: of `TrainingArguments` for a model, made on each rank.
        environment: what its launcher sets.
        of_accelerators: accelerate has it for accelerators only.
        loading: of `DistributedConfig`, where it is transformers that shards, when a model is loaded.
    """

    processes: int = 2
    settings: Callable[[PreTrainedModel], dict[str, Any]] = lambda _: {}
    environment: Mapping[str, str] = field(default_factory=dict)
    of_accelerators: bool = True
    loading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def data_parallel(self) -> int:
        """Processes with batches of their own: those of a tensor parallel group share theirs."""
        return self.processes // self.loading.get("tp_size", 1)

    @property
    def deepspeed(self) -> bool:
        return self.environment.get("ACCELERATE_USE_DEEPSPEED") == "true"

    def run(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `work(*arguments)` returns on each rank under this engine; `work` uses its settings and `load`."""
        return run_in_processes(self.processes, self.environment, self._work, work, *arguments)

    def _work(self, work: Callable[..., Any], *arguments: Any) -> Any:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of the engines themselves
            if self.of_accelerators:
                stack.enter_context(cpu_as_accelerator())
            if self.deepspeed:
                stack.enter_context(without_building())
            return work(*arguments)

    def load(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model as it is given to a trainer under this engine: loaded from its weights, where that shards it."""
        if not self.loading:
            return model
        sharding = DistributedConfig(**self.loading)
        loaded: PreTrainedModel = type(model).from_pretrained(
            None, config=model.config, state_dict=model.state_dict(), distributed_config=sharding
        )
        return loaded


def layer_class(model: PreTrainedModel) -> str:
    """The class of a model's layers: what FSDP is to wrap, for a tied embedding among it is refused by torch."""
    layers = next(module for module in model.modules() if isinstance(module, ModuleList))
    return type(layers[0]).__name__


def fsdp(version: int, **config: Any) -> Callable[[PreTrainedModel], dict[str, Any]]:
    """The settings of FSDP, with entries of `fsdp_config`."""
    return lambda model: {
        "fsdp": True,
        "fsdp_config": {"version": version, "transformer_layer_cls_to_wrap": layer_class(model), **config},
    }


def zero(stage: int, **config: Any) -> Callable[[PreTrainedModel], dict[str, Any]]:
    """The settings of a stage of ZeRO, with entries of the config of DeepSpeed."""
    optimiser: dict[str, Any] = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}
    optimiser["stage3_param_persistence_threshold"] = 0  # it would keep parameters as small as these whole
    auto = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_clipping": "auto"}
    accumulation: dict[str, Any] = {"gradient_accumulation_steps": "auto", "zero_allow_untested_optimizer": True}
    accumulation["bf16"] = {"enabled": "auto"}
    return lambda _: {
        "use_cpu": False,
        "deepspeed": {"zero_optimization": dict(optimiser), **auto, **accumulation, **config},
    }


DEEPSPEED = {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_CPU": "false"}

FSDP_OPTIONS = {
    "state_dict_type": "SHARDED_STATE_DICT",
    "activation_checkpointing": True,
    "cpu_ram_efficient_loading": True,
    "reshard_after_forward": False,
}
"""Of FSDP 2, each beside its default."""

ENGINES = {
    "ddp": Engine(of_accelerators=False),
    "fsdp1": Engine(settings=fsdp(1, sync_module_states=False)),
    "fsdp2": Engine(settings=fsdp(2)),
    "fsdp2 options": Engine(settings=fsdp(2, **FSDP_OPTIONS)),
    "hsdp": Engine(
        4,
        lambda model: {
            **fsdp(2)(model),
            "parallelism_config": ParallelismConfig(dp_replicate_size=2, dp_shard_size=2),
        },
    ),
    "zero1": Engine(settings=zero(1), environment=DEEPSPEED),
    "zero2": Engine(settings=zero(2), environment=DEEPSPEED),
    "zero3": Engine(settings=zero(3), environment=DEEPSPEED),
    "tp": Engine(loading={"tp_size": 2}),
    "native fsdp2": Engine(loading={"fsdp_size": 2}),
}


@contextmanager
def cpu_as_accelerator() -> Iterator[None]:
    """In the block accelerate takes CPUs for accelerators, since only to these it gives engines that shard.

    It reads the kind of the world off `PartialState`. The device stays the CPU, and collectives go over gloo.
    """
    initialise, backend = PartialState.__init__, PartialState._prepare_backend

    def init(self: PartialState, cpu: bool = False, **kwargs: Any) -> None:
        initialise(self, cpu, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.device = DistributedType.MULTI_GPU, torch.device("cpu")

    def prepare(self: PartialState, *args: Any) -> tuple[str, DistributedType]:
        found = backend(self, *args)
        return ("gloo", DistributedType.MULTI_CPU) if found[0] is None else found

    with patch.object(PartialState, "__init__", init), patch.object(PartialState, "_prepare_backend", prepare):
        yield


@contextmanager
def without_building() -> Iterator[None]:
    """In the block DeepSpeed compiles nothing of its own."""
    backend = importlib.import_module("deepspeed.comm.torch")
    with patch.object(backend, "build_shm_op", lambda: None):
        yield
