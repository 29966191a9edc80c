"""The soft term from a few classes against float64 references that are written out, and its gradients."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hf_dwt.objective import Targets, Weights, distillation_terms
from hf_dwt.objective.logits import LinearLogits
from hf_dwt.objective.sparse import Sampled, TopK

N, C, P, H = 7, 23, 19, 5
WEIGHTS = Weights(hard=0.7, soft=1.3)


def linear_student() -> LinearLogits:
    generator = torch.Generator().manual_seed(0)
    made = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((N, H), (C, H), (C,)))
    return LinearLogits(*(leaf.requires_grad_() for leaf in made))


def teacher_logits() -> torch.Tensor:
    return 2 * torch.randn(N, P, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def truth() -> torch.Tensor:
    """Of the labels 0, 1, 2, ..."""
    return F.log_softmax(teacher_logits(), -1)[range(N), range(N)]


def top_k(k: int, tau: float) -> TopK:
    log_probs, ids = F.log_softmax(teacher_logits() / tau, -1).topk(k)
    rest = (1 - log_probs.exp().sum(-1)).clamp(min=0) if k < P else torch.zeros(N, dtype=torch.float64)
    return TopK(ids, P, truth(), log_probs, rest)


def sampled(k: int, tau: float, seed: int = 0) -> Sampled:
    probs = F.softmax(teacher_logits() / tau, -1)
    ids = torch.multinomial(probs, k, replacement=True, generator=torch.Generator().manual_seed(seed))
    return Sampled(ids, P, truth(), -(probs * probs.log()).sum(-1), probs.argmax(-1))


def reference(kind: Any, student: torch.Tensor, tau: float) -> torch.Tensor:
    """(n,) divergences, class by class."""
    q = F.softmax(student[:, :P] / tau, -1)
    rows = []
    for row in range(N):
        ids = kind.ids[row].tolist()
        if isinstance(kind, Sampled):
            rows.append(-kind.entropy[row] - sum(q[row, i].log() for i in ids) / len(ids))
            continue
        p = F.softmax(teacher_logits()[row] / tau, -1)
        others = [i for i in range(P) if i not in ids]
        r, s = sum(p[i] for i in others), sum(q[row, i] for i in others)
        known = sum(p[i] * (p[i] / q[row, i]).log() for i in ids)
        rows.append(known + (r * (r / s).log() if others else 0.0))
    return torch.stack(rows)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("make", [lambda tau: top_k(6, tau), lambda tau: top_k(P, tau), lambda tau: sampled(9, tau)])
def test_value_and_gradient_are_the_references(make: Any, tau: float, chunked: bool) -> None:
    student, kind = linear_student(), make(tau)
    row_weight = torch.linspace(0.5, 2.0, N, dtype=torch.float64)
    labels = torch.arange(N)
    logits = student[:]
    soft = (reference(kind, logits, tau) * row_weight).sum() * tau**2
    expected = WEIGHTS.hard * F.cross_entropy(logits, labels, reduction="sum") + WEIGHTS.soft * soft
    leaves = [student.hidden, student.weight, student.bias]
    wanted = torch.autograd.grad(expected, leaves)  # type: ignore[arg-type]
    own = student if chunked else student[:]
    terms = distillation_terms(own, labels, Targets(kind, row_weight), WEIGHTS, temperature=tau, tau_squared=True)
    assert terms["soft_loss"].item() == pytest.approx(soft.item(), rel=1e-9) and abs(soft.item()) > 0.1
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-9)
    same = logits.argmax(-1) == teacher_logits().argmax(-1)
    assert terms["agreement"].item() == same.sum().item()
    ahead = F.cross_entropy(logits, labels, reduction="sum") - F.cross_entropy(
        teacher_logits(), labels, reduction="sum"
    )
    assert terms["teacher_margin"].item() == pytest.approx(ahead.item(), rel=1e-9)
    for gradient, other in zip(torch.autograd.grad(terms["loss"], leaves), wanted, strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-8)
        assert other.abs().max() > 0.1


def full_kl(tau: float = 1.0) -> torch.Tensor:
    p, q = (F.log_softmax(logits[:, :P] / tau, -1) for logits in (teacher_logits(), linear_student()[:].detach()))
    return (p.exp() * (p - q)).sum(-1)


def value(kind: Any) -> torch.Tensor:
    return kind.kl(F.log_softmax(linear_student()[:].detach()[:, :P], -1).gather(-1, kind.ids))


def test_top_k_rises_to_the_full_divergence() -> None:
    bounds = torch.stack([value(top_k(k, 1.0)) for k in range(1, P + 1)])
    assert (bounds.diff(dim=0) >= -1e-12).all() and (bounds[0] < full_kl() - 0.01).any()
    torch.testing.assert_close(bounds[-1], full_kl())


def test_draws_are_unbiased_in_value_and_gradient() -> None:
    many = [value(sampled(50, 1.0, seed)) for seed in range(400)]
    mean, error = torch.stack(many).mean(0), torch.stack(many).std(0) / 20
    assert ((mean - full_kl()).abs() < 4.5 * error).all() and (error > 1e-4).all()
    counts = torch.stack([F.one_hot(sampled(50, 1.0, s).ids, P).sum(1) / 50 for s in range(400)]).mean(0)
    torch.testing.assert_close(counts.double(), F.softmax(teacher_logits(), -1), rtol=0, atol=0.015)


def test_a_student_that_leaves_nothing_to_the_rest_gets_a_finite_loss() -> None:
    known = torch.log(torch.tensor([[0.5, 0.5]])).float()
    kind = TopK(torch.tensor([[0, 1]]), P, torch.zeros(1), torch.log(torch.tensor([[0.5, 0.4]])), torch.tensor([0.1]))
    assert torch.isfinite(kind.kl(known)).all() and kind.kl(known) > 1.0
    assert all(torch.isfinite(torch.as_tensor(part)).all() for part in kind.slope(known))
