"""Text that a teacher makes: what is drawn, which of it is kept, and what a run makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from hf_dwt.batches.seeds import fixed_randomness, random_state
from hf_dwt.data import TeacherProposals
from hf_dwt.data.drawing import Drawing, continued, filled, random_spans
from hf_dwt.errors import ArgumentError, DistillationError, SetupError
from hf_dwt.forward.rows import HARD
from hf_dwt.tasks import find_task
from hf_dwt.teachers import ColumnTeacher
from hf_dwt.teachers.frozen import FrozenTeacher
from hf_dwt.training.proposing import FILE

from .models import tiny
from .test_resume import equal, state
from .training import pad, trainer

TOKENIZER = AutoTokenizer.from_pretrained(str(Path(__file__).parents[1] / "examples" / "data" / "weak_teacher"))
WORDS = len(TOKENIZER)
ENDS = (TOKENIZER.cls_token_id, TOKENIZER.sep_token_id)
KINDS = {"masked": "bert", "causal": "llama"}


def model(kind: str, seed: int = 0, **sizes: Any) -> Any:
    """One whose distributions are far from even."""
    found = tiny(KINDS[kind], seed=seed, vocab_size=WORDS, **sizes)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    return found


def plain(kind: str) -> DataCollatorForLanguageModeling:
    return DataCollatorForLanguageModeling(TOKENIZER, mlm=kind == "masked", mlm_probability=0.3)


def texts(count: int = 12) -> list[dict[str, Any]]:
    """From 8 to 19 tokens between two special ones."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        words = torch.randint(5, WORDS, (8 + number,), generator=generator).tolist()
        found.append({"input_ids": [ENDS[0], *words, ENDS[1]]})
    return found


def proposing(kind: str, collator: Any = None, **settings: Any) -> TeacherProposals:
    own = {"choose": "random", "tokenizer": TOKENIZER, **settings}
    return TeacherProposals(plain(kind) if collator is None else collator, model(kind, seed=1), **own)


def shown(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A collator that masks nothing, so that the words can be seen."""
    return pad([{**example, "labels": example["input_ids"]} for example in examples])


# ---- what is drawn ----


@pytest.mark.parametrize("kind", KINDS)
def test_share_zero_is_the_plain_collator(kind: str) -> None:
    after = []
    for collator in (plain(kind), proposing(kind, share=0, choose="disagreement")):
        with fixed_randomness(3):
            batch = collator(texts())
            after.append((batch, random_state()))
    (one, state_of_one), (other, state_of_other) = after
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert state_of_one == state_of_other


@pytest.mark.parametrize("kind", KINDS)
def test_words_stand_in_spans_and_are_no_truth(kind: str) -> None:
    examples, collator = texts(), proposing(kind, shown, share=0.5, spans=0.3)
    with fixed_randomness(1):
        batch = collator(examples)
    before = shown(examples)
    differs, hidden = batch["input_ids"] != before["input_ids"], ~batch[HARD]
    changed = hidden.any(1)
    assert 2 < changed.sum() < len(examples) - 2
    assert not (differs & ~hidden).any() and differs.sum() > 0.8 * hidden.sum()  # a word may be drawn that stood there
    assert torch.equal(batch["attention_mask"], before["attention_mask"])
    assert not torch.isin(batch["input_ids"][hidden], torch.tensor(TOKENIZER.all_special_ids)).any()
    for number in torch.nonzero(changed).flatten().tolist():
        count = len(examples[number]["input_ids"]) - 2
        assert hidden[number].sum() == round(0.3 * count)
        if kind == "causal":
            assert hidden[number, count + 1 - round(0.3 * count) : count + 1].all()
    with fixed_randomness(1):
        again = collator(examples)
    with fixed_randomness(2):
        other = collator(examples)
    assert torch.equal(again["input_ids"], batch["input_ids"]) and not torch.equal(other[HARD], batch[HARD])


def test_examples_that_are_left_alone_have_the_masks_of_the_plain_collator() -> None:
    batches = []
    for collator in (plain("masked"), proposing("masked", share=0.5)):
        with fixed_randomness(1):
            batches.append(collator(texts()))
    one, other = batches
    alone = other[HARD].all(1)
    assert 2 < alone.sum() < len(alone) - 2
    for name in ("input_ids", "labels"):
        assert torch.equal(one[name][alone], other[name][alone])
        assert not torch.equal(one[name][~alone], other[name][~alone])
    assert torch.equal(one["labels"] != -100, other["labels"] != -100)


def test_spans_are_of_the_places_and_as_many_as_asked() -> None:
    generator, places = torch.Generator().manual_seed(0), [1, 2, 3, 5, 6, 9, 10, 11, 12, 13, 14]
    lengths = set()
    for count in (1, 4, 11) * 20:
        spans = random_spans(places, count, generator)
        found = [place for span in spans for place in span]
        assert len(found) == len(set(found)) == count and set(found) <= set(places)
        assert all(span == list(range(span[0], span[0] + len(span))) for span in spans)
        lengths |= {len(span) for span in spans}
    assert lengths == {1, 2, 3}


def chi_square(draws: Tensor, probs: Tensor) -> float:
    """The statistic less its mean, in deviations; classes with few expected draws are taken together."""
    expected, found = probs * len(draws), draws.bincount(minlength=len(probs)).double()
    often = expected >= 5
    expected = torch.cat([expected[often], expected[~often].sum()[None]]).clamp(min=1e-9)
    found = torch.cat([found[often], found[~often].sum()[None]])
    freedom = len(expected) - 1
    assert freedom > 2
    return float((((found - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_words_follow_the_teachers_distribution(kind: str) -> None:
    """Of the first word, and of the second given the first; and a wrong temperature or order would be seen."""
    teacher, tau, count = model(kind, seed=1), 0.7, 12000
    frozen = FrozenTeacher(teacher, find_task(teacher), WORDS)
    how = Drawing(tau, tuple(TOKENIZER.all_special_ids), TOKENIZER.mask_token_id, TOKENIZER.pad_token_id)
    ids = texts(1)[0]["input_ids"]
    masked = kind == "masked"
    places = [4, 5] if masked else [8, 9]
    if masked:
        short = texts(2)[1]["input_ids"]  # of another length, beside it
        text, other = (0, ids, [places]), (1, short, [[2]])
        found = filled(frozen, [text, other], count, how, torch.Generator().manual_seed(0))[0]
    else:
        other_text = (1, texts(2)[1]["input_ids"], [5, 6])
        found = continued(frozen, [(0, ids[:10], places), other_text], count, how, seed=0)[0]
    words = torch.tensor(found.words)
    assert found.places == places and words.shape == (count, 2)

    def probs(known: list[int], temperature: float) -> Tensor:
        """Of the place behind the known words."""
        text, place = list(ids), places[len(known)]
        if masked:
            for at, word in zip(places, [*known, TOKENIZER.mask_token_id, TOKENIZER.mask_token_id], strict=False):
                text[at] = word
        else:
            text = [*text[: places[0]], *known]
        with torch.no_grad():
            logits = teacher(input_ids=torch.tensor([text])).logits[0, place if masked else -1].double()
        logits[TOKENIZER.all_special_ids] = -torch.inf
        return torch.softmax(logits / temperature, -1)

    first = words[:, 0]
    assert abs(chi_square(first, probs([], tau))) < 5 < chi_square(first, probs([], 1.0))
    likely = int(first.mode().values)
    second = words[first == likely, 1]
    assert len(second) > 100
    own = probs([likely], tau)  # beside it, the word behind which the teacher's distribution is the least alike
    other = max(range(5, WORDS, 7), key=lambda word: float((probs([word], tau) - own).abs().sum()))
    assert abs(chi_square(second, own)) < 5 < chi_square(second, probs([other], tau))


# ---- which of it is kept ----


def divergence(teacher: Any, student: Any, batch: Any) -> Tensor:
    """(B,) the mean over the labelled positions of each example."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        own, other = (torch.log_softmax(each(**inputs).logits, -1) for each in (student, teacher))
    rows = F.kl_div(own, other, log_target=True, reduction="none").sum(-1)
    labels = batch["labels"]
    if find_task(teacher).shifts:
        rows, labels = rows[:, :-1], labels[:, 1:]
    kept = labels != -100
    return (rows * kept).sum(1) / kept.sum(1).clamp(min=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_candidate_on_which_the_models_differ_most_is_kept(kind: str) -> None:
    student, teacher = model(kind), model(kind, seed=1)
    collator = TeacherProposals(plain(kind), teacher, share=1.0, spans=0.4, candidates=5)
    collator.refer_to(student, epoch=0)
    candidates: list[Any] = []
    original = collator.plain

    def watched(features: list[Any]) -> Any:
        batch = original(features)
        candidates.append({name: value.clone() for name, value in batch.items()})
        return batch

    collator.plain = watched
    with fixed_randomness(0):
        kept = collator(texts())
    scores = torch.stack([divergence(teacher, student, batch) for batch in candidates])
    assert len(candidates) == 5 and (scores.max(0).values > scores.min(0).values + 1e-4).sum() > 8
    torch.testing.assert_close(divergence(teacher, student, kept), scores.max(0).values, rtol=1e-4, atol=1e-5)
    assert len(set(scores.argmax(0).tolist())) > 2
    same = [torch.equal(batch["labels"] != -100, candidates[0]["labels"] != -100) for batch in candidates]
    assert all(same)


def test_without_a_student_nothing_is_compared() -> None:
    with pytest.raises(ArgumentError, match="choose.*student"):
        proposing("masked", share=1.0, choose="disagreement")(texts())


# ---- in a run ----


def run_of(out: Path, collator: Any, kind: str = "masked", **settings: Any) -> Any:
    more = {"data_collator": collator, "processing_class": TOKENIZER, "eval_dataset": texts(5)}
    more["teacher_processing_class"] = TOKENIZER
    own = {"per_device_train_batch_size": 4, "soft_weight_schedule": "constant", "train_sampling_strategy": "random"}
    teacher = settings.pop("teacher", None) or model(kind, seed=1)
    sizes = {"hidden_dropout_prob": 0.1} if kind == "masked" else {}
    return trainer(
        model(kind, **sizes), teacher, out, train_dataset=texts(20), more=more, **{"max_steps": 8, **own, **settings}
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_the_same_text(workers: int, tmp_path: Path) -> None:
    """Epochs of five steps, broken off within the second; candidates are compared on the student at its start."""
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 6, "learning_rate": 1e-2}
    if workers:
        settings |= {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}

    def build(name: str) -> Any:
        collator = TeacherProposals(plain("masked"), model("masked", seed=1), share=0.7, candidates=3)
        return run_of(tmp_path / name, collator, **settings)

    whole = build("whole")
    whole.train()
    record = json.loads((tmp_path / "whole" / "checkpoint-6" / "run.json").read_text())
    assert record["training"]["proposals"] > 0 and "spans filled" in record["objective"]["proposals"]
    assert "2208.06825" in [entry["arxiv"] for entry in record["objective"]["references"]]
    checkpoint = tmp_path / "whole" / "checkpoint-6"
    for fault in (False, True):
        if fault:  # another student in place of that of the epoch's start
            kept = torch.load(checkpoint / FILE, weights_only=True)
            other = {name: value.flip(0) for name, value in kept["student"].items()}
            torch.save({**kept, "student": other}, checkpoint / FILE)
        resumed = build("resumed")
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert equal(state(resumed), state(whole)) != fault


def test_evaluations_and_the_first_line_read_the_plain_batches(tmp_path: Path, capsys: Any) -> None:
    figures, lines = [], []
    for collator in (plain("causal"), proposing("causal", share=1.0, spans=0.5)):
        run = run_of(tmp_path, collator, "causal", max_steps=2)
        figures.append(run.evaluate())
        run.train()
        lines.append([line for line in capsys.readouterr().out.splitlines() if "teacher's loss" in line])
        rows = [entry.get("hard_rows") for entry in run.state.log_history if "grad_norm" in entry]
    assert lines[0] == lines[1] and len(lines[0]) == 1
    assert {k: v for k, v in figures[0].items() if "loss" in k} == {k: v for k, v in figures[1].items() if "loss" in k}
    assert all(0.4 < share < 0.7 for share in rows) and run.data_collator is collator


# ---- what is refused ----


def test_bad_values_are_named_together() -> None:
    with pytest.raises(SetupError) as caught:
        proposing("masked", share=2, spans=0, temperature=-1, candidates=0.5, choose="best", labels="x", tokenizer=7)
    named = {problem.argument for problem in caught.value.problems}
    assert named == {"share", "spans", "temperature", "candidates", "choose", "labels", "tokenizer"}
    with pytest.raises(ArgumentError, match="collator"):
        TeacherProposals("no function", model("masked"), tokenizer=TOKENIZER)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="^collator='TeacherProposals': makes text of its own"):
        TeacherProposals(proposing("masked"), model("masked"), tokenizer=TOKENIZER)
    weak = str(Path(__file__).parents[1] / "examples" / "data" / "weak_teacher")
    for wrong, words in (("x", "^init_kwargs='x': .*a dict"), ({"dtyp": "x"}, "^init_kwargs='dtyp': is unknown")):
        with pytest.raises(DistillationError, match=words):
            TeacherProposals(shown, weak, tokenizer=TOKENIZER, init_kwargs=wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="candidates=1.*nothing to choose"):
        proposing("masked", choose="disagreement", candidates=1)


class Renumbered:
    """The tokenizer with two of its words exchanged."""

    all_special_ids, mask_token_id = TOKENIZER.all_special_ids, TOKENIZER.mask_token_id

    def get_vocab(self) -> dict[str, int]:
        vocab = dict(TOKENIZER.get_vocab())
        first, second = [token for token, i in vocab.items() if i in (20, 21)]
        return {**vocab, first: vocab[second], second: vocab[first]}


@pytest.mark.parametrize(
    ("collator", "teacher", "tokenizer", "words"),
    [
        (plain("masked"), model("causal"), TOKENIZER, "cannot fill the masks"),
        (plain("causal"), model("masked"), TOKENIZER, "cannot continue a text"),
        (shown, tiny("t5"), TOKENIZER, "text2text"),
        (shown, tiny("bert"), TOKENIZER, "has ids up to"),
        (shown, str(Path(__file__).parents[1] / "examples" / "data" / "weak_teacher"), Renumbered(), "another one"),
        (shown, "no/such/folder", TOKENIZER, "shows no task"),
    ],
)
def test_a_teacher_that_cannot_write_is_refused(collator: Any, teacher: Any, tokenizer: Any, words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        TeacherProposals(collator, teacher, tokenizer=tokenizer)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    class Maskless(Renumbered):
        mask_token_id = None
        get_vocab = TOKENIZER.get_vocab

    with pytest.raises(DistillationError, match="has no mask"):
        TeacherProposals(shown, model("masked"), tokenizer=Maskless())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher_cache": "cache"}, "teacher_cache"),
        ({"teacher": ColumnTeacher()}, "texts of the data set"),
        ({"soft_weight": 0.0}, "without any term"),
        ({"teacher_correction": "revise"}, "reads the label"),
        ({"kind": "causal"}, "no training for a student"),
    ],
)
def test_a_run_in_which_the_text_teaches_nothing_is_refused(settings: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match=words):
        run_of(tmp_path, proposing("masked", shown), **settings)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    saves: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    run_of(tmp_path / "plain", plain("masked"), max_steps=1, **saves).train()
    run = run_of(tmp_path / "other", proposing("masked", choose="disagreement"))
    with pytest.raises(ArgumentError, match=f"has no {FILE}"):
        run.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-1"))


def test_the_users_teacher_stays_as_it_is() -> None:
    teacher = model("causal", seed=1).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    config = teacher.generation_config.to_dict()
    collator = TeacherProposals(plain("causal"), teacher, share=1.0, choose="random")
    with fixed_randomness(0):
        collator(texts())
    assert teacher.training and teacher.generation_config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert repr(collator).startswith("TeacherProposals(DataCollatorForLanguageModeling, LlamaForCausalLM, share=1.0")
