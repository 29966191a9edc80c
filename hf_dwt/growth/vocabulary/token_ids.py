"""The ids of tokens that a config names become those of another tokenizer."""

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from ...errors import GrowthError
from ...tokenization import ROLES
from .token_rows import TokenRows

_NAMED = re.compile(r"(\w+)_token_(?:id|ids|index)|(pad|eos|bos|unk|mask)_index")
_LISTED = ("suppress_tokens", "begin_suppress_tokens")
_OF_TEXT = ("bad_words_ids", "force_words_ids", "forced_decoder_ids", "sequence_bias")
"""Of a generation config: texts as ids of the old tokenizer."""


class TokenIds:
    """What becomes of an id that a config names.

    Args:
        tokenizer: the new one.
        rows: of the new vocabulary.
        given: attributes that the caller sets.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: TokenRows, given: Collection[str]) -> None:
        self.roles = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ROLES}
        # Where several new tokens are one old token (cls and sep of a GPT), an id of it means the first.
        pairs = {**rows.same, **dict(sorted(rows.roles.items(), reverse=True))}
        self.new = {old: new for new, old in pairs.items()}
        self.given = given

    def changed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Name -> new value, of what differs among attributes of a config.

        Raises:
            GrowthError: the tokenizer has nothing for the token that a decoder starts with.
        """
        found = {}
        for name, value in values.items():
            if (match := _NAMED.fullmatch(name)) or name in _LISTED:
                new = self._of(match[1] or match[2] if match else "", value)
                if new is None and value is not None and name.startswith("decoder_start") and name not in self.given:
                    problem = (
                        f"The new tokenizer has no token for {name}={value}, which the teacher's decoder starts with."
                    )
                    fix = f"Add one, or say which it is: config_overrides={{{name!r}: ...}}."
                    raise GrowthError("tokenizer", name, problem, fix)
                found[name] = new
            elif name in _OF_TEXT:
                found[name] = None
        return {name: new for name, new in found.items() if new != values[name]}

    def _of(self, role: str, value: Any) -> Any:
        """The new value of an id, or of a list of them, of a role that may be one of `ROLES`."""
        named = next((one for partner in ROLES.get(role, ()) if (one := self.roles[partner]) is not None), None)
        if isinstance(value, list | tuple):
            kept = list(dict.fromkeys(self.new[one] for one in value if one in self.new))
            return kept or (None if named is None else [named])
        if value is None:
            return self.roles.get(role)
        return self.new.get(value) if named is None else named

    def of_config(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The overrides of a config and its parts."""
        parts = {key: part for key, part in config.__dict__.items() if isinstance(part, PreTrainedConfig)}
        inner = {key: found for key, part in parts.items() if (found := self.of_config(part))}
        plain = {key: value for key, value in config.to_dict().items() if key not in parts}
        return {**self.changed(plain), **inner}

    def of_generation(self, config: GenerationConfig | None) -> GenerationConfig | None:
        """A generation config with the ids of the new tokenizer."""
        if config is None:
            return None
        new = copy.deepcopy(config)
        for name, value in self.changed(config.__dict__).items():
            setattr(new, name, value)
        return new
