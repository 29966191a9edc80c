"""Whether a run's saves hold a whole model: under engines that shard they may not, and then nothing can be pushed."""

from accelerate.state import AcceleratorState
from torch import nn

from ..errors import HubError


def save_problem(state: AcceleratorState, model: nn.Module | None) -> HubError | None:
    """The error for an engine whose checkpoints hold parts of the model alone; as `Trainer.save_model` writes them.

    Args:
        state: of accelerate, with the plugin of the engine.
        model: the student, if it is there already.
    """
    fsdp, deepspeed = getattr(state, "fsdp_plugin", None), state.deepspeed_plugin
    if fsdp is not None and "FULL_STATE_DICT" not in str(fsdp.state_dict_type):
        return HubError(
            "fsdp_config.state_dict_type",
            str(fsdp.state_dict_type).rpartition(".")[2],
            "writes each process's part of the model into a checkpoint, and no whole model that could be pushed.",
            "Set it to FULL_STATE_DICT, or set hub_strategy='end' and push after training, once "
            "trainer.accelerator.state.fsdp_plugin.set_state_dict_type('FULL_STATE_DICT') was called.",
        )
    if deepspeed is None or deepspeed.deepspeed_config["zero_optimization"].get(_GATHER):
        return None
    is_adapter = hasattr(model, "get_base_model")  # whose trained parameters are gathered all the same
    if (deepspeed.zero_stage == 3 and not is_adapter) or _tensor_parallel(deepspeed.deepspeed_config):
        return HubError(
            f"zero_optimization.{_GATHER}",
            False,
            "lets each process save its part of the model, and no whole model that could be pushed.",
            "Set it to true in the config of DeepSpeed (zero3_save_16bit_model in that of accelerate).",
        )
    return None


def is_loaded_in_parts(model: nn.Module | None) -> bool:
    """Whether `from_pretrained(distributed_config=...)` gave each process a part."""
    return bool(getattr(model, "is_distributed_loading_by_transformers", False))


def is_whole_on_the_first_process(state: AcceleratorState, model: nn.Module | None) -> bool:
    """Whether a `save_pretrained` of the first process alone would write the whole model."""
    deepspeed = state.deepspeed_plugin
    sharded = deepspeed is not None and (deepspeed.zero_stage == 3 or _tensor_parallel(deepspeed.deepspeed_config))
    return not (sharded or is_loaded_in_parts(model) or getattr(state, "fsdp_plugin", None) is not None)


def _tensor_parallel(config: dict[str, dict[str, int]]) -> bool:
    return config.get("tensor_parallel", {}).get("autotp_size", 0) > 1


_GATHER = "stage3_gather_16bit_weights_on_model_save"
