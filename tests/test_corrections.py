"""Corrections of a teacher: against dense sums by hand, in every kernel and form of cache, and in whole runs."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_dwt.errors import ArgumentError
from hf_dwt.objective import Targets, Weights, chunked, distillation_terms
from hf_dwt.objective.corrections import CORRECTIONS, get_correction
from hf_dwt.objective.corrections.record import ALL, MOST_LIKELY, TRUTH, CorrectionPart
from hf_dwt.objective.logits import LinearLogits
from hf_dwt.objective.sparse import Sampled, TopK
from hf_dwt.schedules import choices
from hf_dwt.teachers.cache.formats import FORMATS

from .models import tiny
from .training import arguments, history, trainer

N, C, P, WIDTH = 60, 12, 10, 6
WEIGHTS = Weights(0.7, 1.3)
PROGRESS = 0.1


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "BYTES_ON_CPU", 1)
    monkeypatch.setattr(chunked, "LEAST_ROWS", 7)


def linear(classes: int, seed: int, scale: float = 1.0) -> LinearLogits:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: scale * torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return LinearLogits(draw(N, WIDTH), draw(classes, WIDTH), draw(classes))


STUDENT = linear(C, seed=0)
TEACHER = linear(P, seed=1)
LABELS = torch.randint(0, C, (N,), generator=torch.Generator().manual_seed(2))
KNOWN = LABELS < P


def probs(tau: float = 1.0) -> tuple[Tensor, Tensor]:
    """(N, P) of the student, over the shared classes, and of the teacher."""
    return (STUDENT[:][:, :P] / tau).softmax(-1), (TEACHER[:] / tau).softmax(-1)


def likely_and_truth() -> tuple[Tensor, Tensor, Tensor]:
    """The teacher's largest probability, that of the label, and whether the label is the most likely class."""
    _, p = probs()
    truth = torch.stack([p[row, label] if label < P else p[row, -1] for row, label in enumerate(LABELS)])
    return p.max(-1).values, truth, p.argmax(-1) == LABELS


def mixed(share: Tensor, classes: Tensor, tau: float) -> Tensor:
    """(N,) KL of the mixture with one class, by its dense distribution."""
    q, p = probs(tau)
    target = (1 - share.unsqueeze(1)) * p + share.unsqueeze(1) * F.one_hot(classes.clamp(max=P - 1), P)
    return (torch.xlogy(target, target) - target * q.log()).sum(-1)


def revised(tau: float, eta: float = 0.8) -> Tensor:
    most, truth, right = likely_and_truth()
    kept = torch.where(right, 1.0, eta / (most - truth + 1.0))
    return mixed(1.0 - kept, LABELS, tau)


def gated(tau: float) -> Tensor:
    """The odds of the label's probability under the teacher against the student: p / (p + q)."""
    _, truth, _ = likely_and_truth()
    own = STUDENT[:].softmax(-1).gather(1, LABELS.unsqueeze(1)).squeeze(1)
    q, p = probs(tau)
    return truth / (truth + own) * (p * (p / q).log()).sum(-1)


def confident(tau: float) -> Tensor:
    return mixed(torch.full((N,), 0.5 * PROGRESS / 0.2, dtype=torch.float64), STUDENT[:][:, :P].argmax(-1), tau)


def refined(tau: float, alpha: float = 1.0, beta: float = 4.0) -> Tensor:
    """Row by row and class by class."""
    q, p = probs(tau)
    rows = []
    for row, label in enumerate(LABELS.clamp(max=P - 1).tolist()):
        most, truth = p[row].max(), q[row, label]
        first = most * (most / truth).log() + (1 - most) * ((1 - most) / (1 - truth)).log()
        below = [c for c in range(P) if p[row, c] < p[row, label]]
        p_below, q_below = (d[row, below] / d[row, below].sum() for d in (p, q))
        second = (p_below * (p_below / q_below).log()).sum()
        rows.append(alpha * first + beta * second)
    return torch.stack(rows)


REFERENCES = {"revise": revised, "gate": gated, "confidence": confident, "refine": refined}


def terms(student: Any, teacher: Any, correct: Any, tau: float = 1.0, weights: Weights = WEIGHTS) -> Any:
    """Sums, and the gradients of the loss with respect to the student's hidden states, weight and bias."""
    leaves = [leaf.detach().requires_grad_() for leaf in (STUDENT.hidden, STUDENT.weight, STUDENT.bias)]
    own = LinearLogits(*leaves)
    own = own if student == "chunked" else own[:]  # type: ignore[assignment]
    found = distillation_terms(
        own, LABELS, Targets(teacher, correct=correct), weights, temperature=tau, progress=PROGRESS
    )
    return {k: v.item() for k, v in found.items()}, torch.autograd.grad(found["loss"], leaves)


def test_every_correction_has_a_reference() -> None:
    assert REFERENCES.keys() == CORRECTIONS.keys()


@pytest.mark.parametrize("kernel", ["chunked", "plain"])
@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("name", CORRECTIONS)
def test_value_and_gradient_are_the_references(name: str, tau: float, kernel: str) -> None:
    """Rows whose label the teacher does not know have no soft term."""
    global STUDENT
    found, gradients = terms(kernel, TEACHER, get_correction(name), tau)
    soft = (REFERENCES[name](tau) * KNOWN).sum().item()
    plain, _ = terms(kernel, TEACHER, None, tau)
    assert found["soft_loss"] == pytest.approx(soft, rel=1e-9) and abs(soft - plain["soft_loss"]) > 1.0
    before, leaves = STUDENT, [t.clone().requires_grad_() for t in (STUDENT.hidden, STUDENT.weight, STUDENT.bias)]
    gate = None if name != "gate" else REFERENCES[name](tau).detach() / _kl(tau).detach()  # has no gradient
    try:
        STUDENT = LinearLogits(*leaves)
        rows = REFERENCES[name](tau) if gate is None else gate * _kl(tau)
        hard = F.cross_entropy(STUDENT[:], LABELS, reduction="sum")
        wanted = torch.autograd.grad(WEIGHTS.hard * hard + WEIGHTS.soft * (rows * KNOWN).sum(), leaves)
    finally:
        STUDENT = before
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-8)
        assert other.abs().max() > 0.1


def _kl(tau: float) -> Tensor:
    q, p = probs(tau)
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_what_is_measured_of_the_teacher_is_not_corrected(name: str) -> None:
    """Agreement and margin, which "auto" follows, are those of the teacher as it is."""
    corrected, plain = (terms("chunked", TEACHER, get_correction(c))[0] for c in (name, None))
    for figure in ("agreement", "teacher_margin", "hard_loss"):
        assert corrected[figure] == pytest.approx(plain[figure], rel=1e-12)


@pytest.mark.parametrize("eta", [0.8, 0.99])
def test_revision_makes_the_truth_win_wherever_the_teacher_is_wrong_and_nowhere_else(eta: float) -> None:
    share = get_correction("revise", {"eta": eta})(STUDENT[:], TEACHER[:], LABELS, 0.0).share  # type: ignore[misc]
    _, p = probs()
    _, _, right = likely_and_truth()
    assert share is not None and 3 < (right & KNOWN).sum() < KNOWN.sum() - 3
    assert (share[right] == 0).all()
    wrong = KNOWN & ~right
    target = (1 - share.unsqueeze(1)) * p + share.unsqueeze(1) * F.one_hot(LABELS.clamp(max=P - 1), P)
    assert (target[wrong].argmax(-1) == LABELS[wrong]).all()
    late = (1 - share[wrong]) / eta * 1.01  # b of an eta of 1.01: the truth no longer wins on any of them
    beyond = late.unsqueeze(1) * p[wrong] + (1 - late).unsqueeze(1) * F.one_hot(LABELS[wrong], P)
    assert not (beyond.argmax(-1) == LABELS[wrong]).any()


def sparse(kind: str, k: int) -> TopK | Sampled:
    log_p = TEACHER[:].log_softmax(-1)
    truth = log_p.gather(1, LABELS.clamp(max=P - 1).unsqueeze(1)).squeeze(1)
    if kind == "sampled":
        drawn = torch.multinomial(log_p.exp(), k, True, generator=torch.Generator().manual_seed(0))
        return Sampled(drawn, P, truth, -(log_p.exp() * log_p).sum(-1), log_p.argmax(-1))
    values, ids = log_p.topk(k)
    return TopK(ids, P, truth, values, (1 - values.exp().sum(-1)).clamp(min=0) * (k < P))


@pytest.mark.parametrize("kernel", ["chunked", "plain"])
@pytest.mark.parametrize("name", [name for name, part in CORRECTIONS.items() if part.reads != ALL])
def test_all_classes_stored_are_the_whole_distribution(name: str, kernel: str) -> None:
    """TopK at k = P gives what the logits give, in value and gradient."""
    found, gradients = terms(kernel, sparse("top_k", P), get_correction(name))
    wanted, others = terms(kernel, TEACHER, get_correction(name))
    assert found == pytest.approx(wanted, rel=1e-9)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for (name, part), kind in product(CORRECTIONS.items(), ("top_k", "sampled"))
        if part.reads == TRUTH or (part.reads == MOST_LIKELY and kind == "top_k")
    ],
)
def test_few_stored_classes_are_corrected_alike_in_both_kernels(name: str, kind: str) -> None:
    """Against the form of few classes itself: the share b of its divergence, and 1 - b of the truth."""
    teacher = sparse(kind, 4)
    chunk, slopes = terms("chunked", teacher, get_correction(name))
    plain, others = terms("plain", teacher, get_correction(name))
    assert chunk == pytest.approx(plain, rel=1e-9)
    for slope, other in zip(slopes, others, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-8, atol=1e-8)
    if name == "revise":
        log_q = (STUDENT[:][:, :P]).log_softmax(-1)
        most, truth, right = likely_and_truth()
        kept = torch.where(right, 1.0, 0.8 / (most - truth + 1.0))
        own = log_q.gather(1, LABELS.clamp(max=P - 1).unsqueeze(1)).squeeze(1)
        kl = teacher.kl(log_q.gather(1, teacher.ids))
        both = kept * truth + 1 - kept
        entropies = torch.xlogy(both, both) - kept * torch.xlogy(truth, truth) + torch.xlogy(kept * (1 - truth), kept)
        wanted = ((kept * kl - (1 - kept) * own + entropies) * KNOWN).sum().item()
        assert chunk["soft_loss"] == pytest.approx(wanted, rel=1e-9)


def test_a_share_of_all_or_nothing_is_finite() -> None:
    for share in (0.0, 1.0):
        whole = lambda s, t, y, p, share=share: Targets(t, share=torch.full((len(y),), share))  # noqa: E731
        for kernel in ("chunked", "plain"):
            found, gradients = terms(kernel, TEACHER, whole)
            assert all(math.isfinite(value) for value in found.values())
            assert all(torch.isfinite(gradient).all() for gradient in gradients)
            truth = F.cross_entropy(STUDENT[:][:, :P][KNOWN], LABELS[KNOWN], reduction="sum").item()
            wanted = truth if share else (_kl(1.0) * KNOWN).sum().item()
            assert found["soft_loss"] == pytest.approx(wanted, rel=1e-6)


# ---- whole runs ----


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_run_is_corrected_and_its_evaluation_is_not(name: str, tmp_path: Path) -> None:
    plain = trainer(tiny("bert"), tiny("bert", seed=1), tmp_path / "plain", soft_weight_schedule="constant")
    plain.train()
    run = trainer(
        tiny("bert"),
        tiny("bert", seed=1),
        tmp_path / "run",
        soft_weight_schedule="constant",
        teacher_correction=name,
        logging_steps=1,
    )
    untouched = trainer(tiny("bert"), tiny("bert", seed=1), tmp_path / "other")
    examples = run.train_dataset
    assert run.evaluate(examples)["eval_soft_loss"] == untouched.evaluate(examples)["eval_soft_loss"]
    run.train()
    differences = [
        abs(a - b)
        for (a,), (b,) in zip(history(run, "soft_loss"), history(plain, "soft_loss"), strict=True)
        if not math.isclose(a, b)
    ]
    assert max(differences) > 1e-3


@pytest.mark.parametrize("schedule", choices())
def test_corrections_go_with_every_schedule(schedule: str, tmp_path: Path) -> None:
    run = trainer(
        tiny("bert"), tiny("bert", seed=1), tmp_path, soft_weight_schedule=schedule, teacher_correction="revise"
    )
    run.train()
    assert all(math.isfinite(loss) for (loss,) in history(run, "loss"))


@pytest.mark.parametrize("name", [name for name, part in CORRECTIONS.items() if part.reads == TRUTH])
def test_a_cached_teacher_is_corrected_as_a_live_one(name: str, tmp_path: Path) -> None:
    def losses(**more: Any) -> list[tuple[float, ...]]:
        run = trainer(
            tiny("bert"),
            tiny("bert", seed=1),
            tmp_path / "run",
            soft_weight_schedule="constant",
            teacher_correction=name,
            **more,
        )
        run.train()
        return history(run, "loss", "soft_loss")

    live = torch.tensor(losses())
    cached = torch.tensor(losses(teacher_cache=str(tmp_path / "cache")))
    torch.testing.assert_close(cached, live, rtol=2e-4, atol=2e-5)  # hidden states in fp16


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("form", "name"), [pair for pair in product(FORMATS, CORRECTIONS) if FORMATS[pair[0]].vocabulary]
)
def test_a_correction_gets_what_it_reads_or_is_refused(form: str, name: str, tmp_path: Path) -> None:
    """Over all formats of a vocabulary's cache and all corrections, at both temperatures."""
    for tau in (1.0, 2.0):
        given = {"teacher_cache": str(tmp_path), "teacher_cache_form": form, "teacher_correction": name}
        reads, kept = CORRECTIONS[name].reads, FORMATS[form]
        fits = kept.every_divergence or reads == TRUTH or (reads == MOST_LIKELY and kept.most_likely and tau == 1.0)
        if fits:
            arguments(tmp_path, temperature=tau, **given)
        else:
            with pytest.raises(ArgumentError, match=f"teacher_cache_form='{form}'.*{name}.*Use 'hidden'"):
                arguments(tmp_path, temperature=tau, **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"teacher_correction": "revize"}, "Did you mean 'revise'"),
        ({"teacher_correction": "revise", "teacher_correction_kwargs": {"eta": 1.5}}, r"\['eta'\].*out of range"),
        ({"teacher_correction": "revise", "teacher_correction_kwargs": {"etta": 1}}, "takes: eta"),
        ({"teacher_correction": "revise", "teacher_correction_kwargs": "{eta"}, "is not JSON"),
        ({"teacher_correction_kwargs": {"eta": 0.5}}, "no correction"),
        ({"teacher_correction": "refine", "soft_term": lambda q, p: (q - p).sum(-1)}, "soft_term.*has no effect"),
        ({"teacher_correction": lambda s, t, y, p: t}, "returned a Tensor"),
        ({"teacher_correction": lambda s, t, y, p: Targets(t[:1])}, "returned a Targets"),
        ({"teacher_correction": lambda t, y: Targets(t)}, "teacher_correction"),
    ],
)
def test_bad_input_is_named(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=words):
        arguments(tmp_path, **given)


def test_a_function_of_the_users_is_taken(tmp_path: Path) -> None:
    def halved(student: Tensor, teacher: Any, labels: Tensor, progress: float) -> Targets:
        return Targets(teacher, row_weight=torch.full((len(labels),), 0.5))

    half, whole = (
        trainer(
            tiny("bert"),
            tiny("bert", seed=1),
            tmp_path,
            max_steps=1,
            soft_weight_schedule="constant",
            teacher_correction=correction,
        )
        for correction in (halved, None)
    )
    half.train()
    whole.train()
    assert history(half, "soft_loss")[0][0] == pytest.approx(history(whole, "soft_loss")[0][0] / 2, rel=1e-6)
    assert half.args.to_dict()["teacher_correction"].endswith("halved")


@pytest.mark.parametrize("part", CORRECTIONS.values(), ids=lambda part: part.name)
def test_every_parameter_has_bounds(part: CorrectionPart) -> None:
    assert part.bounds.keys() == part.parameters.keys() and part.parameters
