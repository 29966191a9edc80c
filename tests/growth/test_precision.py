"""Models of half precision are compared in fp32: rounding is small beside what a wrong map does."""

from collections import UserDict

import pytest
import torch
from torch import Tensor, nn

from benchmarks.coverage.measure import arguments, tiny_teacher
from hf_dwt import from_weak_teacher
from hf_dwt.growth.verify.compare import TOLERANCES, compare
from hf_dwt.precision import in_fp32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("task", "name"), [("seq2seq-lm", "t5"), ("causal-lm", "gemma3_text")])
def test_rounding_passes_and_a_wrong_map_does_not(task: str, name: str, dtype: torch.dtype) -> None:
    teacher = tiny_teacher(task, name).to(dtype)
    student = from_weak_teacher(teacher, **arguments(task, "width", teacher.config))
    found = compare(teacher, student)
    assert found.preserved and found.difference < TOLERANCES[dtype]
    with torch.no_grad():  # counter-case: copies of one input that do not share its weight
        matrix = [p for key, p in student.named_parameters() if key.endswith(("down_proj.weight", "wo.weight"))][-1]
        matrix[:, matrix.shape[1] // 2 :] *= 2
    assert compare(teacher, student).difference > 1.5 * TOLERANCES[dtype]


def test_a_mixture_of_experts_in_fp16_sends_its_tokens_as_the_teacher_does() -> None:
    """Computed in fp16 the router's ties fall otherwise: 0.16 of the largest logit."""
    teacher = tiny_teacher("causal-lm", "mixtral").to(torch.float16)
    assert from_weak_teacher(teacher, hidden_size=64, init="clone").growth_report.difference < 2e-3


def test_weights_are_cast_while_their_module_runs_and_put_back() -> None:
    first = nn.Linear(3, 3).half()
    model = nn.Sequential(first, nn.Linear(3, 3).half())
    model[1].weight = first.weight
    before = first.weight.data_ptr(), first.weight.clone()
    given = torch.ones(1, 3)
    with in_fp32(model), torch.no_grad():
        found = model(given.half())
    wanted = nn.functional.linear(given, before[1].float(), first.bias.float())
    wanted = nn.functional.linear(wanted, before[1].float(), model[1].bias.float())
    assert found.dtype is torch.float32 and torch.allclose(found, wanted, atol=1e-6)
    assert first.weight.data_ptr() == before[0] and first.weight.dtype is torch.float16
    assert model[1].weight is first.weight and model(given.half()).dtype is torch.float16
    with in_fp32(model), pytest.raises(RuntimeError):
        model(torch.ones(1, 4))
    assert {p.dtype for p in model.parameters()} == {torch.float16}


class Sharing(nn.Module):
    """What the first layer writes to the mapping, the second reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Writer(), Reader()

    def forward(self, x: Tensor) -> Tensor:
        shared: UserDict[str, Tensor] = UserDict()
        return self.second(self.first(x, shared=shared), shared=shared)


class Writer(nn.Module):
    def forward(self, x: Tensor, shared: UserDict[str, Tensor]) -> Tensor:
        shared["x"] = x
        return x


class Reader(nn.Module):
    def forward(self, x: Tensor, shared: UserDict[str, Tensor]) -> Tensor:
        return x + shared["x"]


def test_what_modules_share_to_write_to_is_one_object() -> None:
    with in_fp32(model := Sharing()):
        found = model(torch.ones(2, dtype=torch.float16))
    assert found.dtype is torch.float32 and found.tolist() == [2.0, 2.0]


def test_a_module_that_reads_anothers_weights_is_run_as_it_is() -> None:
    teacher = tiny_teacher("causal-lm", "mamba").to(torch.bfloat16)
    found = compare(teacher, teacher)
    assert found.difference == 0.0 and found.tolerance == 0.1
