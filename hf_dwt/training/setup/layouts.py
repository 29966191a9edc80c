"""Layouts of distributed training under which the loss would be wrong, or a push impossible: errors before epochs."""

import os
from collections.abc import Iterator

from accelerate import Accelerator, ParallelismConfig
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import is_sagemaker_mp_enabled

from ...errors import ArgumentError, DistillationError, TaskError, TeacherError
from ...publish.whole_saves import is_loaded_in_parts, save_problem
from ...tasks import plain_model

_SUMMED_AGAIN = "replicated_with_grad_allreduce"
"""A part of transformers' plans for tensor parallelism: a gradient that is summed after each backward pass."""
_DATA_PARALLEL = "Use data parallelism (DDP, FSDP or DeepSpeed ZeRO)"


def layout_problems(student: nn.Module, args: TrainingArguments) -> list[DistillationError]:
    """What the student, the arguments and the environment of a launcher show, before anything is loaded."""
    return [
        *wrapper_problems(student),
        *_pipeline_problems(student),
        *_device_problems(student, args),
        *_loading_problems(student, args),
        *_launcher_problems(),
        *_sequence_problems(args),
    ]


def engine_problems(
    accelerator: Accelerator, student: nn.Module | None, args: TrainingArguments
) -> list[DistillationError]:
    """What is known once the Trainer has made its accelerator.

    Args:
        accelerator: with the plugin of its engine, from arguments, a launcher or an accelerator that was made before.
        student: None if it is yet to be made.
        args: of the run.
    """
    problems: list[DistillationError] = [*_shared_batches(accelerator.parallelism_config, "parallelism_config.{}")]
    deepspeed = accelerator.state.deepspeed_plugin
    if deepspeed is not None and (size := deepspeed.deepspeed_config.get("sequence_parallel_size", 1)) > 1:
        problems.append(_splits_sequences("deepspeed.sequence_parallel_size", size))
    saves_during_training = args.save_strategy != SaveStrategy.NO and args.hub_strategy != HubStrategy.END
    if args.push_to_hub and (problem := save_problem(accelerator.state, student)):
        # After training FSDP may be asked for a whole model, which ZeRO may not.
        problems += [problem] if saves_during_training or deepspeed is not None else []
    return problems


def wrapper_problems(model: nn.Module, argument: str = "model") -> Iterator[DistillationError]:
    """A model in a wrapper of DDP, DataParallel, FSDP 1 or DeepSpeed."""
    if isinstance(getattr(model, "module", None), nn.Module):
        error = TeacherError if argument == "teacher_model" else TaskError
        problem = "wraps the model, and Trainer puts its own wrappers around it."
        yield error(argument, type(model).__name__, problem, f"Give the model itself: {argument}={argument}.module.")


def teacher_layout_problems(teacher: nn.Module) -> list[DistillationError]:
    """What keeps a teacher from being run beside the student; one that is sharded (FSDP 2, tensor parallel) may be."""
    return [*wrapper_problems(teacher, "teacher_model"), *_pipeline_problems(teacher, "teacher_model")]


def _pipeline_problems(model: nn.Module, argument: str = "model") -> Iterator[DistillationError]:
    """A model of which each process runs some layers."""
    problem = "splits the model into a pipeline: a process holds some layers, and gradients are not passed back."
    config = getattr(getattr(model, "config", None), "distributed_config", None)
    if (size := getattr(config, "pp_size", 1)) > 1:
        name, fix = f"{argument}.config.distributed_config.pp_size", "Use fsdp_size or tp_size in place of it."
        yield ArgumentError(name, size, problem, fix)
    if (points := getattr(model, "hf_split_points", None)) is not None:
        fix = f"{_DATA_PARALLEL}, and no prepare_pippy."
        yield ArgumentError(f"{argument}.hf_split_points", points, problem, fix)


def _device_problems(student: nn.Module, args: TrainingArguments) -> Iterator[DistillationError]:
    """One process with several devices."""
    places = sorted({str(place) for place in (getattr(student, "hf_device_map", None) or {}).values()})
    if len(places) > 1:
        yield ArgumentError(
            "model.hf_device_map",
            places,
            "puts the student's layers in several places, and the rows of a step would be in another than its logits.",
            "Load it without device_map; for a student larger than a device, start with `accelerate launch` and FSDP.",
        )
    elif args.n_gpu > 1:
        yield ArgumentError(
            "n_gpu",
            args.n_gpu,
            "would run torch.nn.DataParallel, which splits a batch without its row counts.",
            "Start with `accelerate launch` or `torchrun`, or show one GPU with CUDA_VISIBLE_DEVICES=0.",
        )


def _loading_problems(student: nn.Module, args: TrainingArguments) -> Iterator[DistillationError]:
    """What the Trainer does wrong or not at all with a student that was sharded while it was loaded."""
    if not is_loaded_in_parts(student):
        return
    if args.load_best_model_at_end:
        problem = "would read whole weights into a student that was sharded while it was loaded (distributed_config)."
        fix = "Leave it out, and load the best checkpoint with from_pretrained after training."
        yield ArgumentError("load_best_model_at_end", True, problem, fix)
    plain = plain_model(student)
    if plain.config.distributed_config.tp_size == 1:
        return
    if getattr(student, "peft_config", None):
        yield from adapter_layout_problems(student)
    if args.gradient_accumulation_steps > 1 and _SUMMED_AGAIN in plain.tp_plan.values():
        problem = "sums the gradients of norms within the attention over processes again with each micro-batch."
        fix = "Set it to 1 and raise per_device_train_batch_size, or use fsdp_size in place of tp_size."
        yield ArgumentError("gradient_accumulation_steps", args.gradient_accumulation_steps, problem, fix)


def adapter_layout_problems(student: nn.Module) -> list[DistillationError]:
    """A student whose layers are in parts, of which an adapter is to learn; it may have the adapter or be given it."""
    if not is_loaded_in_parts(student) or plain_model(student).config.distributed_config.tp_size == 1:
        return []
    problem = "has an adapter, which adds to parts of layers what belongs to the whole under tensor parallelism."
    return [TaskError("model", type(student).__name__, problem, "Use fsdp_size in place of tp_size.")]


def _launcher_problems() -> Iterator[DistillationError]:
    """Engines that compute the student's own loss within them, so that no teacher is asked."""
    problem = "computes the student's own loss, and the teacher's part would be missing."
    if _is_set("ACCELERATE_USE_MEGATRON_LM"):
        yield ArgumentError("ACCELERATE_USE_MEGATRON_LM", True, f"Megatron-LM {problem}", f"{_DATA_PARALLEL}.")
    if is_sagemaker_mp_enabled():
        value = os.environ["SM_HP_MP_PARAMETERS"]
        problem = f"SageMaker's model parallelism {problem}"
        yield ArgumentError("SM_HP_MP_PARAMETERS", value, problem, f"{_DATA_PARALLEL}.")


def _sequence_problems(args: TrainingArguments) -> Iterator[DistillationError]:
    """Context and sequence parallelism, by the arguments or else by `accelerate launch`."""
    if args.parallelism_config is not None:
        yield from _shared_batches(args.parallelism_config, "parallelism_config.{}")
    elif _is_set("ACCELERATE_USE_PARALLELISM_CONFIG"):
        yield from _shared_batches(ParallelismConfig(), "accelerate launch --parallelism_config_{}")


def _shared_batches(config: ParallelismConfig | None, argument: str) -> Iterator[DistillationError]:
    """Ways in which several processes share a batch, other than tensor parallelism, where each has all of it."""
    for name in [] if config is None else config.non_dp_dim_names:
        if name != "tp":
            yield _splits_sequences(argument.format(f"{name}_size"), getattr(config, f"{name}_size"))


def _splits_sequences(argument: str, size: int) -> DistillationError:
    problem = "splits sequences (context or sequence parallelism), which the teacher's rows do not follow."
    return ArgumentError(argument, size, problem, f"Set it to 1. {_DATA_PARALLEL}.")


def _is_set(name: str) -> bool:
    """Whether a launcher has set a switch, as accelerate reads it."""
    return os.environ.get(name, "false").lower() == "true"
