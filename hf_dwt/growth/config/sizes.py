"""Which sizes a config stores, and under which names."""

from collections.abc import Mapping

from transformers import PreTrainedConfig

from .names import LAYERS_OF_STAGES, SIZES, SIZES_OF_TYPE

Values = Mapping[str, object]
"""Attribute of a config -> value, as in its dict: numbers, strings, lists, dicts, None."""


def whole(values: Values, key: str) -> int | None:
    """The value of an attribute if it is a whole number, else None."""
    value = values.get(key)
    return value if type(value) is int else None


ROW_COUNTS = ("vocab_size", "max_position_embeddings")
"""Sizes that are numbers of rows: nothing else depends on them, and the old rows keep their meaning."""


def listed_layers(config: PreTrainedConfig) -> str:
    """The attribute that lists how many layers each stage has; empty where the depth is one number.

    Where there is such a list, what else counts layers is of another part (a decoder), or the number of stages.
    """
    stored = config.to_dict()
    found = (name for name in LAYERS_OF_STAGES if isinstance(stored.get(name), list))
    return next(found, "") if "num_hidden_layers" not in stored else ""


def attributes(config: PreTrainedConfig, role: str) -> list[str]:
    """Names under which `config` stores the size `role` (a key of `SIZES`); empty where it does not store it."""
    stored = config.to_dict()
    if role == "num_hidden_layers" and listed_layers(config):
        return []
    of_type = SIZES_OF_TYPE.get(config.model_type, {}).get(role, ())
    names = dict.fromkeys((config.attribute_map.get(role, role), *of_type, *SIZES[role]))
    return [name for name in names if name in stored and (stored[name] is None or type(stored[name]) is int)]


def size(config: PreTrainedConfig, role: str) -> int | None:
    """The size `role` of `config`, the encoder's where there are two; None where the architecture has none."""
    stored = config.to_dict()
    values = [stored[name] for name in attributes(config, role)]
    return values[0] if values else None


def stream_width(config: PreTrainedConfig, part: str = "") -> int:
    """Channels of the residual stream, or of that of a part."""
    text = getattr(config, part) if part else config if size(config, "hidden_size") else config.get_text_config()
    return size(text, "hidden_size") or 1


def grown_part(old: PreTrainedConfig, new: PreTrainedConfig) -> str:
    """The part of a composite config whose residual stream alone is wider in `new`, such as the tower for images."""
    if stream_width(old) != stream_width(new):
        return ""
    parts = [key for key, value in old.__dict__.items() if isinstance(value, PreTrainedConfig)]
    return next((key for key in parts if stream_width(old, key) != stream_width(new, key)), "")
