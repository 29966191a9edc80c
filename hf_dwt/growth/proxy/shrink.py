"""A tiny config of the same kind: the proxy on which layouts are found, and the models of the coverage table.

What an architecture decides by comparing sizes must stay decided: equal sizes stay equal (an embedding as wide as the
model, heads times their width), a missing size stays missing, and every kind of layer keeps one layer.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from transformers import PreTrainedConfig

from ..config.declared_layouts import SSM_WIDTHS, STATE_SPACE
from ..config.names import COUNTS, SIZES, STAGES, TINY, TINY_ATTRIBUTES, TINY_OF_TYPE, WITH_STAGES
from ..config.rebuild import CONFIG_ERRORS, NOT_COPIED, keep_implementations
from ..config.sizes import Values, whole

LAYERS = 2
"""Layers of a proxy, unless there are more kinds of layers."""
MOST_LAYERS = 6
SIDE = 32
"""Pixels of an image, halved five times at most."""


def shrink(config: PreTrainedConfig) -> PreTrainedConfig:
    """A config of the class of `config` with tiny sizes and everything else as it is.

    Raises:
        ValueError: or another of `CONFIG_ERRORS`, where the class refuses them.
    """
    values = _shrunk(config)
    values |= _widths_of_the_default(config, values)
    error: Exception | None = None
    # What the class derives by itself (a list per layer, a rank) need not be given, and may not be if it is checked.
    for drop in ((), _lists(values)):
        try:
            small = type(config).from_dict(copy.deepcopy({k: v for k, v in values.items() if k not in drop}))
        except CONFIG_ERRORS as caught:
            error = error or caught
            continue
        keep_implementations(small, config)
        return small
    raise error or ValueError(type(config).__name__)


def _widths_of_the_default(config: PreTrainedConfig, values: Values) -> Values:
    """The tiny widths and heads of the type's default where `config` has as many stages: they fit together, and the
    config's own, divided, may not."""
    names = [name for name in (*STAGES, *WITH_STAGES) if name in values]
    if not _stages(config.to_dict()):
        return {}
    try:
        theirs = _shrunk(type(config)())
    except CONFIG_ERRORS:
        return {}
    shapes = [
        {name: len(v) if isinstance(v := one.get(name), list) else type(v) for name in names}
        for one in (values, theirs)
    ]
    return {name: theirs[name] for name in names} if shapes[0] == shapes[1] else {}


def _lists(values: Values) -> set[str]:
    return {key for key, value in values.items() if isinstance(value, list | tuple)}


def _shrunk(config: PreTrainedConfig) -> dict[str, object]:
    stored = {key: value for key, value in config.to_dict().items() if key not in NOT_COPIED}
    for key, part in config.__dict__.items():
        if isinstance(part, PreTrainedConfig) and key in stored:
            stored[key] = _shrunk(part) | {"model_type": part.model_type}
    return shrunk_values(stored, config.attribute_map, config.model_type)


def shrunk_values(stored: Values, renamed: Mapping[str, str], model_type: str) -> dict[str, object]:
    """The attributes of a config with tiny values.

    Args:
        stored: attribute -> value, parts of a composite already shrunk.
        renamed: the class's `attribute_map`.
        model_type: for its values in `TINY_OF_TYPE`.
    """
    stages, old = _stages(stored), _Old(stored, renamed)
    if stages:  # the number of stages, which stay
        depths = {
            *(key for key, role in old.roles.items() if role == "num_hidden_layers"),
            *SIZES["num_hidden_layers"],
        }
        stages |= {key: stored[key] for key in depths if whole(stored, key) is not None}
        old.depth = None
    picks = _picks(stored, old.depth)
    values = {key: _value(key, value, old, picks) for key, value in stored.items()}
    values |= _head_widths(values, old)
    if isinstance(layers := stored.get("per_layer_config"), Mapping):
        one_each = {int(i): shrunk_values(one, renamed, "") for i, one in layers.items()}
        values["per_layer_config"] = {n: one_each[i] for n, i in enumerate(picks) if i in one_each}
    if shared := whole(stored, "num_kv_shared_layers"):
        values["num_kv_shared_layers"] = sum(i >= (old.depth or 0) - shared for i in picks)
    values |= state_space(stored, values, old.hidden or 0, TINY["hidden_size"]) | _equal(stored, values)
    return {**values, **stages, **TINY_OF_TYPE.get(model_type, {})}


@dataclass
class _Old:
    """Sizes of the config that is shrunk, None where it does not store them.

    Args:
        stored: its attributes.
        renamed: the class's `attribute_map`.
        roles: attribute -> the size that it holds.
    """

    stored: Values
    renamed: Mapping[str, str]
    roles: dict[str, str] = field(init=False)
    hidden: int | None = field(init=False)
    heads: int | None = field(init=False)
    depth: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.roles = {self.renamed.get(role, role): role for role in TINY}
        self.hidden = self._first((self.renamed.get("hidden_size", "hidden_size"), *_HIDDEN))
        self.heads = self._first([name for name in self.roles if self.roles[name] == "num_attention_heads"])
        self.depth = self._first([name for name in self.roles if self.roles[name] == "num_hidden_layers"])
        kinds = self.stored.get(self.renamed.get("layer_types", "layer_types"))
        if self.depth is None and isinstance(kinds, list | tuple):  # it is as deep as that list is long
            self.depth = len(kinds)

    def _first(self, names: Sequence[str]) -> int | None:
        return next((size for name in names if (size := whole(self.stored, name)) is not None), None)


def _head_widths(values: Values, old: _Old) -> dict[str, object]:
    """Widths of heads that fill the hidden size do so again; that of all, where it was rotated, is rotated again."""
    widths: dict[str, object] = {}
    rotated = whole(old.stored, "qk_rope_head_dim")
    for key in values:
        width = whole(old.stored, key)
        if old.roles.get(key, key) != "head_dim" or width is None:
            continue
        square = old.hidden and old.heads and width * old.heads == old.hidden
        filled = TINY["hidden_size"] // (1 if old.heads == 1 else TINY["num_attention_heads"])
        widths[key] = filled if square else TINY["head_dim"]
        if width == rotated:
            widths[key] = values["qk_rope_head_dim"]
    return widths


def _equal(stored: Values, values: Values) -> dict[str, object]:
    """Numbers of heads that are one for each other stay so."""
    one, other = "linear_num_key_heads", "linear_num_value_heads"
    heads = whole(stored, one)
    return {one: values[other]} if heads is not None and heads == stored.get(other) else {}


def state_space(stored: Values, values: Values, old: int, new: int) -> dict[str, int]:
    """Heads of a state-space layer that fill an inner width again, which is a multiple of the hidden size.

    Args:
        stored: the attributes of a config of hidden size `old`.
        values: those of the one that is made, of hidden size `new`.
    """

    def known(names: tuple[str, ...]) -> dict[str, int]:
        return {name: size for name in names if (size := whole(stored, name) or 0) > 0}

    times = next(iter(known(("mamba_expand", "expand")).values()), 0)
    groups = next((whole(values, name) or 1 for name in known(STATE_SPACE["groups"])), 1)
    for (heads, count), (width, size) in product(known(STATE_SPACE["ssm_heads"]).items(), known(SSM_WIDTHS).items()):
        if times and count * size == times * old:
            for dim in (8, 6, 10, 4, 2):
                if times * new % (dim * groups) == 0:
                    inner = {"mamba_d_ssm": times * new} if stored.get("mamba_d_ssm") == times * old else {}
                    return {heads: times * new // dim, width: dim, **inner}
    return {}


_HIDDEN = ("d_model", "n_embd", "emb_dim", "dim")


def _value(key: str, value: object, old: _Old, picks: list[int], in_list: bool = False) -> object:
    """The tiny value of an attribute, or of one layer's entry in it."""
    role, depth = old.roles.get(key), None if in_list else old.depth
    if isinstance(value, list | tuple) and depth and len(value) == depth:
        return [_value(key, value[min(i, depth - 1)], old, picks, in_list=True) for i in picks]
    if type(value) is not int:
        return value
    if role == "num_hidden_layers" and value == depth:
        return len(picks)
    if key.endswith(("_token_id", "token_index")):
        return min(value, 3)
    if role in ("num_attention_heads", "num_key_value_heads") and value:
        # One for all and one for each stay what they are; else any numbers will do, the teacher's smaller ones too.
        same = role == "num_attention_heads" or value == old.heads
        return 1 if value == 1 else TINY["num_attention_heads" if same else role]
    if role in TINY and value:
        return TINY[role]
    for pattern, tiny in TINY_ATTRIBUTES:
        if re.fullmatch(pattern, key):
            if isinstance(tiny, str):
                return TINY[tiny]
            counted = re.match(COUNTS, key) and not (key.endswith("groups") and value > 1)  # which divide a width
            return min(value, tiny) if value < 1 or counted else tiny
    # Below the proxy's own width, what is as large as the model is wide by chance is no width.
    follows = value == old.hidden and (value > TINY["hidden_size"] or re.search("hidden|width|dim|channels", key))
    return TINY["hidden_size"] if follows else value


def _stages(stored: Values) -> dict[str, object]:
    """Widths and depths of a model of stages, all widths divided by one power of 2; the channels of an image stay."""
    if not any(isinstance(stored.get(key), list) for key in ("depths", *STAGES)):
        return {}
    widths = {key: value for key in STAGES if isinstance(value := stored.get(key), int | list)}
    if not widths:
        return {}
    least = min(v for value in widths.values() for v in (value if isinstance(value, list) else [value]) if v > 3)
    factor = 2 ** max(0, (least // 8).bit_length() - 1)

    def divided(value: int) -> int:
        return value if value <= 3 else value // factor

    found: dict[str, object] = {
        key: [divided(v) for v in value] if isinstance(value, list) else divided(value)
        for key, value in widths.items()
    }
    if isinstance(depths := stored.get("depths"), list):
        found["depths"] = [min(depth, LAYERS) for depth in depths]
    if isinstance(side := stored.get("image_size"), int | list):
        found["image_size"] = [SIDE, SIDE] if isinstance(side, list) else SIDE
    return found


def _picks(stored: Values, depth: int | None) -> list[int]:
    """Indices of layers to keep: the first of each kind, at least `LAYERS`; lists per layer tell kinds apart."""
    if not depth:
        return list(range(LAYERS))
    lists = [v for v in stored.values() if isinstance(v, list | tuple) and len(v) == depth]
    given = stored.get("per_layer_config")
    layers = {int(i): one for i, one in given.items()} if isinstance(given, Mapping) else {}
    alone = depth - (whole(stored, "num_kv_shared_layers") or 0)
    seen: dict[tuple[object, ...], int] = {}
    for i in range(depth):
        seen.setdefault((i >= alone, str(layers.get(i)), *(str(v[i]) for v in lists)), i)
    picks = sorted(seen.values())[:MOST_LAYERS]
    return sorted({*picks, *range(LAYERS)})[: max(LAYERS, len(picks))] if len(picks) < LAYERS else picks
