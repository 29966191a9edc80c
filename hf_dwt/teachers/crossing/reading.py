"""A text in the tokens of two tokenizers: how a teacher reads what the student's tokens stand for.

A place in a text is a number of bytes, to which each special token adds one. A space in front of a token belongs to
it, so that a token is known by where it ends.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ...tokenization import TokenTexts, same_roles, same_texts, token_texts

Chunk = tuple[range, range]
"""Tokens of the student's tokenizer and of the teacher's that are the same part of the text, as few as possible."""


@dataclass
class Reading:
    """One text in the teacher's tokens.

    ids: the teacher's tokens.
    types: of each, the type of the student's token at whose place it begins.
    ends: the places where the teacher's tokens end; of a part whose tokens have no places of their own, the place
        where that part ends.
    own_ends: the places where the student's tokens end.
    before, behind: how many of the teacher's tokens are put around the text.
    """

    before: int = 0
    behind: int = 0
    ids: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    own_ends: list[int] = field(default_factory=list)

    def chunks(self) -> Iterator[Chunk]:
        """The text, cut wherever a token of both ends."""
        own_start, start, at = 0, self.before, self.before
        stop = len(self.ids) - self.behind
        for own, place in enumerate(self.own_ends):
            while at < stop and self.ends[at] < place:
                at += 1
            if at == stop:
                break
            if self.ends[at] == place:
                while at + 1 < stop and self.ends[at + 1] == place:
                    at += 1
                yield range(own_start, own + 1), range(start, at + 1)
                own_start, start, at = own + 1, at + 1, at + 1
        if own_start < len(self.own_ends) and start < stop:
            yield range(own_start, len(self.own_ends)), range(start, stop)


class Around(NamedTuple):
    """The special tokens that a tokenizer puts around a text."""

    before: list[int]
    behind: list[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "Around":
        text = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a")["input_ids"]
        starts = (i for i in range(len(whole)) if whole[i : i + len(text)] == text)
        start = next(starts, 0)
        return cls(whole[:start], whole[start + len(text) :])


class Reader:
    """Reads the student's tokens as text, in the teacher's tokens.

    Args:
        own: the student's tokenizer.
        other: the teacher's, one with a backend of the `tokenizers` library. A copy is used.

    Attributes:
        shared: token of the student's -> the teacher's token that is the same text or has the same role, one to one.
    """

    def __init__(self, own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> None:
        self.own, self.other = token_texts(own), token_texts(other)
        self._special = same_roles(self.own, self.other)
        self.shared = shared_tokens(self.own, self.other, self._special)
        self._encoder = _encoder(other)
        begins = self.other.texts.get(self._encoder.encode("a", add_special_tokens=False).ids[0], b"")
        own_begins = self.own.texts.get(own("a", add_special_tokens=False)["input_ids"][0], b"")
        self._marks_start, self._shows_cuts = begins.startswith(b" "), own_begins.startswith(b" ")
        theirs, ours = Around.of(other), Around.of(own)
        self._around = Around([] if ours.before else theirs.before, [] if ours.behind else theirs.behind)

    def read(self, ids: Sequence[int], types: Sequence[int] | None = None) -> Reading:
        """The text of the student's tokens, special ones by their roles; those without a counterpart are left out.

        Where the student's tokenizer puts nothing around a text, what the teacher's does is put there.
        """
        reading, place = Reading(len(self._around.before), len(self._around.behind)), 0
        types = [0] * len(ids) if types is None else types
        self._add(reading, self._around.before, [0] * reading.before, 0)
        at = 0
        while at < len(ids):
            stop = at
            while stop < len(ids) and ids[stop] in self.own.texts:
                stop += 1
            place = self._read_text(reading, ids[at:stop], types[at:stop], place)
            if stop < len(ids):
                place += 1
                reading.own_ends.append(place)
                if ids[stop] in self._special:
                    self._add(reading, [self._special[ids[stop]]], [place], types[stop])
            at = stop + 1
        self._add(reading, self._around.behind, [place] * reading.behind, types[-1] if ids else 0)
        return reading

    @staticmethod
    def _add(reading: Reading, ids: Sequence[int], ends: Sequence[int], kind: int) -> None:
        reading.ids += ids
        reading.ends += ends
        reading.types += [kind] * len(ids)

    def _read_text(self, reading: Reading, ids: Sequence[int], types: Sequence[int], place: int) -> int:
        """Add a part of the text without special tokens; the place where it ends."""
        texts = [self.own.texts[i] for i in ids]
        ends = list(accumulate(map(len, texts), initial=place))
        reading.own_ends += ends[1:]
        cut = self._cut_word(ids, texts)
        for token, end, kind in zip(ids[:cut], ends[1:], types, strict=False):
            self._add(reading, [self.shared[token]], [end], kind)
        if cut < len(ids):
            theirs, their_ends = self._encode(b"".join(texts[cut:]))
            self._add(reading, theirs, [ends[cut] + end for end in their_ends], types[cut])
        return ends[-1]

    def _cut_word(self, ids: Sequence[int], texts: Sequence[bytes]) -> int:
        """How many tokens go on with a word whose start is not there, and are tokens of the teacher's too.

        Read as text they would start a word for a teacher that marks starts. A student's tokenizer that marks none
        does not show whether the start is there.
        """
        if not (self._marks_start and self._shows_cuts):
            return 0
        stop = next((n for n, text in enumerate(texts) if text.startswith(b" ")), len(texts))
        return stop if all(i in self.shared for i in ids[:stop]) else 0

    def _encode(self, data: bytes) -> tuple[list[int], list[int]]:
        """The teacher's tokens of a text, and where in its bytes they end."""
        text, sizes = _characters(data)
        skipped = int(self._marks_start and text.startswith(" "))
        encoding = self._encoder.encode(text[skipped:], add_special_tokens=False)
        ids: list[int] = encoding.ids
        texts = [self.other.texts.get(i, b"") for i in ids]
        if b"".join(texts) == data:
            return ids, list(accumulate(map(len, texts)))
        places = [0, *accumulate(sizes)]
        return ids, [places[end + skipped] for _, end in encoding.offsets]


def shared_tokens(own: TokenTexts, other: TokenTexts, special: Mapping[int, int]) -> dict[int, int]:
    """Token of one tokenizer -> the same of the other, one to one: by text, then by role."""
    shared, taken = {}, set[int]()
    for one, another in [*same_texts(own, other).items(), *special.items()]:
        if another not in taken:
            shared[one] = another
            taken.add(another)
    return shared


def _encoder(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy that neither cuts nor pads, and whose places of tokens have the spaces in front."""
    stored: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**stored, "post_processor": None, "truncation": None, "padding": None}))


def _characters(data: bytes) -> tuple[str, list[int]]:
    """A text that may begin or end within a character, and the bytes of each of its characters."""
    text = data.decode(errors="surrogateescape")
    broken = [0xDC80 <= ord(character) <= 0xDCFF for character in text]
    sizes = [1 if one else len(character.encode()) for character, one in zip(text, broken, strict=True)]
    return "".join("\ufffd" if one else character for character, one in zip(text, broken, strict=True)), sizes
