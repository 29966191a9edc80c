"""What the tokens of a tokenizer stand for, in a form in which tokenizers of all families compare.

The text of a token is bytes, with a leading space where the token starts a word: `the` of WordPiece, `Ġthe` of
byte-level BPE and `▁the` of SentencePiece are all b" the", and `##the`, `the` and `the` are b"the". Special tokens
have a role instead. This is the first step of every method that moves embeddings or predictions between vocabularies
(such as WECHSEL, Minixhofer et al., 2022, arXiv 2112.06598, and FOCUS, Dobler and de Melo, 2023, arXiv 2305.14481);
which tokens count as the same is ours.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

ROLES: dict[str, tuple[str, ...]] = {
    "mask": ("mask",),
    "eos": ("eos", "sep"),
    "sep": ("sep", "eos"),
    "bos": ("bos", "cls"),
    "cls": ("cls", "bos"),
    "unk": ("unk",),
    "pad": ("pad",),
}
"""Role of a special token -> the roles that it may have in another tokenizer, the likeliest first. A token of several
roles (`eos` that also pads) counts by the first of them."""

OF_FILES = frozenset(
    {
        "cache_dir",
        "code_revision",
        "force_download",
        "local_files_only",
        "proxies",
        "revision",
        "subfolder",
        "token",
        "trust_remote_code",
    }
)
"""Arguments of `from_pretrained` about where files are and whether their code may run: they hold for tokenizers
too."""

_BYTE_TOKENS = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}


@dataclass(frozen=True)
class TokenTexts:
    """The tokens of a tokenizer, as `token_texts` finds them.

    Args:
        texts: id -> the text of that token. Special tokens have none, nor have those that are never made from text,
        such
            as a byte token whose byte is also a token of its own.
        special: id -> what a special token is written as.
        unmade: likewise, of the others without a text.
        roles: role (a key of `ROLES`) -> id.
        size: the least number of rows with which every id has one.
    """

    texts: Mapping[int, bytes]
    special: Mapping[int, str]
    unmade: Mapping[int, str]
    roles: Mapping[str, int]
    size: int

    @cached_property
    def ids(self) -> dict[bytes, list[int]]:
        """Text -> the ids that are this text, mostly one; the lowest first."""
        found: dict[bytes, list[int]] = {}
        for token_id, text in sorted(self.texts.items()):
            found.setdefault(text, []).append(token_id)
        return found


def token_texts(tokenizer: PreTrainedTokenizerBase) -> TokenTexts:
    """The text of every token of `tokenizer`, and the roles of the special ones.

    How words are marked is read from the tokenizer's own parts: byte-level ones spell bytes in an alphabet of their
    own; SentencePiece has a mark for spaces, and may have tokens for bytes; WordPiece has a prefix for what goes on
    with a word. In a vocabulary of the last kind a token without the prefix starts a word, unless the tokenizer would
    split it off anyway, as it does with punctuation: then whether a space is in front is not known, and the text has
    none. A mark for the end of a word (`</w>`) is dropped, since such a tokenizer does not mark starts. Tokens of a
    tokenizer written in Python are what it makes of each alone.
    """
    vocabulary = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    marks = _Marks.of(tokenizer)
    special_ids = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    special = {i: str(vocabulary[i]) for i in sorted(special_ids) if i in vocabulary}
    texts: dict[int, bytes] = {}
    for token_id, token in sorted(vocabulary.items()):
        if token_id not in special:
            text = str(token).encode() if token_id in added else marks.text(token)
            texts |= {token_id: text} if text else {}
    if marks.byte_tokens:
        plain = {text for i, text in texts.items() if vocabulary[i] not in _BYTE_TOKENS}
        texts = {i: text for i, text in texts.items() if vocabulary[i] not in _BYTE_TOKENS or text not in plain}
    unmade = {i: str(token) for i, token in vocabulary.items() if i not in special and i not in texts}
    roles = {role: i for role in ROLES if (i := getattr(tokenizer, f"{role}_token_id", None)) is not None}
    return TokenTexts(texts, special, unmade, roles, max([len(tokenizer) - 1, *vocabulary]) + 1)


def same_texts(own: TokenTexts, other: TokenTexts) -> dict[int, int]:
    """Id of one tokenizer -> id of the other, for the tokens that are the same text in both, one to one."""
    shared = (text for text in own.ids if text in other.ids)
    return {one: another for text in shared for one, another in zip(own.ids[text], other.ids[text], strict=False)}


def same_roles(own: TokenTexts, other: TokenTexts) -> dict[int, int]:
    """Id of one tokenizer -> id of the other, for tokens without a text: special ones by role, and otherwise, as those
    that are never made, by what is written.

    Not one to one: `cls` and `sep` are both the token that begins and ends the texts of a GPT.
    """
    found: dict[int, int] = {}
    for ours, theirs in ((own.unmade, other.unmade), (own.special, other.special)):
        written = {token: token_id for token_id, token in theirs.items()}
        found |= {i: written[token] for i, token in ours.items() if token in written}
    partners = [(own.roles[role], other.roles[one]) for role in own.roles for one in ROLES[role] if one in other.roles]
    return {**found, **dict(reversed(partners))}  # the first of an id's partners counts


def saved_tokenizer(name: str, loading: Mapping[str, Any]) -> PreTrainedTokenizerBase | str:
    """The tokenizer saved with a model, or with the model that an adapter is of; or why there is none, a clause.

    Args:
        name: id or path of the model.
        loading: arguments of `from_pretrained`; those that are not about files are left out.
    """
    kwargs = {key: value for key, value in loading.items() if key in OF_FILES}
    try:
        # without it transformers waits at the terminal for a decision whether code may run
        found = AutoTokenizer.from_pretrained(_with_tokenizer(name), **{"trust_remote_code": False, **kwargs})
    except Exception as error:  # of a tokenizer that is code of its own, or is none
        return " ".join(str(error).split())[:200]
    # where there are no files transformers makes one of special tokens
    return "it has no files." if found.get_vocab().keys() <= set(found.all_special_tokens) else found


def _with_tokenizer(name: str) -> str:
    """The folder or id itself, or that of the model that it adapts, where an adapter was saved without a tokenizer."""
    adapter = Path(name, "adapter_config.json")
    if not adapter.is_file() or any(
        Path(name, file).is_file() for file in ("tokenizer_config.json", "tokenizer.json")
    ):
        return name
    return json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path") or name


@dataclass(frozen=True)
class _Marks:
    """How a tokenizer marks what is in front of a token and within it.

    Args:
        tokenizer: whose they are.
        byte_level: whether tokens are bytes in the alphabet of byte-level BPE.
        space: what stands for a space, None if nothing does.
        prefix: of a token that goes on with a word; None where tokens that start one have no mark.
        suffix: of a token that ends one.
        byte_tokens: whether tokens such as `<0x0A>` stand for bytes.
    """

    tokenizer: Any
    byte_level: bool = False
    space: str | None = None
    prefix: str | None = None
    suffix: str = ""
    byte_tokens: bool = False

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "_Marks":
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            pieces = hasattr(tokenizer, "sp_model")
            return cls(tokenizer, space="▁" if pieces else None, byte_tokens=pieces)
        stored = json.loads(backend.to_str())
        parts = [part for key in ("normalizer", "pre_tokenizer", "decoder") for part in _parts(stored[key])]
        model, spaces = stored["model"], [mark for part in parts if (mark := _space(part))]
        kind = model.get("type")
        whole = kind in ("WordLevel", "WordPiece")
        return cls(
            tokenizer,
            byte_level=any(part["type"] == "ByteLevel" for part in parts),
            space=next(iter(spaces), None),
            prefix=model.get("continuing_subword_prefix") or ("" if whole else None),
            suffix=model.get("end_of_word_suffix") or "",
            byte_tokens=bool(model.get("byte_fallback")),
        )

    def text(self, token: str) -> bytes:
        """The text of a token that is not special; empty if it is never made from text."""
        if self.byte_tokens and token in _BYTE_TOKENS:
            return _BYTE_TOKENS[token]
        if self.suffix:
            token = token.removesuffix(self.suffix)
        if self.byte_level:
            return b"".join(_byte(character) for character in token)
        if self.space is not None:
            return token.replace(self.space, " ").encode()
        if self.prefix is None:
            own = hasattr(self.tokenizer, "backend_tokenizer")
            return (token if own else str(self.tokenizer.convert_tokens_to_string([token]))).encode()
        goes_on = bool(self.prefix) and token.startswith(self.prefix) and token != self.prefix
        text = token.removeprefix(self.prefix) if goes_on else token
        if not self._split_off(text):
            return text.encode() if goes_on else f" {text}".encode()
        return b"" if goes_on else text.encode()

    def _split_off(self, text: str) -> bool:
        """Whether the tokenizer separates this text from a letter before it."""
        backend, joined = self.tokenizer.backend_tokenizer, f"a{text}"
        if backend.normalizer is not None:
            joined = backend.normalizer.normalize_str(joined)
        return backend.pre_tokenizer is not None and len(backend.pre_tokenizer.pre_tokenize_str(joined)) > 1


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer, and those that a sequence is made of."""
    if isinstance(part, dict):
        yield part
        for key in ("normalizers", "pretokenizers", "decoders"):
            for inner in part.get(key) or ():
                yield from _parts(inner)


def _space(part: dict[str, Any]) -> str | None:
    """What stands for a space, where that is what a part of a tokenizer decides."""
    if part["type"] == "Metaspace":
        return str(part["replacement"])
    if part["type"] == "Replace":
        old, new = part["pattern"].get("String"), part["content"]
        return str(new) if old == " " and new.strip() else str(old) if new == " " and old and old.strip() else None
    return None


def _alphabet() -> dict[str, bytes]:
    """Character -> byte of byte-level BPE: bytes that can be printed are themselves, the others follow from 256 on."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): bytes([byte]) for byte in printed} | {chr(256 + n): bytes([b]) for n, b in enumerate(others)}


_ALPHABET = _alphabet()


def _byte(character: str) -> bytes:
    return _ALPHABET.get(character, character.encode())
