"""Head and objective in chunks: the same sums and gradients as over all logits at once, which never exist."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_dwt.forward.rows import select_rows
from hf_dwt.objective import Targets, Weights, chunked, distillation_terms
from hf_dwt.objective.divergences import forward_kl as closed_form
from hf_dwt.objective.divergences.forward_kl import FORWARD_KL
from hf_dwt.objective.logits import LinearLogits
from hf_dwt.training.figures import example_figures

from .test_row_logits import LargestTensor

ROWS, CLASSES, WIDTH = 11, 29, 6
TEACHER_CLASSES = (None, CLASSES, CLASSES - 4)
FINISHES = ((1.0, None), (0.5, None), (1.0, 3.0), (2.0, 2.0))


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return FORWARD_KL(teacher, student)


@pytest.fixture(autouse=True)
def chunks_of_four_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "BYTES_ON_CPU", 4 * CLASSES * 8)
    monkeypatch.setattr(chunked, "LEAST_ROWS", 1)


def draw(dtype: torch.dtype, finish: tuple[float, Any] = (1.0, None), bias: bool = True, rows: int = ROWS) -> Any:
    """Student, labels, and a function from the number of classes to targets with row weights."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    leaves = [t.requires_grad_() for t in (normal(rows, WIDTH), normal(CLASSES, WIDTH), normal(CLASSES))]
    student = LinearLogits(*leaves[: 3 if bias else 2], scale=finish[0], cap=finish[1])
    teacher, row_weight = 2 * normal(rows, CLASSES), normal(rows).abs()
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    return student, labels, lambda classes, weighted: Targets(teacher[:, :classes], row_weight if weighted else None)


def terms_and_gradients(student: Any, leaves: list[Tensor], *rest: Any, **options: Any) -> dict[str, Tensor]:
    terms = distillation_terms(student, *rest, **options)
    gradients = torch.autograd.grad(0.7 * terms["loss"], leaves)
    return {name: value.detach() for name, value in terms.items()} | dict(zip("hwb", gradients, strict=False))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("soft_term", [FORWARD_KL, reverse_kl])
@pytest.mark.parametrize("finish", FINISHES)
def test_chunks_equal_the_whole(
    finish: tuple[float, Any], soft_term: Callable[..., Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    """Sums and all gradients, over every combination of what the objective knows; over every seventh in fp32."""
    seen = set()
    combinations = [
        *itertools.product(
            TEACHER_CLASSES,
            (1.0, 2.0),
            (0.0, 0.1),
            (False, True),
            (False, True),
            ((0.3, 0.7), (1, 0), (0, 2)),
            (True, False),
        )
    ]
    # What the combinations compute is compared in fp64; fp32 rounds it. Each value is among every seventh.
    step = 1 if dtype == torch.float64 else 7
    for classes, tau, smoothing, squared, weighted, weights, bias in combinations[::step]:
        student, labels, said = draw(dtype, finish, bias)
        leaves = [leaf for leaf in (student.hidden, student.weight, student.bias) if leaf is not None]
        targets = None if classes is None else said(classes, weighted)
        rest = (leaves, labels, targets, Weights(*weights))
        options: dict[str, Any] = {"soft_term": soft_term, "temperature": tau, "tau_squared": squared}
        whole, parts = (
            terms_and_gradients(logits, *rest, **options, label_smoothing=smoothing)
            for logits in (student[:], student)
        )
        assert whole.keys() == parts.keys()
        for name, value in whole.items():
            scale = tolerance * max(1.0, value.abs().max().item())
            torch.testing.assert_close(parts[name], value, rtol=0, atol=scale, msg=lambda m, n=name: f"{n}: {m}")
        seen.add(round(whole["loss"].item(), 6))
    # the combinations differ, so that one in place of another would be seen
    assert len(seen) > len(combinations) / step / 4


def test_a_wrong_closed_form_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    student, labels, said = draw(torch.float64)
    rest = ([student.weight], labels, said(CLASSES, True), Weights(1, 1))
    right = terms_and_gradients(student, *rest, temperature=2.0)
    original = closed_form._softmax
    monkeypatch.setattr(closed_form, "_softmax", lambda logits, tau: original(logits, 1.0))
    wrong = terms_and_gradients(student, *rest, temperature=2.0)
    assert (right["h"] - wrong["h"]).abs().max() > 0.1 and abs(right["soft_loss"] - wrong["soft_loss"]) > 0.1


@pytest.mark.parametrize("soft_term", [FORWARD_KL, reverse_kl])
def test_no_logits_of_all_rows_exist(soft_term: Callable[..., Tensor]) -> None:
    student, labels, _ = draw(torch.float64, rows=40)
    lazy = LinearLogits(student.hidden.detach() + 1, student.weight.detach(), student.bias.detach())
    rows = select_rows(labels.reshape(4, 10), shifts=False)
    for logits, most in ((student, 6), (student[:], 40)):
        with LargestTensor(CLASSES) as seen:
            terms = distillation_terms(logits, labels, Targets(lazy), Weights(1, 1), soft_term=soft_term)
            terms["loss"].backward()
            with torch.no_grad():
                example_figures(logits, rows, 4, Targets(lazy), soft_term, 1.0)
        assert seen.most == most  # four rows; the head's weight has six


def test_figures_in_chunks_are_those_of_the_whole() -> None:
    student, labels, said = draw(torch.float64)
    rows = select_rows(torch.cat([labels.clamp(max=CLASSES - 5), torch.tensor([-100])]).reshape(3, 4), shifts=False)
    for targets in (None, said(CLASSES - 4, False)):
        whole, parts = (
            example_figures(logits, rows, 3, targets, FORWARD_KL, 2.0) for logits in (student[:].detach(), student)
        )
        assert whole.keys() == parts.keys() and whole["nll"].unique().numel() == 3
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value)


def test_no_rows_give_zeros_with_a_gradient() -> None:
    student, labels, said = draw(torch.float32, rows=0)
    found = terms_and_gradients(student, [student.hidden, student.weight], labels, said(CLASSES, True), Weights(1, 1))
    assert all((value == 0).all() for value in found.values())
    assert found["h"].shape == (0, WIDTH) and found["w"].shape == (CLASSES, WIDTH)
    figures = example_figures(student, select_rows(torch.full((2, 3), -100), False), 2, None, FORWARD_KL, 1.0)
    assert figures["nll"].tolist() == [0, 0]


def test_a_frozen_head_costs_no_gradient_of_its_weight() -> None:
    student, labels, said = draw(torch.float64)
    expected = terms_and_gradients(student, [student.hidden], labels, said(CLASSES, True), Weights(1, 1))["h"]
    for leaf in (student.weight, student.bias):
        leaf.requires_grad_(False)
    gradients = chunked.Gradients(student)
    assert gradients.weight is None and gradients.bias is None and gradients.hidden is not None
    terms = distillation_terms(student, labels, said(CLASSES, True), Weights(1, 1))
    torch.testing.assert_close(torch.autograd.grad(0.7 * terms["loss"], student.hidden)[0], expected)
    with torch.no_grad():
        assert not distillation_terms(student, labels, None, Weights(1, 1))["loss"].requires_grad


def test_gradients_add_up_and_a_second_backward_pass_is_refused() -> None:
    student, labels, said = draw(torch.float64)
    once = terms_and_gradients(student, [student.weight], labels, said(CLASSES, True), Weights(1, 1))["h"]
    for _ in range(2):  # as accumulation does
        loss = 0.7 * distillation_terms(student, labels, said(CLASSES, True), Weights(1, 1))["loss"]
        loss.backward(retain_graph=True)
    torch.testing.assert_close(student.weight.grad, 2 * once)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_is_reduced_in_fp32(dtype: torch.dtype, autocast: bool) -> None:
    """The product rounds as the model's own would; what is summed does not."""
    student, labels, said = draw(torch.float32, rows=40)
    rest = (labels, said(CLASSES, True), Weights(1, 1))
    exact = terms_and_gradients(student, [student.hidden, student.weight, student.bias], *rest)
    kind = torch.float32 if autocast else dtype
    leaves = [t.detach().to(kind).requires_grad_() for t in (student.hidden, student.weight, student.bias)]
    half = terms_and_gradients(LinearLogits(*leaves, dtype=dtype), leaves, *rest)
    tolerance = 0.03 if dtype == torch.bfloat16 else 0.004
    for name in exact:
        assert half[name].dtype == (kind if name in "hwb" else torch.float32)
        if name != "agreement":
            gap = (half[name].float() - exact[name]).abs().max() / exact[name].abs().max()
            assert 0 < gap < tolerance, (name, gap)


def test_torch_takes_the_product_that_cuda_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes and types alone, on the meta device; tests/test_cuda.py has the values."""
    left, right = (torch.ones(*shape, device="meta", dtype=torch.bfloat16) for shape in ((29, 4), (4, 6)))
    total = torch.zeros(29, 6, device="meta")
    assert not chunked._adds_to(total, torch.bfloat16)
    monkeypatch.setattr(chunked, "_adds_to", lambda total, dtype: True)
    chunked._add_product(total, left, right, 0.5)
    with pytest.raises(RuntimeError):
        chunked._add_product(total, right, left, 0.5)


def test_rare_classes_keep_their_gradient_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the factor of a loss scaler, as close to fp64 as logits of all rows are; without the lift they are lost."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, WIDTH, generator=generator) / 2 for n in (32, 500))
    bias = torch.linspace(0, -15, 500)  # the last class has a probability of 1e-8 or so
    labels, said = torch.randint(0, 20, (32,), generator=generator), Targets(weight[:, :1].t().expand(32, -1) + bias)

    def of_weight(dtype: torch.dtype, whole: bool) -> Tensor:
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        leaves = [t.to(kind, copy=True).requires_grad_() for t in (hidden, weight, bias)]
        student = LinearLogits(*leaves, dtype=dtype)
        targets = Targets(said.logits.to(kind))
        terms = distillation_terms(student[:] if whole else student, labels, targets, Weights(1, 1))
        return torch.autograd.grad(terms["loss"] / 32 * 2.0**16, leaves)[1].double()

    exact = of_weight(torch.float64, whole=True)

    def error(whole: bool) -> float:
        gaps = (of_weight(torch.float16, whole) - exact).norm(dim=1) / exact.norm(dim=1)
        return gaps.quantile(0.95).item()

    assert error(whole=False) < 3 * error(whole=True) < 0.1
    monkeypatch.setattr(chunked, "LIFT_OF_FP16", 1.0)
    assert error(whole=False) > 0.3


def test_a_large_head_gets_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (LinearLogits(torch.zeros(50, 1), torch.zeros(classes, 1)) for classes in (CLASSES, 4 * CLASSES))
    for logits, size in ((small, 8), (large, 2)):
        parts = chunked.chunks(logits)
        assert [p.start for p in parts] == list(range(0, 50, size)) and parts[-1].stop == 50
    monkeypatch.setattr(chunked, "LEAST_ROWS", 20)
    assert [p.stop for p in chunked.chunks(small)] == [p.stop for p in chunked.chunks(large)] == [20, 40, 50]
