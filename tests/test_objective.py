"""The objective against an independent float64 reference, and its gradient."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_dwt.errors import ArgumentError
from hf_dwt.objective import SOFT_TERMS, Targets, Weights, distillation_terms
from hf_dwt.objective.divergences import get_soft_term, require_divergence

ROWS, CLASSES = 11, 17


def draw(classes: int = CLASSES, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, teacher logits and labels, the teacher being the student perturbed."""
    generator = torch.Generator().manual_seed(seed)
    student = 3 * torch.randn(ROWS, classes, generator=generator, dtype=torch.float64)
    teacher = student + torch.randn(ROWS, classes, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype), torch.randint(0, classes, (ROWS,), generator=generator)


def softmax(row: np.ndarray) -> np.ndarray:
    peak = max(row)
    weights = np.array([math.exp(value - peak) for value in row])
    return weights / weights.sum()


def reference(student: Tensor, teacher: Tensor, labels: Tensor, weights: Weights, tau: float, squared: bool) -> dict:
    """The paper's formulas, one row and one class at a time, in float64."""
    hard = soft = agreement = lead = 0.0
    for own, other, label in zip(student.numpy(), teacher.numpy(), labels.tolist(), strict=True):
        hard -= math.log(softmax(own)[label])
        lead += math.log(softmax(other)[label] / softmax(own)[label]) if label < len(other) else 0.0
        p, q = softmax(other / tau), softmax(own[: len(other)] / tau)
        soft += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        agreement += int(own.argmax() == other.argmax())
    soft *= tau**2 if squared else 1.0
    loss = weights.hard * hard + weights.soft * soft
    return {"hard_loss": hard, "soft_loss": soft, "agreement": agreement, "teacher_margin": lead, "loss": loss}


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("weights", [Weights(1, 1), Weights(1, 4), Weights(0.3, 0.7), Weights(0, 1), Weights(1, 0)])
def test_terms_are_the_papers(weights: Weights, tau: float, squared: bool) -> None:
    student, teacher, labels = draw()
    terms = distillation_terms(student, labels, Targets(teacher), weights, temperature=tau, tau_squared=squared)
    expected = reference(student, teacher, labels, weights, tau, squared)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-10), name
    assert expected["soft_loss"] > 0.1 and 0 < expected["agreement"] < ROWS


def test_the_reference_tells_directions_and_temperatures_apart() -> None:
    student, teacher, labels = draw()
    weights = Weights(1, 1)
    right = reference(student, teacher, labels, weights, 2.0, False)["soft_loss"]
    reverse = reference(teacher, student, labels, weights, 2.0, False)["soft_loss"]
    squared = reference(student, teacher, labels, weights, 2.0, True)["soft_loss"]
    assert len({round(value, 3) for value in (right, reverse, squared)}) == 3


@pytest.mark.parametrize("name", SOFT_TERMS)
def test_a_teacher_that_agrees_in_everything_costs_nothing(name: str) -> None:
    student, teacher, labels = draw()
    same, other = (
        distillation_terms(student, labels, Targets(logits), Weights(1, 1), soft_term=SOFT_TERMS[name])
        for logits in (student + 5.0, teacher)
    )
    assert same["soft_loss"].item() == pytest.approx(0.0, abs=1e-12)
    assert same["agreement"].item() == ROWS
    assert other["soft_loss"].item() > 0.1


def test_without_a_teacher_or_at_soft_weight_zero_the_loss_is_the_plain_loss() -> None:
    student, teacher, labels = draw()
    plain = torch.nn.functional.cross_entropy(student, labels, reduction="sum")
    alone = distillation_terms(student, labels, None, Weights(1, 0))
    zero = distillation_terms(student, labels, Targets(teacher), Weights(1, 0))
    one = distillation_terms(student, labels, Targets(teacher), Weights(1, 1))
    assert alone["loss"].item() == zero["loss"].item() == pytest.approx(plain.item(), rel=1e-12)
    assert "soft_loss" not in alone
    assert one["loss"].item() > zero["loss"].item() + 0.1


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0}, {"label_smoothing": 0.1}, {"tau_squared": True}])
def test_gradient(options: dict[str, Any]) -> None:
    student, teacher, labels = draw()

    def loss(logits: Tensor) -> Tensor:
        return distillation_terms(logits, labels, Targets(teacher), Weights(0.7, 1.3), **options)["loss"]

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(),))


def test_gradcheck_would_see_a_detached_term() -> None:
    student, teacher, labels = draw()

    def loss(logits: Tensor) -> Tensor:
        terms = distillation_terms(logits, labels, Targets(teacher), Weights(0.7, 1.3))
        return terms["loss"] + terms["soft_loss"].detach()

    assert not torch.autograd.gradcheck(loss, (student.requires_grad_(),), raise_exception=False)


def test_label_smoothing_is_that_of_torch() -> None:
    student, _, labels = draw()
    ours = distillation_terms(student, labels, None, Weights(1, 0), label_smoothing=0.1)["loss"]
    torchs, plain = (
        torch.nn.functional.cross_entropy(student, labels, reduction="sum", label_smoothing=smoothing)
        for smoothing in (0.1, 0.0)
    )
    assert ours.item() == pytest.approx(torchs.item(), rel=1e-12)
    assert abs(plain.item() - torchs.item()) > 0.1


def test_a_narrower_teacher_is_compared_on_the_common_prefix() -> None:
    """Padding of a vocabulary: the student's own softmax over the prefix, not its logits padded with zeros."""
    student, teacher, labels = draw()
    narrow, labels = teacher[:, : CLASSES - 4], labels.clamp(max=CLASSES - 5)
    terms = distillation_terms(student, labels, Targets(narrow), Weights(1, 1))
    expected = reference(student, narrow, labels, Weights(1, 1), 1.0, False)
    assert terms["soft_loss"].item() == pytest.approx(expected["soft_loss"], rel=1e-10)
    assert terms["hard_loss"].item() == pytest.approx(expected["hard_loss"], rel=1e-10)
    padded = torch.nn.functional.pad(narrow, (0, 4))
    wrong = distillation_terms(student, labels, Targets(padded), Weights(1, 1))
    assert abs(wrong["soft_loss"].item() - expected["soft_loss"]) > 0.01


def test_rows_whose_label_the_teacher_has_no_class_for_have_no_soft_term() -> None:
    """A row of its own, then none of the new labels: the same sum, whatever weight the row has."""
    student, teacher, labels = draw()
    narrow, weight = teacher[:, : CLASSES - 4], torch.linspace(1, 2, ROWS, dtype=torch.float64)
    labels = labels.where(torch.arange(ROWS) % 3 > 0, CLASSES - 1)
    known = labels < CLASSES - 4
    assert 0 < known.sum() < ROWS
    for row_weight in (None, weight):
        terms = distillation_terms(student, labels, Targets(narrow, row_weight), Weights(1, 1))
        kept = None if row_weight is None else row_weight[known]
        alone = distillation_terms(student[known], labels[known], Targets(narrow[known], kept), Weights(1, 1))
        assert terms["soft_loss"].item() == pytest.approx(alone["soft_loss"].item(), rel=1e-10)
        assert terms["loss"].item() == pytest.approx((terms["hard_loss"] + alone["soft_loss"]).item(), rel=1e-10)


def test_row_weights_scale_the_soft_term_alone() -> None:
    student, teacher, labels = draw()
    row_weight = torch.linspace(0, 2, ROWS, dtype=torch.float64)
    weighted = distillation_terms(student, labels, Targets(teacher, row_weight), Weights(1, 1))
    single = [
        distillation_terms(student[[n]], labels[[n]], Targets(teacher[[n]]), Weights(1, 1))["soft_loss"].item()
        for n in range(ROWS)
    ]
    plain = distillation_terms(student, labels, Targets(teacher), Weights(1, 1))
    assert weighted["soft_loss"].item() == pytest.approx(float(np.dot(row_weight.numpy(), single)), rel=1e-10)
    assert weighted["hard_loss"].item() == plain["hard_loss"].item()
    assert abs(weighted["soft_loss"].item() - plain["soft_loss"].item()) > 0.01


def test_a_hard_term_from_elsewhere_takes_the_place_of_the_labels() -> None:
    student, teacher, labels = draw()
    own = student.pow(2).sum()
    terms = distillation_terms(student, labels, Targets(teacher), Weights(2, 1), hard=own)
    assert terms["loss"].item() == pytest.approx(2 * own.item() + terms["soft_loss"].item(), rel=1e-12)
    assert terms["hard_loss"].item() == own.item()


def test_no_rows_give_zeros_with_a_gradient() -> None:
    student = torch.randn(0, CLASSES, requires_grad=True)
    terms = distillation_terms(
        student, torch.zeros(0, dtype=torch.long), Targets(torch.randn(0, CLASSES)), Weights(1, 1)
    )
    terms["loss"].backward()
    assert all(value.item() == 0 for value in terms.values())
    assert student.grad is not None and student.grad.shape == (0, CLASSES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reduced_in_fp32(dtype: torch.dtype) -> None:
    """In half precision a divergence over many classes loses its digits and can turn negative."""
    student, _, labels = draw(classes=4096, dtype=dtype)
    nearly = student.clone()
    nearly[:, 0] += 0.05
    soft = distillation_terms(student, labels, Targets(nearly), Weights(1, 1))["soft_loss"]
    expected = reference(student.double(), nearly.double(), labels, Weights(1, 1), 1.0, False)["soft_loss"]
    assert soft.dtype == torch.float32 and soft.item() == pytest.approx(expected, rel=0.02, abs=1e-6)
    p, q = nearly.log_softmax(-1), student.log_softmax(-1)
    naive = (p.exp() * (p - q)).sum().item()
    assert abs(naive - expected) > 10 * abs(soft.item() - expected)


def test_a_callable_is_a_soft_term() -> None:
    def reverse(student: Tensor, teacher: Tensor) -> Tensor:
        return (student.exp() * (student - teacher)).sum(-1)

    student, teacher, labels = draw()
    terms = distillation_terms(student, labels, Targets(teacher), Weights(1, 1), soft_term=get_soft_term(reverse))
    assert terms["soft_loss"].item() == pytest.approx(
        reference(teacher, student, labels, Weights(1, 1), 1.0, False)["soft_loss"], rel=1e-10
    )


@pytest.mark.parametrize(("name", "hint"), [("forwardkl", "Did you mean 'forward_kl'?"), ("zzz", "Available:")])
def test_an_unknown_soft_term_names_the_known(name: str, hint: str) -> None:
    with pytest.raises(ArgumentError, match="soft_term=") as error:
        get_soft_term(name)
    assert hint in str(error.value) and "forward_kl" in str(error.value)


def test_every_soft_term_is_a_divergence_per_row() -> None:
    student, teacher, _ = draw()
    functions: list[Callable[[Tensor, Tensor], Tensor]] = list(SOFT_TERMS.values())
    for function in functions:
        rows = function(student.log_softmax(-1), teacher.log_softmax(-1))
        assert rows.shape == (ROWS,) and (rows > 0).all()


def pointwise(student: Tensor, teacher: Tensor) -> Tensor:
    return teacher.exp() * (teacher - student)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda student, teacher: pointwise(student, teacher).sum(), "tensor of shape () for 3 rows of 5 classes"),
        (pointwise, "tensor of shape (3, 5)"),
        (lambda student, teacher: pointwise(student, teacher).sum(0), "tensor of shape (5,)"),
        (lambda student, teacher: pointwise(student, teacher).sum(-1).tolist(), "returned a list"),
        (lambda student, teacher: pointwise(student, teacher).sum(-1) / 0, "returned [inf"),
        (lambda student, teacher: pointwise(student.detach(), teacher).sum(-1), "without a gradient"),
        (lambda student: student.sum(-1), "raised TypeError"),
        (lambda student, teacher: (teacher * torch.ones(9)).sum(-1), "raised RuntimeError"),
    ],
)
def test_what_is_no_divergence_per_row_is_refused(function: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as error:
        require_divergence(function)
    assert error.value.argument == "soft_term" and words in str(error.value)
    assert "a sum over the classes alone" in error.value.fix


def test_divergences_per_row_pass_and_may_be_negative() -> None:
    before = torch.get_rng_state()
    for function in (*SOFT_TERMS.values(), lambda student, teacher: -(teacher.exp() * student).sum(-1) - 9):
        require_divergence(function)
    require_divergence(lambda student, teacher: (pointwise(student, teacher) * torch.ones(9)).sum(-1), classes=9)
    assert torch.equal(torch.get_rng_state(), before)
