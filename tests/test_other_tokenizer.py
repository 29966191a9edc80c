"""A teacher of another tokenizer: the plain soft term where it is the same one, and the texts of both otherwise."""

import copy
import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, DataCollatorForLanguageModeling
from transformers import PreTrainedTokenizerFast as Fast

from hf_dwt.errors import DistillationError, VocabularyError
from hf_dwt.forward.rows import select_rows
from hf_dwt.objective import Weights, distillation_terms
from hf_dwt.tasks import find_task
from hf_dwt.teachers import OtherTokenizer, SeveralTeachers
from hf_dwt.teachers.composed import Student
from hf_dwt.teachers.crossing.examples import examples_of
from hf_dwt.teachers.crossing.reading import Reader
from hf_dwt.teachers.frozen import FrozenTeacher
from hf_dwt.tokenization import token_texts

from .models import ENCODER, randomise, tiny
from .training import pad, trainer
from .vocabularies import FAMILIES, lines, trained

SIZE = 700


def collated(task: str, tokenizer: Any, count: int = 12) -> list[dict[str, list[int]]]:
    """Ragged blocks of held-out text, cut wherever that is; of a masked model with labels and masks."""
    ids = list(chain.from_iterable(tokenizer(lines("valid.txt", 30), verbose=False)["input_ids"]))
    blocks = [{"input_ids": ids[start : start + 30 - start % 7]} for start in range(0, 40 * count, 40)]
    if task == "causal":
        return [{**block, "labels": block["input_ids"]} for block in blocks]
    torch.manual_seed(0)
    masks = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    found = [masks([block]) for block in blocks]
    return [{name: batch[name][0].tolist() for name in ("input_ids", "labels")} for batch in found]


def permuted(tokenizer: Any, seed: int = 0) -> tuple[Fast, torch.Tensor]:
    """The same tokens under other ids, and the new id of each."""
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    old = stored["model"]["vocab"]
    order = torch.randperm(len(old), generator=torch.Generator().manual_seed(seed))
    stored["model"]["vocab"] = new = {token: int(order[number]) for token, number in old.items()}
    for added in stored["added_tokens"]:
        added["id"] = new[added["content"]]
    for end in ("sep", "cls") if (stored["post_processor"] or {}).get("type") == "BertProcessing" else ():
        stored["post_processor"][end][1] = new[stored["post_processor"][end][0]]
    names = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    return Fast(tokenizer_object=Tokenizer.from_str(json.dumps(stored)), **names), order


def renamed(model: Any, order: torch.Tensor) -> Any:
    """The same model for tokens under other ids."""
    other = copy.deepcopy(model)
    state = other.state_dict()
    for name, value in state.items():
        if value.dim() and value.shape[0] == len(order):
            state[name] = torch.empty_like(value).index_copy_(0, order, value)
    other.load_state_dict(state)
    return other


CASES = {
    "masked": ("bert", "wordpiece", {}),
    "causal": ("llama", "byte-level", {}),
    "causal, marked spaces": (
        "gpt2",
        "bpe with byte tokens",
        {"temperature": 2.0, "soft_loss_scaling": "tau_squared"},
    ),
}
TERMS = ("loss", "soft_loss", "teacher_margin", "agreement", "grad_norm")


def logged(run: Any) -> torch.Tensor:
    return torch.tensor([[entry[name] for name in TERMS] for entry in run.state.log_history if "grad_norm" in entry])


@pytest.mark.parametrize("case", CASES)
def test_the_same_tokenizer_gives_the_plain_soft_term(case: str, tmp_path: Path) -> None:
    """Also where all its tokens have other ids; in both kernels, and whatever the micro-batches."""
    name, family, settings = CASES[case]
    tokenizer = trained(family, SIZE)
    other, order = permuted(tokenizer)
    teacher = tiny(name, seed=1, vocab_size=SIZE)
    examples = collated(case[:6], tokenizer)
    small = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    ways: list[tuple[Any, dict[str, Any]]] = [
        (teacher, {}),
        (OtherTokenizer(copy.deepcopy(teacher), tokenizer), {}),
        (OtherTokenizer(renamed(teacher, order), other), {"loss_kernel": "plain"}),
        (OtherTokenizer(renamed(teacher, order), other), small),
    ]
    found = []
    for source, more in ways:
        student = tiny(name, seed=0, vocab_size=SIZE)
        common = {"soft_weight_schedule": "constant", "max_steps": 2, "per_device_train_batch_size": 6, **settings}
        keywords = {"processing_class": tokenizer, "teacher_processing_class": tokenizer if not found else None}
        run = trainer(student, source, tmp_path, train_dataset=examples, more=keywords, **{**common, **more})
        run.train()
        figures = run.evaluate(examples)
        evaluated = torch.tensor([figures[f"eval_{one}"] for one in ("soft_loss", "teacher_loss", "teacher_accuracy")])
        found.append((logged(run), evaluated))
        if source is not teacher:
            assert [e["teacher_rows"] for e in run.state.log_history if "teacher_rows" in e] == pytest.approx(
                [1.0] * 2
            )
    for terms, evaluated in found[1:]:
        torch.testing.assert_close(terms, found[0][0], rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(evaluated, found[0][1], rtol=1e-6, atol=1e-6)


def opened(teacher: Any, student: Any, own: Any, other: Any) -> Any:
    """A teacher as a run has it."""
    task = find_task(student)
    source = OtherTokenizer(teacher, other).fitted(Student(student, task, own), None, teacher)
    return source.opened({"": FrozenTeacher(teacher, task, teacher.config.vocab_size)})


def characters(texts: list[bytes]) -> list[tuple[int, int]]:
    """Where each token lies in the text, but for spaces in front of it, found from the texts of all tokens."""
    text = b"".join(texts)
    at = len(text.lstrip(b" ")) - len(text)
    places = []
    for one in texts:
        places.append((max(0, at), max(0, at + len(one))))
        at += len(one)
    return places


@pytest.mark.parametrize("own_family", FAMILIES)
@pytest.mark.parametrize("other_family", FAMILIES)
def test_tokens_are_paired_where_they_are_the_same_text(own_family: str, other_family: str) -> None:
    """Against a slow reference: all pairs of tokens that begin and end at the same places of the text."""
    own, other = trained(own_family, 1024), trained(other_family, 512)
    reader = Reader(own, other)
    count = 0
    for line in lines("valid.txt", 6):
        # lower case without signs, of which some of the tokenizers keep nothing
        text = "".join(one for one in line.lower() if one.isascii() and (one.isalpha() or one == " "))
        ids = own(" ".join(text.split()), add_special_tokens=False, verbose=False)["input_ids"][:60]
        reading = reader.read(ids)
        theirs = reading.ids[reading.before : len(reading.ids) - reading.behind]
        mine = characters([reader.own.texts[i] for i in ids])
        others = characters([reader.other.texts[i] for i in theirs])
        expected = {
            (i, j + reading.before)
            for i, at in enumerate(mine)
            for j, there in enumerate(others)
            if at == there and 0 < at[0] < at[1]  # the first may be one that a tokenizer makes of the start
        }
        found = {(a[0], b[0]) for a, b in reading.chunks() if len(a) == len(b) == 1 and mine[a[0]][0] > 0}
        assert found == expected
        count += len(found)
        letters = (b"".join(side.texts[i] for i in read) for side, read in ((reader.own, ids), (reader.other, theirs)))
        assert len({one.replace(b" ", b"") for one in letters}) == 1
    assert count > 60


@pytest.mark.parametrize(
    ("own_family", "other_family"),
    [("byte-level", "wordpiece"), ("unigram", "wordpiece"), ("byte-level", FAMILIES[3])],
)
def test_places_hold_where_the_teacher_reads_other_characters(own_family: str, other_family: str) -> None:
    """In lower case, with a space in front, or byte by byte: words are paired as each is tokenised by itself."""
    own, other = trained(own_family, 1024), trained(other_family, 512)
    words = ["The", "5\u20ac", "of", "THE", "caf\u00e9", "to", "the", "\u20ac", "and", "in"]
    if own_family == "unigram":  # which has no token for these characters, so that their text is lost
        words = [word for word in words if word.isascii()]
    reader = Reader(own, other)
    reading = reader.read(own(" ".join(words), add_special_tokens=False)["input_ids"])
    starts, at = [], [0, reading.before]
    for number, word in enumerate(words):
        spaced = f" {word}" if number and own_family == "byte-level" else word
        own_ids = own(spaced, add_special_tokens=False)["input_ids"]
        counts = len(own_ids), len(other(word, add_special_tokens=False)["input_ids"])
        starts += [tuple(at)] if counts == (1, 1) else []
        at = [one + more for one, more in zip(at, counts, strict=True)]
    pairs = {(a[0], b[0]) for a, b in reading.chunks() if len(a) == len(b) == 1}
    assert len(starts) >= 4 and set(starts) <= pairs


@pytest.mark.parametrize(("name", "own_size", "other_size"), [("bert", 1024, 512), ("llama", 512, 700)])
def test_the_soft_term_of_another_tokenizer_is_that_of_the_shared_tokens(
    name: str, own_size: int, other_size: int
) -> None:
    """Each row from its definition: the teacher is run on its own tokens of the text, one example at a time."""
    own, other = trained("wordpiece", own_size), trained("wordpiece", other_size)
    student, teacher = tiny(name, vocab_size=own_size), tiny(name, seed=1, vocab_size=other_size)
    masked = name == "bert"
    examples = collated("masked" if masked else "causal", own, count=4)
    batch = pad(examples)
    rows = select_rows(batch["labels"], shifts=not masked)
    targets = opened(teacher, student, own, other).targets(batch, rows)
    reader, vocabulary = Reader(own, other), {text: i for i, text in token_texts(other).texts.items()}
    own_texts = token_texts(own).texts
    ids = torch.tensor([i for i, text in own_texts.items() if text in vocabulary] + [0, 1, 2, 3, 4])
    same = torch.tensor([vocabulary[own_texts[int(i)]] for i in ids[:-5]] + [0, 1, 2, 3, 4])
    logits = student(**{k: v for k, v in batch.items() if k != "labels"}).logits.flatten(0, 1)[rows.positions].detach()
    divergences = targets.divergence(logits, targets.part(slice(None)).logits, rows.labels, 1.0)
    terms = distillation_terms(logits, rows.labels, targets, Weights(0.0, 1.0))
    taught, margin = 0, 0.0
    for row, position in enumerate(rows.positions.tolist()):
        number, place = divmod(position, rows.length)
        crossed = examples_of(batch, find_task(student))[number].read(reader)
        want = place if masked else place + 1
        pair = [b[0] for a, b in crossed.chunks if len(a) == len(b) == 1 and a[0] == want]
        shared = int(rows.labels[row]) in ids
        if not pair or not shared or (not masked and pair[0] == 0):
            assert not targets.known[row] and targets.row_weight[row] == 0
            continue
        taught += 1
        read = list(crossed.reading.ids)
        for a, b in crossed.chunks if masked else ():
            seen = [int(batch["input_ids"][number, i]) for i in a if batch["labels"][number, i] != -100]
            if seen:
                alone = len(a) == len(b) == 1 and own_texts.get(seen[0]) in vocabulary
                masks = [vocabulary[own_texts[seen[0]]]] if alone else [4] * len(b)
                read[b[0] : b[-1] + 1] = masks
        with torch.no_grad():
            theirs = teacher(torch.tensor([read])).logits[0, pair[0] - int(not masked)]
        expected = F.kl_div(logits[row, ids].log_softmax(0), theirs[same].softmax(0), reduction="sum")
        assert targets.known[row] and float(divergences[row]) == pytest.approx(float(expected), abs=1e-6)
        truth = theirs.log_softmax(0)[same[ids == rows.labels[row]]]
        made = targets.part(slice(row, row + 1)).logits[0, rows.labels[row]]
        assert float(made) == pytest.approx(float(truth), abs=1e-5)
        margin += float(truth) - float(logits[row].log_softmax(0)[rows.labels[row]])
    assert 0 < taught < len(rows.labels) and int(terms["teacher_rows"]) == taught
    assert float(terms["soft_loss"]) == pytest.approx(float(divergences[targets.known].sum()), rel=1e-5)
    assert float(terms["teacher_margin"]) == pytest.approx(margin, rel=1e-4)


def test_what_is_hidden_from_the_student_is_hidden_from_the_teacher() -> None:
    own, other = trained("wordpiece", 1024), trained("wordpiece", 512)
    reader = Reader(own, other)
    ids = own("the people of government")["input_ids"]
    task = find_task(tiny("bert"))
    for place in range(1, len(ids) - 1):
        labels = [token if i == place else -100 for i, token in enumerate(ids)]
        given = [own.mask_token_id if i == place else token for i, token in enumerate(ids)]
        (example,) = examples_of({"input_ids": torch.tensor([given]), "labels": torch.tensor([labels])}, task)
        crossed = example.read(reader)
        read = crossed.ids(other.mask_token_id, None)
        (part,) = [b for a, b in crossed.chunks if place in a]
        assert [i for i, token in enumerate(read) if token == other.mask_token_id] == list(part)
        assert [token for i, token in enumerate(read) if i not in part] == [
            token for i, token in enumerate(crossed.reading.ids) if i not in part
        ]


def test_rows_beyond_the_teachers_positions_have_no_soft_term() -> None:
    own, other = trained("wordpiece", 1024), trained("wordpiece", 512)
    student = tiny("gpt2", vocab_size=1024)
    batch = pad(collated("causal", own, count=3))
    rows = select_rows(batch["labels"], shifts=True)
    whole, short = (
        opened(tiny("gpt2", seed=1, vocab_size=512, n_positions=n), student, own, other).targets(batch, rows)
        for n in (64, 12)
    )
    kept = short.known.nonzero().flatten()
    assert whole.known[kept].all() and 0 < len(kept) < whole.known.sum()
    assert short.logits[:].isfinite().all()
    assert (rows.positions[kept] % rows.length).max() < 12


def test_texts_are_classified_in_the_teachers_tokens() -> None:
    own, other = trained("byte-level", 700), trained("wordpiece", 512)
    configs = (BertConfig(**{**ENCODER, "vocab_size": size}, num_labels=3) for size in (700, 512))
    student, teacher = (randomise(BertForSequenceClassification(one), 1).eval() for one in configs)
    texts = [line[:60].lower() for line in lines("valid.txt", 3)]
    examples = [{"input_ids": own(text)["input_ids"], "labels": n} for n, text in enumerate(texts)]
    batch = pad(examples)
    targets = opened(teacher, student, own, other).targets(batch, select_rows(batch["labels"], shifts=False))
    for row, text in enumerate(texts):
        with torch.no_grad():
            expected = teacher(torch.tensor([other(text)["input_ids"]])).logits[0]
        torch.testing.assert_close(targets.logits[row], expected, rtol=1e-5, atol=1e-5)


def test_tokens_are_classified_where_one_of_the_teachers_begins(tmp_path: Path) -> None:
    """Each row from its definition, by where tokenizers say that tokens begin in the text; in a step of a run."""
    own, other = trained("wordpiece", 512), trained("wordpiece", 1024)
    name = "bert-token-classification"
    student, teacher = tiny(name, vocab_size=512), tiny(name, seed=1, vocab_size=1024)
    examples, expected, rows = [], [], 0
    for text in (line[:90] for line in lines("valid.txt", 4)):
        given, theirs = (one(text, return_offsets_mapping=True) for one in (own, other))
        places, starts = ([a if a < b else None for a, b in one["offset_mapping"]] for one in (given, theirs))
        labels = [-100 if place is None or n % 3 == 2 else n % 3 for n, place in enumerate(places)]
        examples.append({"input_ids": given["input_ids"], "labels": labels})
        rows += sum(label != -100 for label in labels)
        with torch.no_grad():
            logits, wanted = (
                model(torch.tensor([one["input_ids"]])).logits[0].log_softmax(-1)
                for model, one in ((student, given), (teacher, theirs))
            )
        for n, place in enumerate(places):
            if labels[n] != -100 and place in starts:
                expected.append(F.kl_div(logits[n], wanted[starts.index(place)], log_target=True, reduction="sum"))
    assert 10 < len(expected) < rows
    run = trainer(
        student,
        OtherTokenizer(teacher, other),
        tmp_path,
        train_dataset=examples,
        more={"processing_class": own},
        max_steps=1,
        per_device_train_batch_size=4,
        soft_weight_schedule="constant",
    )
    run.train()
    first = run.state.log_history[0]
    assert first["teacher_rows"] == pytest.approx(len(expected) / rows)
    assert first["soft_loss"] == pytest.approx(float(sum(expected)) / rows, rel=1e-4)


def test_what_cannot_be_taught_is_refused_before_the_first_step(tmp_path: Path) -> None:
    own, other = trained("wordpiece", 1024), trained("wordpiece", 512)
    student, teacher = tiny("bert", vocab_size=1024), tiny("bert", seed=1, vocab_size=512)

    def problems(source: Any, tokenizer: Any = own, model: Any = student, **settings: Any) -> str:
        with pytest.raises(DistillationError) as raised:
            trainer(model, source, tmp_path, train_dataset=[], more={"processing_class": tokenizer}, **settings)
        return str(raised.value)

    assert "teacher_model=OtherTokenizer(teacher)" in str(_refused_alone(student, teacher, own, other, tmp_path))
    assert "OtherTokenizer(teacher, tokenizer)" in problems(OtherTokenizer(teacher))
    assert "processing_class=tokenizer" in problems(OtherTokenizer(teacher, other), tokenizer=None)
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded" in problems(OtherTokenizer(teacher, tmp_path / "empty"))
    other.save_pretrained(tmp_path / "saved")  # a path is taken, and so is one that the trainer is given
    assert "teacher_correction" in problems(OtherTokenizer(teacher, tmp_path / "saved"), teacher_correction="gate")
    unmasked = copy.deepcopy(other)
    unmasked.mask_token = None
    assert "has no mask" in problems(OtherTokenizer(teacher, unmasked))
    signs = Tokenizer.from_str(other.backend_tokenizer.to_str())
    stored = json.loads(signs.to_str())
    stored["model"]["vocab"] = {
        token if number < 5 else f"\u4e00{number}": number for token, number in stored["model"]["vocab"].items()
    }
    alien = Fast(tokenizer_object=Tokenizer.from_str(json.dumps(stored)), **other.special_tokens_map)
    assert "shares no token" in problems(OtherTokenizer(teacher, alien))
    both = problems(OtherTokenizer(teacher, other), teacher_correction="gate", soft_term=lambda q, p: (q - p).sum(-1))
    assert "teacher_correction" in both and "soft_term" in both
    assert "teacher_cache" in problems(OtherTokenizer(teacher, other), teacher_cache=str(tmp_path / "cache"))
    assert "Give it alone" in problems(SeveralTeachers([OtherTokenizer(teacher, other)]))
    encoder = tiny("t5", vocab_size=512)
    assert "encoder" in problems(OtherTokenizer(encoder, other), model=tiny("t5", seed=1, vocab_size=1024))


def _refused_alone(student: Any, teacher: Any, own: Any, other: Any, folder: Path) -> VocabularyError:
    with pytest.raises(VocabularyError) as raised:
        tokenizers = {"processing_class": own, "teacher_processing_class": other}
        trainer(student, teacher, folder, train_dataset=[], more=tokenizers)
    return raised.value
