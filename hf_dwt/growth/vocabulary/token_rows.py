"""The rows of a new vocabulary: which of the old rows each of them is made from.

A token that is the same text in both is copied, a special one by its role. Another starts as the mean of the old
pieces of its text, as in many works since Gee et al. (2022, Fast Vocabulary Transfer, arXiv 2402.09977). What the old
tokenizer cannot spell is fresh.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ...errors import GrowthError
from ...tokenization import TokenTexts, same_roles, same_texts, token_texts
from ..report import TokenCounts

Pieces = tuple[int, ...]

ANCHORS = ("\n", "x", "a", "0", "(")
"""What a text is put behind, so that the old tokenizer spells it as in the middle of a text: the first that it neither
joins to the text nor takes for the end of a word that goes on."""


@dataclass(frozen=True)
class TokenRows:
    """Where each row of a new vocabulary comes from.

    Args:
        sources: for each row the old rows that it is the mean of; none for a fresh one.
        same: new id -> old id, of the tokens that are the same text.
        roles: likewise, of the special ones.
        counts: how many rows are what.
    """

    sources: Sequence[Pieces]
    same: Mapping[int, int]
    roles: Mapping[int, int]
    counts: TokenCounts

    @property
    def digest(self) -> str:
        """Of the sources: another tokenizer has another."""
        return hashlib.sha256(repr(self.sources).encode()).hexdigest()


def token_rows(
    new: PreTrainedTokenizerBase, old: PreTrainedTokenizerBase, rows: int | None, old_rows: int
) -> TokenRows:
    """Where the rows for `new` come from.

    Args:
        new: the new tokenizer.
        old: the teacher's.
        rows: how many there are; None for as many as `new` needs. Those without a token are padding: the old padding
            where that has a row of the same number, else fresh.
        old_rows: the teacher's.

    Raises:
        GrowthError: the tokenizers share no token, or there are fewer rows than tokens.
    """
    ours, theirs = token_texts(new), token_texts(old)
    if rows is not None and rows < ours.size:
        problem = f"The new tokenizer has {ours.size} tokens."
        raise GrowthError("vocab_size", rows, problem, f"Leave it out, or give {ours.size} or more.")
    same, roles = (_within(old_rows, found(ours, theirs)) for found in (same_texts, same_roles))
    if not same:
        problem = "It shares no token with the teacher's tokenizer, so that nothing of the embeddings could be kept."
        fix = "Check that both are the right ones (teacher_tokenizer= is the teacher's), or train from scratch."
        raise GrowthError("tokenizer", type(new).__name__, problem, fix)
    spelt = spelled([text for i, text in ours.texts.items() if i not in same], old, theirs)
    made = {i: tuple(p for p in spelt.get(text, ()) if p < old_rows) for i, text in ours.texts.items()}
    made |= dict.fromkeys({**ours.special, **ours.unmade}, ()) | {i: (one,) for i, one in {**roles, **same}.items()}
    count = ours.size if rows is None else rows
    padding = {i: (i,) if theirs.size <= i < old_rows else () for i in range(count) if i not in made}
    copied = len({**roles, **same})
    fresh = sum(not pieces for pieces in made.values())
    counts = TokenCounts(copied, len(made) - copied - fresh, fresh, len(padding))
    every = {**made, **padding}
    return TokenRows([every[i] for i in range(count)], same, roles, counts)


def _within(rows: int, found: Mapping[int, int]) -> dict[int, int]:
    """Without old tokens that the teacher has no row for: its tokenizer got them later."""
    return {one: another for one, another in found.items() if another < rows}


def spelled(texts: Sequence[bytes], tokenizer: PreTrainedTokenizerBase, found: TokenTexts) -> dict[bytes, Pieces]:
    """Text of a token of another tokenizer -> the ids by which `tokenizer` spells it, empty if it cannot.

    Special ids are left out, such as that of the unknown token; where nothing but spaces is left, it cannot. Bytes
    that are no whole characters are spelled by tokens for single bytes.

    Args:
        texts: with a leading space at the start of a word, as of `token_texts`.
        tokenizer: which spells them.
        found: its tokens.
    """
    pieces: dict[bytes, Pieces] = {}
    strings: dict[bytes, str] = {}
    for text in texts:
        try:
            strings[text] = text.decode()
        except UnicodeDecodeError:
            single = [found.ids.get(bytes([byte]), []) for byte in text]
            pieces[text] = tuple(ids[0] for ids in single) if all(single) else ()
    for anchor in ANCHORS:
        left = [text for text in strings if text not in pieces]
        before, *whole = _encoded(tokenizer, [anchor, *(anchor + strings[text] for text in left)])
        for text, ids in zip(left, whole, strict=True):
            after = ids[len(before) :]
            if ids[: len(before)] != before or not after or not found.texts.keys() >= set(after):
                continue
            if text.startswith(b" ") or not found.texts[after[0]].startswith(b" "):
                pieces[text] = tuple(after)
    left = [text for text in strings if text not in pieces]
    for text, ids in zip(left, _encoded(tokenizer, [strings[text] for text in left]), strict=True):
        known = tuple(i for i in ids if i in found.texts)
        says = any(found.texts[i].strip() for i in known)  # a mark for a space, and an unknown token, say nothing
        pieces[text] = known if says else ()
    return pieces


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return [list(ids) for ids in encoded]
