"""The text of a token is the same in whatever family of tokenizers it is written."""

import re

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from hf_dwt.tokenization import TokenTexts, same_roles, same_texts, token_texts
from tests.vocabularies import FAMILIES, lines, trained

TEXT = 'He said "no", twice; the naïve café (中文) isn\'t open 24/7 😀.'
HELD_OUT = [TEXT, *lines("valid.txt", 40)]


def joined(found: TokenTexts, ids: list[int]) -> str:
    return b"".join(found.texts[i] for i in ids).decode()


@pytest.mark.parametrize(("family", "before"), [("byte-level", ""), ("unigram", " "), ("bpe with byte tokens", " ")])
def test_texts_of_tokens_joined_are_the_text(family: str, before: str) -> None:
    tokenizer = trained(family)
    found = token_texts(tokenizer)
    for line in HELD_OUT:
        ids = tokenizer(line, add_special_tokens=False, verbose=False)["input_ids"]
        if tokenizer.unk_token_id not in ids:
            assert joined(found, ids) == before + line
    assert len(found.ids) == len(found.texts) == len(tokenizer) - len(found.special) - len(found.unmade)


def test_a_word_piece_has_a_space_where_the_text_has_one() -> None:
    tokenizer = trained("wordpiece")
    found, seen = token_texts(tokenizer), 0
    for line in HELD_OUT:
        encoded = tokenizer(line, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for token_id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if token_id == tokenizer.unk_token_id:
                continue
            text, covered = found.texts[token_id].decode(), line[start:end].lower()
            spaced = start == 0 or line[start - 1] == " "
            # "well-known": a word behind punctuation starts one, although no space is in front of it
            if covered.isalnum() and (spaced or line[start - 1].isalnum()):
                assert text == " " * spaced + covered.replace("ï", "i").replace("é", "e")
                seen += 1
            else:
                assert text.strip() == covered
    assert seen > 500
    assert {b"!", b",", b".", b'"'} <= found.ids.keys() and not {b" !", b" ,", b" .", b' "'} & found.ids.keys()


def test_a_continuation_that_is_never_made_has_no_text() -> None:
    """BERT's vocabulary holds `##!`, which its own splitting of punctuation never makes."""
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "##!": 1, "!": 2, "##a": 3, "a": 4, "##": 5}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found = token_texts(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))
    assert found.texts == {2: b"!", 3: b"a", 4: b" a", 5: b"##"} and found.roles == {"unk": 0}
    assert found.unmade == {1: "##!"} and same_roles(found, found) == {0: 0, 1: 1}


def test_tokens_of_bytes() -> None:
    llama, gpt = token_texts(trained("bpe with byte tokens")), token_texts(trained("byte-level"))
    assert llama.texts[3 + 0xE4] == b"\xe4" and gpt.texts[gpt.ids[b"\xe4"][0]] == b"\xe4"
    assert same_texts(llama, gpt)[3 + 0xE4] == gpt.ids[b"\xe4"][0]
    # <0x41> is never made where A is a token, and has no text then.
    tokenizer = trained("bpe with byte tokens")
    assert llama.ids[b"A"] == [tokenizer.convert_tokens_to_ids("A")] and 3 + 0x41 not in llama.texts


@pytest.mark.parametrize("own", FAMILIES)
@pytest.mark.parametrize("other", FAMILIES)
def test_same_tokens_are_the_same_text_one_to_one(own: str, other: str) -> None:
    ours, theirs = token_texts(trained(own)), token_texts(trained(other))
    same = same_texts(ours, theirs)
    assert len(same) > 250 and len(set(same.values())) == len(same)
    assert {v: k for k, v in same.items()} == same_texts(theirs, ours)
    assert not same.keys() & ours.special.keys() and not set(same.values()) & theirs.special.keys()
    words, letter = [], re.compile(r" [a-z]+")
    for one, another in same.items():
        text = ours.texts[one].decode(errors="replace")
        assert text == theirs.texts[another].decode(errors="replace")
        words += [(one, another, text)] if letter.fullmatch(text) else []
    # Both tokenizers spell a word of the same text, in a sentence, with that token.
    spelt = 0
    for one, another, word in words:
        sentence = f"it{word} it"
        both = [trained(f)(sentence, add_special_tokens=False)["input_ids"] for f in (own, other)]
        spelt += one in both[0] and another in both[1]
    assert len(words) > 80 and spelt > 0.9 * len(words)


def test_special_tokens_by_role_and_else_as_they_are_written() -> None:
    bert, gpt = trained("wordpiece"), trained("byte-level")
    t5, llama = token_texts(trained("unigram")), token_texts(trained("bpe with byte tokens"))
    b, g = token_texts(bert), token_texts(gpt)
    assert same_roles(b, g) == dict.fromkeys((bert.unk_token_id, bert.cls_token_id, bert.sep_token_id), 0)
    assert same_roles(g, b) == {0: bert.sep_token_id}  # it ends a text, and is also unk and bos
    assert same_roles(llama, t5) == {0: 2, 2: 1}  # <unk>, </s>; no <s> there
    assert same_roles(b, t5)[bert.mask_token_id] == 3 and same_roles(b, b) == {i: i for i in range(5)}
    chat = AutoTokenizer.from_pretrained("examples/data/weak_teacher")
    chat.add_special_tokens({"additional_special_tokens": ["<|user|>", "<s>"]})
    chat.add_tokens(["été", "ing"])
    found = token_texts(chat)
    assert found.special[512] == "<|user|>" and found.texts[514] == "été".encode() and found.size == 516
    assert found.texts[515] == b"ing" and found.ids[b"ing"] == [chat.convert_tokens_to_ids("##ing"), 515]
    assert same_texts(found, found)[515] == 515 and 515 not in same_texts(found, b)
    assert same_roles(found, found)[512] == 512 and 512 not in same_roles(found, b)
    assert same_roles(found, llama)[513] == 1  # by what is written


def test_a_tokenizer_in_python() -> None:
    """Its own way from tokens to text; a byte that is no character by itself has none."""
    tokenizer = ByT5Tokenizer()
    found = token_texts(tokenizer)
    assert joined(found, tokenizer("x, y", add_special_tokens=False)["input_ids"]) == "x, y"
    assert found.roles == {"eos": 1, "unk": 2, "pad": 0} and not {i for i in found.texts if i >= 3 + 128}
