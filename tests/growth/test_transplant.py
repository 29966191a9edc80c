"""A student with another tokenizer: rows of its vocabulary come from the teacher's by the texts of tokens."""

import itertools
import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_dwt import from_weak_teacher
from hf_dwt.cli import main
from hf_dwt.errors import GrowthError, GrowthNotPreservedError
from hf_dwt.growth import plan_growth
from hf_dwt.growth.disk import writing
from hf_dwt.growth.report import TokenCounts
from hf_dwt.growth.vocabulary.new_rows import NEW_ROWS
from hf_dwt.growth.vocabulary.token_rows import spelled
from hf_dwt.publish.card import model_card
from hf_dwt.publish.run_record import RunRecord
from hf_dwt.tokenization import token_texts
from tests.growth.test_exact import PRE_NORM, TWELVE, teacher_of
from tests.growth.test_on_disk import LARGER, SMALL, assert_the_same, saved
from tests.models import tiny
from tests.vocabularies import FAMILIES, trained

TEXT = [name for name, task in TWELVE.items() if not task.startswith("image")]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
LETTERS = [chr(ord("a") + n) for n in range(26)]
OLD = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "of", "##ing", "cat", "!", "is", "in"]
COMPOSED = {"dog": ["d", "##o", "##g"], "##ings": ["##ing", "##s"], "cats": ["cat", "##s"], "##xy": ["##x", "##y"]}
FRESH = ["é", "##é"]


def word_pieces(tokens: Sequence[str], gap: int = 0) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer with these tokens in this order; `gap` numbers behind the tenth have no token."""
    ids = {token: n + gap * (n > 9) for n, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    names = {name: token for token in SPECIAL if (name := f"{token.strip('[]').lower()}_token") and token in tokens}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@cache
def new_tokens(drop: int = 12) -> tuple[str, ...]:
    """Old ones in another order, some of them gone, and others."""
    order = random.Random(0)
    kept = order.sample(OLD[5:], len(OLD) - 5 - drop)
    tokens = [*kept, *COMPOSED, *FRESH, *SPECIAL]
    return shuffled(tokens, 0)


def shuffled(tokens: list[str], seed: int) -> tuple[str, ...]:
    """In another order, with the padding at 1, as in the config of RoBERTa, which counts positions from there."""
    order = random.Random(seed).sample(tokens, len(tokens))
    order.remove("[PAD]")
    return (order[0], "[PAD]", *order[1:])


def pairs(new: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """(new ids, old ids) of the ordinary tokens that are in both."""
    both = [(n, OLD.index(token)) for n, token in enumerate(new) if token in OLD and token not in SPECIAL]
    ours, theirs = zip(*both, strict=True)
    return torch.tensor(ours), torch.tensor(theirs)


def arguments(new: tuple[str, ...], **more: Any) -> dict[str, Any]:
    return {"tokenizer": word_pieces(new), "teacher_tokenizer": word_pieces(OLD), **more}


@torch.no_grad()
def scores(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the tokens `ids` behind texts of them."""
    batch = ids[torch.randint(len(ids), (3, 10), generator=torch.Generator().manual_seed(1))]
    extra = {"decoder_input_ids": batch[:, :5]} if model.config.is_encoder_decoder else {}
    return model.eval()(input_ids=batch, **extra).logits[..., ids]


def apart(student: PreTrainedModel, teacher: PreTrainedModel, new: tuple[str, ...]) -> float:
    ours, theirs = (scores(model, ids) for model, ids in zip((student, teacher), pairs(new), strict=True))
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1)).item()


assert len(OLD) == 64


@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v2", "gpt2", "gemma3_text", "mixtral", "t5"])
def test_tokens_of_the_same_text_score_as_they_did(name: str) -> None:
    """Whatever grows beside: with a smaller vocabulary, a larger one, and a padded one."""
    teacher = teacher_of(name)
    larger: dict[str, Any] = {"hidden_size": 64}
    if name != "deberta-v2":  # its layers cannot be made identities
        larger["num_hidden_layers"] = 3
    for drop, init, more in (
        (12, "clone", larger),
        (0, "pad" if name in PRE_NORM else "clone", {"hidden_size": 64, "pad_vocab_to_multiple_of": 16}),
    ):
        new = new_tokens(drop)
        student = from_weak_teacher(teacher, **arguments(new), init=init, **more)
        rows = student.get_input_embeddings().num_embeddings
        assert rows == student.config.vocab_size == (58 if drop else 80) and len(new) == (58 if drop else 70)
        assert apart(student, teacher, new) < 2e-5 and student.growth_report.preserved
        counts = student.growth_report.tokens
        assert (counts.copied, counts.composed, counts.fresh) == (len(new) - 6, 4, 2)
        assert counts.padding == rows - len(new)
        tied = [m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (student, teacher)]
        assert tied[0] is tied[1]


@pytest.mark.parametrize("name", ["bert", "bart", "gpt2", "llama", "t5", "modernbert"])
def test_rows_of_every_table_are_copied_composed_or_fresh(name: str) -> None:
    """Embeddings, tied and untied heads, biases and buffers."""
    teacher, new = tiny(name), new_tokens()
    student = from_weak_teacher(teacher, **arguments(new), new_rows="mean")
    theirs, seen = teacher.state_dict(), 0
    for key, tensor in student.state_dict().items():
        old = theirs[key]
        if len(new) not in tensor.shape:
            assert torch.equal(tensor, old)
            continue
        dim, seen = tensor.shape.index(len(new)), seen + 1
        ours, old = tensor.movedim(dim, 0), old.movedim(dim, 0)
        for row, token in zip(ours, new, strict=True):
            pieces = [token] if token in OLD else COMPOSED.get(token, OLD)
            expected = old[[OLD.index(piece) for piece in pieces]].mean(0)
            assert torch.allclose(row, expected, atol=1e-6), (key, token)
            assert token not in OLD or torch.equal(row, old[OLD.index(token)])
    assert seen >= (1 if name == "gpt2" else 2)


def test_fresh_rows_hold_what_was_asked_for() -> None:
    teacher, new = tiny("llama"), new_tokens()
    fresh = [new.index(token) for token in FRESH]
    own = from_weak_teacher(teacher, **arguments(new), init="random").lm_head.weight
    for rule in NEW_ROWS:
        rows = from_weak_teacher(teacher, **arguments(new), new_rows=rule).lm_head.weight
        drawn = {"init": own[fresh], "mean": teacher.lm_head.weight.mean(0).expand(2, -1)}.get(rule)
        assert drawn is None or torch.allclose(rows[fresh], drawn, atol=1e-6)
        assert not torch.allclose(rows[fresh], own[fresh]) or rule == "init"
    twos = from_weak_teacher(teacher, **arguments(new), new_rows=lambda own, old: torch.full_like(own, 2.0))
    assert (twos.lm_head.weight == 2).all(1).nonzero()[:, 0].tolist() == sorted(fresh)
    assert twos.growth_report.fresh == 2 * 2 * 16  # of the embedding and the head


@pytest.mark.parametrize("init", ["remap", "clone"])
def test_the_teachers_own_tokenizer_changes_nothing(init: str) -> None:
    teacher, larger = tiny("bart"), {"hidden_size": 32, "init": init}
    plain = from_weak_teacher(teacher, **larger)
    same = from_weak_teacher(teacher, **arguments(tuple(OLD)), **larger)
    assert same.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, same.state_dict()[key]) for key, tensor in plain.state_dict().items())
    counts = same.growth_report.tokens
    assert (counts.copied, counts.composed, counts.fresh, counts.padding) == (64, 0, 0, 0)
    assert (same.growth_report.copied, same.growth_report.fresh) == (
        plain.growth_report.copied,
        plain.growth_report.fresh,
    )
    # A teacher with more rows than tokens: those of the padding are kept where there is room for them.
    short = word_pieces(OLD[:60])
    again = from_weak_teacher(teacher, tokenizer=short, teacher_tokenizer=short, vocab_size=64, **larger)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in plain.state_dict().items())
    assert again.growth_report.tokens.padding == 4 and again.growth_report.fresh == plain.growth_report.fresh
    cut = from_weak_teacher(teacher, tokenizer=short, teacher_tokenizer=short, **larger)
    assert cut.config.vocab_size == 60


def test_a_permuted_vocabulary_is_the_same_model() -> None:
    teacher = teacher_of("roberta")
    new = shuffled(OLD, 3)
    student = from_weak_teacher(teacher, **arguments(new))
    counts = student.growth_report.tokens
    assert (counts.copied, counts.composed, counts.fresh) == (64, 0, 0) and student.growth_report.fresh == 0
    ours, theirs = pairs(new)
    assert torch.equal(scores(student, ours), scores(teacher, theirs)) and not torch.equal(ours, theirs)
    assert student.num_parameters() == teacher.num_parameters()


def test_ids_of_tokens_become_those_of_the_new_tokenizer() -> None:
    teacher, new = tiny("bart"), new_tokens()
    teacher.config.decoder_start_token_id, teacher.config.forced_eos_token_id = 2, 2
    at = {token: new.index(token) for token in new}
    teacher.generation_config = GenerationConfig(
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=[2, OLD.index("!"), OLD.index("the")],
        decoder_start_token_id=2,
        suppress_tokens=[*(OLD.index(token) for token in OLD if token not in new), OLD.index("the")],
        bad_words_ids=[[7]],
    )
    before = teacher.generation_config.to_dict()
    student = from_weak_teacher(teacher, **arguments(new), hidden_size=32)
    config, generation = student.config, student.generation_config
    assert (config.pad_token_id, config.decoder_start_token_id) == (at["[PAD]"], at["[SEP]"])
    assert (config.bos_token_id, config.eos_token_id) == (at["[CLS]"], at["[SEP]"])
    assert generation.eos_token_id == [at["[SEP]"], *(at[token] for token in ("!", "the") if token in at)]
    assert (generation.pad_token_id, generation.bos_token_id) == (at["[PAD]"], at["[CLS]"])
    assert generation.decoder_start_token_id == at["[SEP]"] and generation.bad_words_ids is None
    assert generation.suppress_tokens == [at["the"]]
    assert student.growth_report.sizes["pad_token_id"] == (0, at["[PAD]"])
    assert teacher.config.vocab_size == 64 and teacher.generation_config.to_dict() == before
    teacher.generation_config.eos_token_id = [OLD.index(next(token for token in OLD if token not in new))]
    gone = plan_growth(teacher, **arguments(new)).work.source.generation_config
    assert gone is not None and gone.eos_token_id == [at["[SEP]"]]
    gpt = trained("byte-level")
    causal = from_weak_teacher(tiny("llama"), tokenizer=gpt, teacher_tokenizer=word_pieces(OLD))
    assert (causal.config.bos_token_id, causal.config.eos_token_id, causal.config.pad_token_id) == (0, 0, None)
    with pytest.raises(GrowthError, match=r"no token for decoder_start_token_id=4.*config_overrides="):
        teacher.config.decoder_start_token_id = 4
        from_weak_teacher(teacher, tokenizer=gpt, teacher_tokenizer=word_pieces(OLD))
    said = {"decoder_start_token_id": 0}
    other = from_weak_teacher(teacher, tokenizer=gpt, teacher_tokenizer=word_pieces(OLD), config_overrides=said)
    assert other.config.decoder_start_token_id == 0


def test_positions_that_are_counted_from_the_padding_are_refused() -> None:
    new = list(shuffled(OLD, 3))
    new[1], new[9] = new[9], new[1]
    with pytest.raises(GrowthNotPreservedError, match=r"pad_token_id, here 9: give a tokenizer where it is 1"):
        from_weak_teacher(teacher_of("roberta"), **arguments(tuple(new)))


def test_rows_without_a_token_and_tokens_without_a_row() -> None:
    """Numbers that no token has, and tokens that the teacher's tokenizer got after the teacher was trained."""
    teacher, more = tiny("bert"), word_pieces(OLD)
    more.add_tokens(["dog"])
    new = word_pieces([*OLD, "dog", "##dog"], gap=5)
    student = from_weak_teacher(teacher, tokenizer=new, teacher_tokenizer=more, new_rows="mean")
    counts, rows = student.growth_report.tokens, student.get_input_embeddings().weight
    old = teacher.get_input_embeddings().weight
    assert len(rows) == 71 and (counts.copied, counts.fresh, counts.padding) == (64, 2, 5)
    expected = torch.cat([old[:10], old.mean(0).expand(5, -1), old[10:], old.mean(0).expand(2, -1)])
    assert torch.allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize(("new", "old"), [*itertools.permutations(FAMILIES, 2)][::2])  # each on both sides
def test_texts_are_spelled_as_in_the_middle_of_a_text(new: str, old: str) -> None:
    """The pieces are the text: what goes on with a word has no mark of a start, as it has by itself."""
    tokenizer, theirs = trained(old), token_texts(trained(old))
    texts = [text for text in token_texts(trained(new)).texts.values() if text not in theirs.ids]
    found, checked = spelled(texts, tokenizer, theirs), 0
    for text in texts:
        joined = b"".join(theirs.texts[i] for i in found[text])
        if not text.strip().isalpha():  # bytes, and punctuation, before which WordPiece knows no space
            assert joined.replace(b" ", b"") in (text.lower().replace(b" ", b""), text.replace(b" ", b""), b"")
            assert joined.strip() or not joined or not text.strip()
        elif tokenizer.unk_token_id not in tokenizer(text.decode(), add_special_tokens=False)["input_ids"]:
            assert joined == (text.lower() if old == "wordpiece" else text)
            checked += 1
    assert checked > 3


def test_half_precision() -> None:
    new = new_tokens()
    for dtype in (torch.bfloat16, torch.float16):
        teacher = tiny("llama").to(dtype)
        student = from_weak_teacher(teacher, **arguments(new), hidden_size=32, init="clone")
        rows, old = student.lm_head.weight, teacher.lm_head.weight
        assert rows.dtype is dtype and student.growth_report.preserved
        plain = from_weak_teacher(teacher, **arguments(new)).lm_head.weight
        expected = old[[OLD.index(piece) for piece in COMPOSED["dog"]]].float().mean(0).to(dtype)
        assert torch.equal(plain[new.index("dog")], expected) and torch.equal(plain[new.index("the")], old[57])


@pytest.mark.parametrize(("name", "init"), [("llama", "clone"), ("bert", "remap"), ("t5", "clone"), ("gpt2", "aki")])
def test_on_disk_it_is_the_student_in_memory(name: str, init: str, tmp_path: Path) -> None:
    teacher = saved(tiny(name), tmp_path / "teacher")
    grown = arguments(new_tokens(), init=init, **LARGER)
    plan_growth(teacher, **grown).apply(to=tmp_path / "student", max_shard_size=SMALL)
    assert_the_same(teacher, tmp_path / "student", **grown)


def test_on_disk_with_more_positions_and_a_head_of_its_own(tmp_path: Path) -> None:
    """The teacher gets other rows twice. A permuted vocabulary has the shapes of the old one."""
    teacher = saved(tiny("bert", tie_word_embeddings=True), tmp_path / "teacher")
    for n, new in enumerate((shuffled(OLD, 4), new_tokens(0))):
        overrides = {"tie_word_embeddings": False, **({"vocab_size": 80} if n else {})}
        more = {"max_position_embeddings": 50, "config_overrides": overrides}
        grown = arguments(new, init="clone", **LARGER, **more)
        plan_growth(teacher, **grown).apply(to=tmp_path / f"student{n}", max_shard_size=SMALL)
        assert_the_same(teacher, tmp_path / f"student{n}", **grown)


def test_another_tokenizer_is_another_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two ordinary tokens each has the row of the other: what is in the folder is not gone on with."""
    teacher = saved(tiny("llama"), tmp_path / "teacher")
    folder = tmp_path / "student"
    swapped = tuple({"the": "of", "of": "the"}.get(token, token) for token in OLD)
    plans = [plan_growth(teacher, **arguments(new), hidden_size=32) for new in (tuple(OLD), swapped)]
    assert str(plans[0]) == str(plans[1]) and plans[0].tokens == TokenCounts(64, 0, 0)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(writing, "carry_out", interrupted)
        plans[0].apply(to=folder, max_shard_size=SMALL)
    with pytest.raises(GrowthError, match="a part of a student of another teacher or another plan"):
        plans[1].apply(to=folder, max_shard_size=SMALL)
    plans[0].apply(to=folder, max_shard_size=SMALL)
    assert_the_same(teacher, folder, **arguments(tuple(OLD)), hidden_size=32)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_plan_the_report_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weak, new = "examples/data/weak_teacher", trained("byte-level")
    new.save_pretrained(tmp_path / "new")
    words = ["grow", weak, "--tokenizer", str(tmp_path / "new"), "--hidden-size", "128", "--init", "clone"]
    assert main([*words, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "student")]) == 0
    report = json.loads((tmp_path / "student" / "growth.json").read_text())
    tokens = TokenCounts(**report["tokens"])
    assert tokens.copied + tokens.composed + tokens.fresh == 700 == len(new)
    assert min(tokens.copied, tokens.composed, tokens.fresh) > 100
    said = f"{tokens.copied} tokens copied, {tokens.composed} composed of old pieces, {tokens.fresh} fresh"
    assert said in plan and said in capsys.readouterr().out and "512->700 with new rows x 64->128" in plan
    assert "Fast Vocabulary Transfer" in {reference["title"] for reference in report["references"]}
    saved_with = AutoTokenizer.from_pretrained(tmp_path / "student")
    assert saved_with.get_vocab() == new.get_vocab()
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "student")
    assert model(**saved_with("The world is", return_tensors="pt")).logits.shape[-1] == 700
    card = model_card(RunRecord(growth={**report, "teacher": weak}))
    assert f"a new vocabulary: {tokens.copied} tokens copied, {tokens.composed} composed" in str(card)


def test_what_cannot_be_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    """The teacher's folder holds no weights."""
    tiny("bert", architectures=["BertForMaskedLM"]).config.save_pretrained(tmp_path / "bert")
    bert, old, new = tmp_path / "bert", word_pieces(OLD), word_pieces(new_tokens())
    strangers = Tokenizer(models.WordLevel({"[UNK]": 0, "qqqq": 1, "zzzz": 2}, unk_token="[UNK]"))
    other = PreTrainedTokenizerFast(tokenizer_object=strangers, unk_token="[UNK]")
    both = {"tokenizer": new, "teacher_tokenizer": old}
    for given, words in (
        ({"tokenizer": new}, r"^teacher_tokenizer=None: The tokenizer of the teacher .*bert cannot be loaded"),
        ({**both, "tokenizer": str(tmp_path)}, r"^tokenizer='.*': No tokenizer can be loaded from there"),
        ({"teacher_tokenizer": old}, r"^teacher_tokenizer='\w+': It is read where"),
        ({**both, "tokenizer": other}, r"^tokenizer='\w+': It shares no token with the teacher's"),
        ({**both, "vocab_size": 57}, r"^vocab_size=57: The new tokenizer has 58 tokens. Leave it out, or give 58"),
    ):
        with pytest.raises(GrowthError, match=words):
            plan_growth(bert, **given)
    assert plan_growth(bert, **both, init="random").apply().config.vocab_size == 58
    with pytest.raises(GrowthError, match=r"^teacher_tokenizer=None: .* it is a model that was loaded from no folder"):
        plan_growth(tiny("bert"), tokenizer=new)
    with pytest.raises(GrowthError, match=r"^tokenizer='ViTConfig': ViTConfig stores no vocab_size: it reads no tok"):
        plan_growth(tiny("vit"), **both)


def test_the_tokenizer_beside_a_teacher_is_its_own() -> None:
    weak = "examples/data/weak_teacher"
    model = AutoModelForMaskedLM.from_pretrained(weak)
    found = [plan_growth(one, tokenizer=trained("byte-level")).tokens for one in (weak, Path(weak), model)]
    assert found[0] == found[1] == found[2] and found[0].copied > 300
