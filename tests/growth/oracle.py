"""What a remapped student must hold, written down a second time and without the code under test."""

import re

import torch
from torch import Tensor
from transformers import PreTrainedModel

# (architecture, end of a parameter's name) -> (axis, number of equal blocks) of a fused projection.
FUSED = {
    ("gpt2", "attn.c_attn.weight"): (1, 3),
    ("gpt2", "attn.c_attn.bias"): (0, 3),
    ("modernbert", "attn.Wqkv.weight"): (0, 3),
    ("modernbert", "mlp.Wi.weight"): (0, 2),
}


def expected(architecture: str, name: str, parameter: Tensor, teacher: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """What the student's `parameter` must hold, and the boolean mask of where: both of the parameter's shape."""
    source = teacher.get_parameter(teacher_name(name, teacher))
    axis, blocks = next((v for (a, end), v in FUSED.items() if a == architecture and name.endswith(end)), (0, 1))
    values, masks = [], []
    for ours, theirs in zip(parameter.chunk(blocks, axis), source.chunk(blocks, axis), strict=True):
        value, mask = torch.zeros_like(ours), torch.zeros_like(ours, dtype=torch.bool)
        corner = tuple(slice(0, length) for length in theirs.shape)
        value[corner], mask[corner] = theirs.detach(), True
        values.append(value)
        masks.append(mask)
    return torch.cat(values, axis), torch.cat(masks, axis)


def teacher_name(name: str, teacher: PreTrainedModel) -> str:
    """The first number of a name is the layer's; layer i comes from min(i, L - 1). Every tiny teacher has L = 2."""
    return re.sub(r"\d+", lambda match: str(min(int(match[0]), 1)), name, count=1)


def mismatches(architecture: str, student: PreTrainedModel, teacher: PreTrainedModel) -> list[str]:
    """Parameters of `student` that do not hold the teacher's values where they must."""
    wrong = []
    for name, parameter in student.named_parameters():
        value, mask = expected(architecture, name, parameter.detach(), teacher)
        if not torch.equal(parameter.detach()[mask], value[mask]):
            wrong.append(name)
    return wrong
