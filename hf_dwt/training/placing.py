"""Where the teacher goes in a run: what is known of its processes, and of what the student will take of the device."""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from ..arguments import DistillationArguments
from ..teachers.placement import PLACEMENTS, Setting, choose
from ..teachers.placement.layers import nbytes

MOMENTS = 2
"""Numbers that an optimizer keeps for each parameter: those of Adam, which is taken for any other too."""


def placed(
    options: DistillationArguments, teacher: nn.Module, student: nn.Module, accelerator: Accelerator
) -> nn.Module:
    """The teacher as it is to be run; all processes must call it.

    Args:
        options: with `teacher_placement`.
        teacher: the loaded model.
        student: before accelerate has prepared it.
        accelerator: of the run.

    Raises:
        TeacherError: it cannot be placed so, or does not fit.
    """

    def lowest(count: int) -> int:
        return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).min())

    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    setting = Setting(
        accelerator.device, processes, student_bytes(student, accelerator), lowest, accelerator.is_main_process
    )
    return choose(options.teacher_placement, PLACEMENTS, teacher, setting)(teacher, accelerator.device)


def student_bytes(student: nn.Module, accelerator: Accelerator) -> int:
    """What a student's training will still take of the device: weights that are not there, gradients, moments.

    Engines that shard divide these by the processes. Activations, and copies of other precision, are not known.
    """
    parameters = list(student.parameters())
    learning = nbytes(parameter for parameter in parameters if parameter.requires_grad)
    away = nbytes(parameter for parameter in parameters if parameter.device.type != accelerator.device.type)
    stage, count = _zero_stage(accelerator), accelerator.num_processes
    weights, gradients, moments = (count if stage >= sharding else 1 for sharding in (3, 2, 1))
    return away // weights + learning // gradients + MOMENTS * learning // moments


def _zero_stage(accelerator: Accelerator) -> int:
    """What the engine shards: 1 the optimizer's numbers, 2 the gradients too, 3 the weights too; 0 for nothing."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return int(accelerator.deepspeed_plugin.zero_stage)
    return 3 if accelerator.distributed_type == DistributedType.FSDP else 0
