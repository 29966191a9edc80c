"""Several teachers: what their mixture is, and which weights they get."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hf_dwt.errors import ArgumentError, SetupError, TeacherError
from hf_dwt.forward.rows import Rows, select_rows
from hf_dwt.objective import Targets, Weights, chunked, distillation_terms
from hf_dwt.objective.logits import LinearLogits
from hf_dwt.teachers import CorrectedTeacher, ReinforcedSelection, SeveralTeachers
from hf_dwt.teachers.several import WEIGHTINGS
from hf_dwt.teachers.several.policy import filled, log_probability
from hf_dwt.teachers.several.record import Figures
from hf_dwt.teachers.several.rewards import REWARDS

from .models import tiny
from .test_row_logits import LargestTensor
from .training import trainer

CLASSES, WIDTH, LENGTH = 23, 5, 6
LABELS = torch.tensor(
    [[3, -100, 7, 7, -100, 21], [-100, 1, -100, 0, 22, 4], [9, 9, -100, 2, 6, -100]],
)
ROWS = select_rows(LABELS, shifts=False)
N = len(ROWS.labels)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Fixed:
    """A teacher of drawn logits, of a linear head or there already."""

    columns: frozenset[str] = frozenset({"input_ids"})

    def __init__(self, seed: int, classes: int = CLASSES, lazy: bool = True) -> None:
        self.logits = LinearLogits(normal(seed, N, WIDTH), normal(seed + 50, classes, WIDTH))
        self.lazy = lazy

    def targets(self, batch: Any, rows: Rows) -> Targets:
        return Targets(self.logits if self.lazy else self.logits[:])


def batch() -> dict[str, Tensor]:
    return {"input_ids": torch.arange(18).reshape(3, 6), "labels": LABELS}


def mixed(teachers: list[Any], **settings: Any) -> Targets:
    several = SeveralTeachers(teachers, **settings)
    return several.opened(several.sources).targets(batch(), ROWS)  # type: ignore[arg-type]


def loss(targets: Targets, chunks: bool = False, tau: float = 1.0) -> tuple[dict[str, Tensor], Tensor]:
    """The terms, and the gradient of the soft one with respect to the student's hidden states."""
    student = LinearLogits(normal(0, N, WIDTH).requires_grad_(), normal(1, CLASSES, WIDTH))
    few = patch.multiple(chunked, BYTES_ON_CPU=4 * CLASSES * 8, LEAST_ROWS=1)
    with few if chunks else patch.multiple(chunked, LEAST_ROWS=48):
        logits = student if chunks else student[:]
        terms = distillation_terms(logits, ROWS.labels, targets, Weights(0.0, 1.0), temperature=tau)
    (gradient,) = torch.autograd.grad(terms["loss"], student.hidden)
    return {name: value.detach() for name, value in terms.items()}, gradient


def assert_same(one: Targets, other: Targets, tau: float = 1.0) -> None:
    """Both give the same terms and gradients, chunked and plain."""
    for chunks in (False, True):
        (terms, gradient), (expected, slope) = loss(one, chunks, tau), loss(other, chunks, tau)
        torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-6)
        for name in ("soft_loss", "agreement", "teacher_margin"):
            torch.testing.assert_close(terms[name], expected[name], rtol=0, atol=1e-6)


EVERY = [*WEIGHTINGS, [0.5, 2.0, 1.0], lambda figures, temperature: torch.softmax(figures.entropies, 1)]
POLICY = ReinforcedSelection(warmup=0.0)
OVERS = ("row", "example", "batch")


@pytest.mark.parametrize("over", OVERS)
@pytest.mark.parametrize("weighting", [*EVERY, POLICY], ids=[*WEIGHTINGS, "numbers", "function", "policy"])
def test_equal_teachers_are_one_teacher(weighting: Any, over: str) -> None:
    for tau in (1.0, 2.0):
        assert_same(mixed([Fixed(2)] * 3, weighting=weighting, over=over), Fixed(2).targets(None, ROWS), tau)


@pytest.mark.parametrize("weighting", [*WEIGHTINGS, [7], POLICY], ids=[*WEIGHTINGS, "number", "policy"])
def test_one_teacher_is_that_teacher(weighting: Any) -> None:
    assert_same(mixed([Fixed(2)], weighting=weighting), Fixed(2).targets(None, ROWS), tau=1.5)
    assert_same(mixed([Fixed(2, lazy=False)], weighting=weighting), Fixed(2).targets(None, ROWS), tau=1.5)


def test_the_mixture_has_the_gradient_of_all_soft_terms() -> None:
    """sum_k w_k KL(p_k || q), formed by itself, against KL of the mixture; their values differ by what has no q."""
    teachers = [Fixed(seed) for seed in (2, 3, 4)]
    shares = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) / 3.5
    for chunks, tau in itertools.product((False, True), (1.0, 2.0)):
        apart = [loss(teacher.targets(None, ROWS), chunks, tau) for teacher in teachers]
        terms, gradient = loss(mixed(teachers, weighting=[0.5, 2.0, 1.0]), chunks, tau)
        expected = sum(share * slope for share, (_, slope) in zip(shares, apart, strict=True))
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)
        several = sum(share * each["soft_loss"] for share, (each, _) in zip(shares, apart, strict=True))
        p = [torch.softmax(teacher.logits[:] / tau, 1) for teacher in teachers]
        mean = sum(share * each for share, each in zip(shares, p, strict=True))
        constants = (
            -sum(share * torch.xlogy(each, each).sum() for share, each in zip(shares, p, strict=True))
            + torch.xlogy(mean, mean).sum()
        )
        assert abs(constants) > 1
        torch.testing.assert_close(terms["soft_loss"], several + constants, rtol=0, atol=1e-5)


def test_numbers_may_be_as_large_as_there_are() -> None:
    weights = weights_of([Fixed(2), Fixed(3)], weighting=[1e308, 1.5e308])
    torch.testing.assert_close(weights, torch.tensor([[0.4, 0.6]]).expand(N, 2))


def negative_losses(teachers: list[Any]) -> Tensor:
    """(n, K)"""
    each = [torch.log_softmax(teacher.logits[:], 1)[range(N), ROWS.labels] for teacher in teachers]
    return torch.stack(each, 1)


def weights_of(teachers: list[Any], **settings: Any) -> Tensor:
    return mixed(teachers, **settings).logits.weights  # type: ignore[union-attr, return-value]


def by_hand(scores: Tensor, over: str) -> Tensor:
    """(n, K) means of each group, in a loop."""
    rows = [[n] for n in range(N)]
    if over == "example":
        rows = [[m for m in range(N) if ROWS.examples[m] == ROWS.examples[n]] for n in range(N)]
    elif over == "batch":
        rows = [list(range(N))] * N
    return torch.stack([scores[own].mean(0) for own in rows])


@pytest.mark.parametrize("over", OVERS)
def test_the_weights_are_their_formulas(over: str) -> None:
    teachers = [Fixed(seed) for seed in (2, 3, 4)]
    means = by_hand(negative_losses(teachers), over)
    for temperature in (0.5, 2.0):
        found = weights_of(teachers, weighting="cross_entropy", over=over, temperature=temperature)
        torch.testing.assert_close(found, torch.softmax(means / temperature, 1), rtol=0, atol=1e-10)
        found = weights_of(teachers, weighting="perplexity", over=over, temperature=temperature)
        torch.testing.assert_close(found, torch.softmax(-torch.exp(-means) / temperature, 1), rtol=0, atol=1e-10)
    assert len({tuple(row) for row in means.tolist()}) == {"row": N, "example": 3, "batch": 1}[over]


@pytest.mark.parametrize("weighting", ["cross_entropy", "perplexity"])
def test_temperatures_go_from_the_best_teacher_to_the_mean(weighting: str) -> None:
    teachers = [Fixed(seed) for seed in (2, 3, 4)]
    best = by_hand(negative_losses(teachers), "example").argmax(1)
    assert len(set(best.tolist())) > 1
    logits = torch.stack([teacher.logits[:] for teacher in teachers])[best, range(N)]
    for cold, hot in ((1e-3, 1e9), (1e-300, 1e300)):
        assert_same(mixed(teachers, weighting=weighting, temperature=cold), Targets(logits))
        assert_same(mixed(teachers, weighting=weighting, temperature=hot), mixed(teachers, weighting="equal"))


def test_a_teacher_that_is_hopeless_gets_no_weight_and_no_number_overflows() -> None:
    hopeless = Fixed(3)
    hopeless.logits = LinearLogits(hopeless.logits.hidden * 1e4, hopeless.logits.weight)
    for weighting, over in itertools.product(("cross_entropy", "perplexity"), OVERS):
        found = weights_of([Fixed(2), hopeless], weighting=weighting, over=over)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found.sum(1), torch.ones(N, dtype=found.dtype))
    assert weights_of([Fixed(2), hopeless])[:, 1].max() < 1e-6


def test_vocabularies_of_several_paddings_are_cut_to_what_all_have() -> None:
    """A label that one of them does not have takes no part in the weights of its example, and has no soft term."""
    wide, narrow = Fixed(2), Fixed(3, classes=CLASSES - 1)
    cut = Fixed(2, classes=CLASSES - 1)
    cut.logits = LinearLogits(wide.logits.hidden, wide.logits.weight[:-1])
    assert (ROWS.labels == CLASSES - 1).sum() == 1
    assert_same(mixed([wide, narrow]), mixed([cut, narrow]))
    found = weights_of([wide, narrow])
    scores = negative_losses([cut_to(cut), cut_to(narrow)])
    known = (ROWS.examples == 1) & (ROWS.labels < CLASSES - 1)
    expected = torch.softmax(scores[known].mean(0), 0)
    torch.testing.assert_close(found[ROWS.examples == 1], expected.expand(4, 2), rtol=0, atol=1e-10)


def cut_to(teacher: Fixed) -> Any:
    """With one more class, of no probability, so that every label is a class."""
    logits = torch.cat([teacher.logits[:], torch.full((N, 1), -torch.inf, dtype=torch.float64)], 1)
    return SimpleNamespace(logits=logits)


def test_a_mixture_within_a_mixture_is_the_mixture_of_all() -> None:
    one, two, three = Fixed(2), Fixed(3), Fixed(4)
    inner = SeveralTeachers([one, two], [1, 3])
    outer = SeveralTeachers({"pair": inner, "other": three}, [2, 1])
    opened = outer.opened({"pair": inner.opened(inner.sources), "other": three})  # type: ignore[arg-type]
    assert_same(opened.targets(batch(), ROWS), mixed([one, two, three], weighting=[1, 3, 2]), tau=2.0)
    by_labels = SeveralTeachers({"pair": inner, "other": three})
    found = by_labels.opened({"pair": inner.opened(inner.sources), "other": three})  # type: ignore[arg-type]
    pair = (0.25 * torch.softmax(one.logits[:], 1) + 0.75 * torch.softmax(two.logits[:], 1)).log()
    scores = negative_losses([SimpleNamespace(logits=pair), three])
    expected = torch.softmax(by_hand(scores, "example"), 1)
    torch.testing.assert_close(found.targets(batch(), ROWS).logits.weights, expected, rtol=0, atol=1e-6)  # type: ignore


def test_one_of_several_teachers_has_a_correction_of_its_own() -> None:
    """Revised before it is mixed: the mixture of the revised distribution, made by hand."""
    corrected, plain = CorrectedTeacher(Fixed(2), "revise", eta=0.6), Fixed(3)
    teacher = SeveralTeachers([corrected, plain], [1, 1])
    opened = teacher.opened({"0": corrected.opened({"": Fixed(2)}), "1": plain})
    p = torch.softmax(Fixed(2).logits[:], 1)
    truth = torch.nn.functional.one_hot(ROWS.labels, CLASSES).double()
    most, own = p.max(1, keepdim=True).values, (p * truth).sum(1, keepdim=True)
    kept = torch.where(p.argmax(1, keepdim=True) == ROWS.labels.unsqueeze(1), 1.0, 0.6 / (most - own + 1.0))
    assert (kept < 1).any()
    revised = kept * p + (1 - kept) * truth
    expected = (0.5 * revised + 0.5 * torch.softmax(plain.logits[:], 1)).log()
    for chunks in (False, True):
        _, gradient = loss(opened.targets(batch(), ROWS), chunks)
        torch.testing.assert_close(gradient, loss(Targets(expected), chunks)[1], rtol=0, atol=1e-6)


# ---- the policy ----


def test_choices_are_never_empty_and_their_probabilities_sum_up_to_one() -> None:
    for teachers in (1, 2, 3):
        odds = normal(5, 1, teachers)
        every = torch.tensor([*itertools.product((False, True), repeat=teachers)])
        each = {tuple(row) for row in filled(odds.expand(len(every), -1), every).tolist()}
        assert len(each) == 2**teachers - 1 and not any(not any(row) for row in each)
        chosen = torch.tensor(sorted(each))
        total = log_probability(odds.expand(len(chosen), -1), chosen).exp().sum()
        torch.testing.assert_close(total, torch.ones_like(total))


def expected_slope(reward: Any) -> Tensor:
    """The expectation of REINFORCE's gradient over all choices of three teachers, for one row: (K,)."""
    odds = normal(6, 1, 3).requires_grad_()
    student, labels = normal(7, 1, CLASSES), torch.tensor([4])
    p = torch.stack([torch.softmax(normal(seed, CLASSES), 0) for seed in (2, 3, 4)])
    total = odds.new_zeros(())
    for choice in itertools.product((False, True), repeat=3):
        if any(choice):
            chosen = torch.tensor([choice])
            mixture = (chosen.double() @ p / chosen.sum()).log()
            log_prob = log_probability(odds, chosen).squeeze()
            total = total + log_prob.exp().detach() * reward(student, labels, mixture, 1.0).squeeze() * log_prob
    return torch.autograd.grad(total, odds)[0]


def test_the_present_loss_of_the_student_rewards_no_choice_and_one_a_step_ahead_does() -> None:
    """Why `student` looks ahead: the cross-entropy before the step is the same whatever was chosen."""

    def present(student: Tensor, labels: Tensor, mixture: Tensor, tau: float) -> Tensor:
        return -torch.nn.functional.cross_entropy(student, labels, reduction="none")

    assert expected_slope(present).abs().max() < 1e-12
    assert expected_slope(REWARDS["student"]).abs().max() > 1e-3


def test_the_rewards_are_what_a_step_on_the_logits_gains() -> None:
    """The step by automatic differentiation of the soft term; a mixture that has the truth is worth more."""
    student, labels = normal(7, 4, CLASSES), torch.tensor([4, 1, 0, 9])
    mixture, tau = torch.log_softmax(normal(8, 4, CLASSES - 2), 1), 2.0
    leaf = student.clone().requires_grad_()
    own = torch.log_softmax(leaf[:, :-2] / tau, 1)
    soft = (mixture.exp() * (mixture - own)).sum(1)
    (slope,) = torch.autograd.grad(tau * soft.sum(), leaf)
    log_probs = [torch.log_softmax(logits, 1)[range(4), labels] for logits in (student, student - slope)]
    torch.testing.assert_close(REWARDS["student"](student, labels, mixture, tau), log_probs[1] - log_probs[0])
    both = REWARDS["both"](student, labels, mixture, tau)
    torch.testing.assert_close(both, log_probs[1] - log_probs[0] - soft.detach())
    truth = torch.full((4, CLASSES), -20.0).double().scatter(1, labels.unsqueeze(1), 0.0)
    assert (REWARDS["student"](student, labels, truth, 1.0) > REWARDS["student"](student, labels, student, 1.0)).all()


@pytest.mark.parametrize("over", OVERS)
def test_the_loss_of_the_policy_is_reinforce_over_rows(over: str) -> None:
    """By hand: each row has the reward and the log-probability of its group, less the moving mean."""
    teachers = [Fixed(seed) for seed in (2, 3, 4)]
    several = SeveralTeachers(teachers, ReinforcedSelection(warmup=0.0, baseline=0.5), over)
    running: Any = several.opened(several.sources)  # type: ignore[arg-type]
    part = running.learning_parts["policy"]
    with torch.no_grad():
        part.module.weight.copy_(normal(9, 3, 3))
    student, means = normal(0, N, CLASSES), []
    for step in range(3):
        targets = running.targets(batch(), ROWS)
        distillation_terms(student, ROWS.labels, targets, Weights(1, 1))
        (_, watch), *_ = targets.watches
        (gradient,) = torch.autograd.grad(watch.loss(), part.module.bias)
        weights = targets.logits.weights
        p = torch.stack([torch.softmax(teacher.logits[:], 1) for teacher in teachers], 1)
        mixture = (weights.unsqueeze(2) * p).sum(1).log()
        rewards = by_hand(REWARDS["student"](student, ROWS.labels, mixture, 1.0).unsqueeze(1), over).squeeze(1)
        bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        odds = (states_by_hand(teachers, over) * part.module.weight.detach().double()).sum(2) + bias
        usual = sum(0.5 ** (step - n) * mean for n, mean in enumerate(means)) / max(1e-9, 1 - 0.5**step)
        loss = -((rewards - usual) * log_probability(odds, weights > 0)).sum()
        (expected,) = torch.autograd.grad(loss, bias)
        torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-5)
        means.append(float(rewards.mean()))
        part.stepped(lambda tensor: tensor)
    assert expected.abs().max() > 1e-4


def states_by_hand(teachers: list[Any], over: str) -> Tensor:
    """(n, K, 3) states: log-probability of the labels, entropy, agreement with the others; less their means."""
    p = [torch.softmax(teacher.logits[:], 1) for teacher in teachers]
    entropies = torch.stack([-torch.xlogy(each, each).sum(1) for each in p], 1)
    likely = [each.argmax(1) for each in p]
    agree = [sum((likely[k] == other).double() for j, other in enumerate(likely) if j != k) / 2 for k in range(3)]
    states = [negative_losses(teachers), entropies, torch.stack(agree, 1)]
    means = torch.stack([by_hand(each, over) for each in states], 2)
    return means - means.mean(1, keepdim=True)


def test_a_student_that_overflows_leaves_the_policy_whole() -> None:
    several = SeveralTeachers([Fixed(2), Fixed(3)], POLICY)
    running: Any = several.opened(several.sources)  # type: ignore[arg-type]
    targets = running.targets(batch(), ROWS)
    distillation_terms(torch.full((N, CLASSES), torch.inf), ROWS.labels, targets, Weights(1, 1))
    (_, watch), *_ = targets.watches
    watch.loss().backward()
    running.learning_parts["policy"].stepped(lambda tensor: tensor)
    assert all(torch.isfinite(p.grad).all() for p in running.learning_parts["policy"].module.parameters())
    assert torch.isfinite(running.learning_parts["policy"].state["mean"]).all()


class Made:
    """A teacher of the logits that were put there."""

    columns: frozenset[str] = frozenset({"input_ids"})
    logits: Tensor

    def targets(self, batch: Any, rows: Rows) -> Targets:
        return Targets(self.logits)


@pytest.mark.parametrize("reward", REWARDS)
def test_a_policy_learns_to_follow_the_teacher_that_knows_the_example(reward: str) -> None:
    """Two teachers, each right on one of two kinds of example, and one that is wrong on all."""
    teachers = {"even": Made(), "odd": Made(), "neither": Made()}
    several = SeveralTeachers(teachers, ReinforcedSelection(reward, warmup=0.0))
    running: Any = several.opened(teachers)
    part, generator = running.learning_parts["policy"], torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(part.module.parameters(), lr=0.05)
    followed = []
    for step in range(170):
        labels = torch.randint(0, CLASSES, (8, 4), generator=generator)
        rows = select_rows(labels, shifts=False)
        even = rows.examples % 2 == 0
        noise = 4.0 * torch.randn(3, len(even), CLASSES, generator=generator)
        truth = 4.0 * torch.nn.functional.one_hot(rows.labels, CLASSES)
        for teacher, made, knows in zip(teachers.values(), noise, (even, ~even, even & ~even), strict=True):
            teacher.logits = torch.where(knows.unsqueeze(1), truth, made)
        targets = running.targets({"input_ids": labels, "labels": labels}, rows)
        distillation_terms(torch.zeros(len(even), CLASSES), rows.labels, targets, Weights(1, 1))
        (_, watch), *_ = targets.watches
        (watch.loss() / len(even)).backward()
        optimizer.step()
        optimizer.zero_grad()
        part.stepped(lambda tensor: tensor)
        if step >= 150:
            weights = targets.logits.weights
            followed.append([torch.where(even, weights[:, 0], weights[:, 1]).mean(), weights[:, 2].mean()])
    right, neither = torch.tensor(followed).mean(0)
    assert right > 0.8 and neither < 0.1


# ---- what is refused ----


@pytest.mark.parametrize(
    ("teachers", "settings", "words"),
    [
        ([], {}, "teachers=.*are none"),
        ("weak", {}, "no list of teachers"),
        ({"a/b": "weak"}, {}, "a/b.*no name for logs and folders"),
        (["a", "b"], {"weighting": "cross_entropi"}, "unknown. Did you mean 'cross_entropy'.*Available"),
        (["a", "b"], {"weighting": [1, 2, 3]}, "are 3 numbers for 2 teachers"),
        (["a", "b"], {"weighting": [1, -2]}, "-2, which is no weight"),
        (["a", "b"], {"weighting": [1, float("nan")]}, "nan, which is no weight"),
        (["a", "b"], {"weighting": [0, 0]}, "leaves all teachers out"),
        (["a", "b"], {"weighting": 3}, "unknown"),
        (["a", "b"], {"over": "examples"}, "over='examples'.*Did you mean 'example'"),
        (["a", "b"], {"temperature": 0}, "temperature=0"),
        (["a", "b"], {"weighting": lambda figures, temperature: figures.log_probs}, "weights below 0"),
        (["a", "b"], {"weighting": lambda figures, temperature: torch.ones(3, 2)}, "sums of .2.0, 2.0, 2.0"),
        (["a", "b"], {"weighting": lambda figures, temperature: torch.ones(2, 3) / 3}, r"shape \(2, 3\)"),
        (["a", "b"], {"weighting": lambda figures, temperature: 1}, "returned a int"),
        (["a", "b"], {"weighting": lambda figures: 1}, "raised TypeError"),
        ([CorrectedTeacher("a", "refine"), "b"], {}, r"teachers\['0'\].correction='refine'.*cannot be mixed"),
    ],
    ids=itertools.count(),
)
def test_what_makes_no_mixture_is_refused(teachers: Any, settings: Any, words: str) -> None:
    with pytest.raises(TeacherError, match=words):
        SeveralTeachers(teachers, **settings)


def test_several_mistakes_are_named_together() -> None:
    with pytest.raises(SetupError, match="3 problems") as caught:
        SeveralTeachers([], weighting="equal", over="exampel", temperature=-1)
    assert [type(problem) for problem in caught.value.problems] == [TeacherError] * 3
    with pytest.raises(SetupError, match="2 problems(.|\n)*Did you mean 'student'(.|\n)*warmup=2"):
        ReinforcedSelection(reward="students", warmup=2)


def test_a_teacher_is_corrected_once() -> None:
    with pytest.raises(TeacherError, match="has a correction already"):
        CorrectedTeacher(CorrectedTeacher("a", "revise"), "gate")


# ---- memory ----


def test_no_logits_of_all_rows_exist_where_there_are_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "BYTES_ON_CPU", 4 * CLASSES * 8)
    monkeypatch.setattr(chunked, "LEAST_ROWS", 1)
    student = LinearLogits(normal(0, N, WIDTH).requires_grad_(), normal(1, CLASSES, WIDTH))
    for weighting in (*EVERY, POLICY):
        with LargestTensor(CLASSES) as largest:
            targets = mixed([Fixed(2), Fixed(3), Fixed(4)], weighting=weighting)
            distillation_terms(student, ROWS.labels, targets, Weights(1, 1))["loss"].backward()
        assert largest.most <= WIDTH < N, weighting  # the heads' weights


def test_logits_of_a_single_chunk_are_made_once() -> None:
    counts = []
    original = LinearLogits.__getitem__

    def counted(self: LinearLogits, part: slice) -> Tensor:
        counts.append(part)
        return original(self, part)

    targets = mixed([Fixed(2), Fixed(3)])
    with patch.object(LinearLogits, "__getitem__", counted):
        loss(targets)
    assert len(counts) == 1  # the student's


@pytest.mark.parametrize(
    ("weighting", "times"), [("equal", 1), ("cross_entropy", 2), (POLICY, 2)], ids=["equal", "labels", "policy"]
)
def test_in_several_chunks_logits_are_made_once_more_for_weights(
    weighting: Any, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in products of rows and the teachers' heads."""
    monkeypatch.setattr(chunked, "BYTES_ON_CPU", 4 * CLASSES * 8)
    monkeypatch.setattr(chunked, "LEAST_ROWS", 1)
    flops = FlopCounterMode(display=False)
    with flops, torch.no_grad():
        targets = mixed([Fixed(2), Fixed(3)], weighting=weighting)
        for rows in chunked.chunks(targets.logits):  # type: ignore[arg-type]
            nothing = torch.zeros(len(ROWS.labels[rows]), CLASSES)
            targets.part(rows).resolved(nothing, ROWS.labels[rows], 1.0, 0.0)
    assert flops.get_total_flops() == times * 2 * 2 * N * WIDTH * CLASSES


def test_figures_are_made_of_those_that_a_weighting_reads() -> None:
    figures = Figures([Fixed(2).targets(None, ROWS)] * 2, ROWS.labels, ROWS.examples)
    with patch.object(Figures, "_made", side_effect=AssertionError):
        WEIGHTINGS["equal"](figures, 1.0)
    torch.testing.assert_close(figures.log_probs[:, 0], negative_losses([Fixed(2)])[:, 0])
    p = torch.softmax(Fixed(2).logits[:], 1)
    torch.testing.assert_close(figures.entropies[:, 1], -torch.xlogy(p, p).sum(1))
    assert figures.likeliest[:, 0].tolist() == p.argmax(1).tolist()


def test_whatever_is_wrong_is_named_by_the_argument_that_has_it() -> None:
    with pytest.raises(SetupError) as caught:
        SeveralTeachers(["weak"], weighting="cross-entropi", temperature=0)
    assert {problem.argument for problem in caught.value.problems} == {"weighting", "temperature"}
    with pytest.raises(TeacherError, match="has a name twice"):
        SeveralTeachers({0: "weak", "0": "weaker"})  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="^correction='revize'.*Did you mean 'revise'"):
        CorrectedTeacher("weak", "revize")
    with pytest.raises(ArgumentError, match=r"^parameters\['eta'\]=2"):
        CorrectedTeacher("weak", "revise", eta=2)


def test_teachers_in_a_list_are_told_what_takes_them(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"Give SeveralTeachers\(\.\.\.\)"):
        trainer(tiny("bert"), ["weak", "weaker"], tmp_path)
