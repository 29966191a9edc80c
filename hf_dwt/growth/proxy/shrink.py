"""A tiny config of the same kind: the proxy on which layouts are found, and the models of the coverage table.

What an architecture decides by comparing sizes must stay decided: equal sizes stay equal (an embedding as wide as the
model, heads times their width), a missing size stays missing, and every kind of layer keeps one layer.
"""

import copy
import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from transformers import PreTrainedConfig

from ..config.declared_layouts import SSM_WIDTHS, STATE_SPACE
from ..config.names import COUNTS, SIZES, STAGES, TINY, TINY_ATTRIBUTES, TINY_OF_TYPE, WITH_STAGES
from ..config.rebuild import CONFIG_ERRORS, NOT_COPIED, keep_implementations

LAYERS = 2
"""Layers of a proxy, unless there are more kinds of layers."""
MOST_LAYERS = 6
SIDE = 32
"""Pixels of an image, halved five times at most."""


def shrink(config: PreTrainedConfig) -> PreTrainedConfig:
    """A config of the class of `config` with tiny sizes and everything else as it is.

    Raises:
        ValueError: or another of `configs.CONFIG_ERRORS`, where the class refuses them.
    """
    values = _shrunk(config)
    values |= _widths_of_the_default(config, values)
    error: Exception | None = None
    # What the class derives by itself (a list per layer, a rank) need not be said, and may not be if it is checked.
    for drop in ((), _lists(values)):
        try:
            small = type(config).from_dict(copy.deepcopy({k: v for k, v in values.items() if k not in drop}))
        except CONFIG_ERRORS as caught:
            error = error or caught
            continue
        keep_implementations(small, config)
        return small
    raise error or ValueError(type(config).__name__)


def _widths_of_the_default(config: PreTrainedConfig, values: Mapping[str, Any]) -> dict[str, Any]:
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
        {name: len(one[name]) if isinstance(one.get(name), list) else type(one.get(name)) for name in names}
        for one in (values, theirs)
    ]
    return {name: theirs[name] for name in names} if shapes[0] == shapes[1] else {}


def _lists(values: Mapping[str, Any]) -> set[str]:
    return {key for key, value in values.items() if isinstance(value, list | tuple)}


def _shrunk(config: PreTrainedConfig) -> dict[str, Any]:
    stored = {key: value for key, value in config.to_dict().items() if key not in NOT_COPIED}
    for key, part in config.__dict__.items():
        if isinstance(part, PreTrainedConfig) and key in stored:
            stored[key] = _shrunk(part) | {"model_type": part.model_type}
    return shrunk_values(stored, config.attribute_map, config.model_type)


def shrunk_values(stored: Mapping[str, Any], renamed: Mapping[str, str], model_type: str) -> dict[str, Any]:
    """The attributes of a config with tiny values.

    Args:
        stored: attribute -> value, parts of a composite already shrunk.
        renamed: the class's `attribute_map`.
        model_type: for what `declarations.TINY_OF_TYPE` says of it.
    """
    stages = _stages(stored)
    own = {renamed.get(role, role): role for role in TINY}
    hidden = next(
        (stored[name] for name in (renamed.get("hidden_size", "hidden_size"), *_HIDDEN) if _int(stored, name)), None
    )
    heads = next((stored[name] for name in own if own[name] == "num_attention_heads" and _int(stored, name)), None)
    depth = next((stored[name] for name in own if own[name] == "num_hidden_layers" and _int(stored, name)), None)
    kinds = stored.get(renamed.get("layer_types", "layer_types"))
    if depth is None and isinstance(kinds, list | tuple):  # it is as deep as that list is long
        depth = len(kinds)
    if stages:  # the number of stages, which stay
        stages |= {key: stored[key] for key in own if own[key] == "num_hidden_layers" and _int(stored, key)}
        stages |= {key: stored[key] for key in SIZES["num_hidden_layers"] if _int(stored, key)}
        depth = None
    picks = _picks(stored, depth)
    values: dict[str, Any] = {}
    for key, value in stored.items():
        values[key] = _value(key, value, own.get(key), hidden, heads, depth, picks)
    for key in [k for k in values if own.get(k, k) == "head_dim" and _int(stored, k)]:
        square = hidden and heads and stored[key] * heads == hidden
        values[key] = TINY["hidden_size"] // (1 if heads == 1 else TINY["num_attention_heads"])
        values[key] = values[key] if square else TINY["head_dim"]
        if _int(stored, "qk_rope_head_dim") and stored[key] == stored["qk_rope_head_dim"]:
            values[key] = values["qk_rope_head_dim"]
    if isinstance(layers := stored.get("per_layer_config"), Mapping):
        layers = {int(i): shrunk_values(one, renamed, "") for i, one in layers.items()}
        values["per_layer_config"] = {n: layers[i] for n, i in enumerate(picks) if i in layers}
    if shared := stored.get("num_kv_shared_layers"):
        values["num_kv_shared_layers"] = sum(i >= (depth or 0) - shared for i in picks)
    values |= state_space(stored, values, hidden or 0, TINY["hidden_size"]) | _equal(stored, values)
    return {**values, **stages, **TINY_OF_TYPE.get(model_type, {})}


def _equal(stored: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of heads that are one for each other stay so."""
    one, other = "linear_num_key_heads", "linear_num_value_heads"
    return {one: values[other]} if _int(stored, one) and stored[one] == stored.get(other) else {}


def state_space(stored: Mapping[str, Any], values: Mapping[str, Any], old: int, new: int) -> dict[str, Any]:
    """Heads of a state-space layer that fill an inner width again, which is a multiple of the hidden size.

    Args:
        stored: the attributes of a config of hidden size `old`.
        values: those of the one that is made, of hidden size `new`.
    """

    def known(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if _int(stored, name) and stored[name] > 0]

    times = next((stored[name] for name in known(("mamba_expand", "expand"))), 0)
    groups = next((values[name] for name in known(STATE_SPACE["groups"])), 1)
    for heads, width in product(known(STATE_SPACE["ssm_heads"]), known(SSM_WIDTHS)):
        if times and stored[heads] * stored[width] == times * old:
            for dim in (8, 6, 10, 4, 2):
                if times * new % (dim * groups) == 0:
                    inner = {"mamba_d_ssm": times * new} if stored.get("mamba_d_ssm") == times * old else {}
                    return {heads: times * new // dim, width: dim, **inner}
    return {}


_HIDDEN = ("d_model", "n_embd", "emb_dim", "dim")


def _int(values: Mapping[str, Any], key: str) -> bool:
    return type(values.get(key)) is int


def _value(
    key: str, value: Any, role: str | None, hidden: int | None, heads: int | None, depth: int | None, picks: list[int]
) -> Any:
    if isinstance(value, list | tuple) and depth and len(value) == depth:
        value = [value[min(i, depth - 1)] for i in picks]
        return [_value(key, one, role, hidden, heads, None, picks) for one in value]
    if type(value) is not int or isinstance(value, bool):
        return value
    if role == "num_hidden_layers" and value == depth:
        return len(picks)
    if key.endswith(("_token_id", "token_index")):
        return min(value, 3)
    if role in ("num_attention_heads", "num_key_value_heads") and value:
        # One for all and one for each stay what they are; else any numbers will do, the teacher's smaller ones too.
        same = role == "num_attention_heads" or value == heads
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
    follows = value == hidden and (value > TINY["hidden_size"] or re.search("hidden|width|dim|channels", key))
    return TINY["hidden_size"] if follows else value


def _stages(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Widths and depths of a model of stages, all widths divided by one power of 2; the channels of an image stay."""
    if not any(isinstance(stored.get(key), list) for key in ("depths", *STAGES)):
        return {}
    widths = {key: value for key in STAGES if isinstance(value := stored.get(key), int | list)}
    if not widths:
        return {}
    least = min(v for value in widths.values() for v in (value if isinstance(value, list) else [value]) if v > 3)
    factor = 2 ** max(0, (least // 8).bit_length() - 1)

    def divided(value: Any) -> Any:
        return [divided(v) for v in value] if isinstance(value, list) else value if value <= 3 else value // factor

    found = {key: divided(value) for key, value in widths.items()}
    if isinstance(depths := stored.get("depths"), list):
        found["depths"] = [min(depth, LAYERS) for depth in depths]
    if isinstance(side := stored.get("image_size"), int | list):
        found["image_size"] = [SIDE, SIDE] if isinstance(side, list) else SIDE
    return found


def _picks(stored: Mapping[str, Any], depth: int | None) -> list[int]:
    """Indices of layers to keep: the first of each kind, at least `LAYERS`; lists per layer tell kinds apart."""
    if not depth:
        return list(range(LAYERS))
    lists = [v for v in stored.values() if isinstance(v, list | tuple) and len(v) == depth]
    layers = {int(i): one for i, one in (stored.get("per_layer_config") or {}).items()}
    alone = depth - (stored.get("num_kv_shared_layers") or 0)
    seen: dict[Any, int] = {}
    for i in range(depth):
        seen.setdefault((i >= alone, str(layers.get(i)), *(str(v[i]) for v in lists)), i)
    picks = sorted(seen.values())[:MOST_LAYERS]
    return sorted({*picks, *range(LAYERS)})[: max(LAYERS, len(picks))] if len(picks) < LAYERS else picks
