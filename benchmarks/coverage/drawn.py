"""Sizes that the covered types are measured at beside the tiny ones: drawn, and the default config's in small.

A config is moved in groups of attributes that belong together (the width, heads, key/value heads and what is as wide).
All groups are tried at once; where the class refuses them, or its model does not run, halves of them are, so that as
many move as can. What is drawn depends on the names of the type and of the setting alone.
"""

import copy
import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_dwt.errors import GrowthError
from hf_dwt.growth.config.names import COUNTS, SIZES, TINY, TINY_ATTRIBUTES
from hf_dwt.growth.config.rebuild import CONFIG_ERRORS, keep_implementations
from hf_dwt.growth.proxy.activations import main_output
from hf_dwt.growth.proxy.batches import random_batch
from hf_dwt.growth.proxy.model import proxy
from hf_dwt.growth.proxy.shrink import state_space

FIRST = "first"
DEFAULT = "default"
SETTINGS = (FIRST, "a", "b", DEFAULT)
"""The tiny sizes of `shrink`; two draws; the proportions of the type's default config."""

DRAWS = 4
"""How often the width of a part and its heads are drawn anew where the class refuses them."""

SEEDS = (9001, 9002, 0, 1)
"""Batches that a model of drawn sizes has to accept: those that it is compared on."""

NARROWEST, WIDEST = 18, 96
MOST_HEADS = 40

Group = dict[tuple[str, ...], Any]
"""Path of an attribute (names of parts, then its own) -> value; what has to move together."""

Wider = Callable[[PreTrainedConfig, int, int], PreTrainedConfig]
"""(config, times, by) -> the config as a growth of the width by times / by makes it, or a GrowthError."""


def draw(
    model_class: Any, tiny: PreTrainedConfig, default: PreTrainedConfig, setting: str, wider: Wider
) -> PreTrainedConfig | None:
    """A config like `tiny` at other sizes; None where no other is legal.

    Args:
        model_class: what has to run at these sizes.
        tiny: legal itself.
        default: the type's own default, for its proportions.
        setting: one of `SETTINGS`.
        wider: used where the width does not move alone, as in models of stages: all that grows with it moves too.
    """
    if setting == FIRST:
        return tiny
    chance = random.Random(f"{model_class.__name__}.{setting}")
    shape = default if setting == DEFAULT else None
    config, moved = tiny, False
    for _ in range(DRAWS):
        widths = [group for group, wide in _groups(config, shape, chance, ()) if wide]
        config, left = _moved(model_class, config, widths)
        moved = moved or len(left) < len(widths)
        if not left or shape is not None:
            break
    if not moved:
        config = _widened(model_class, config, wider, chance)
    config, _ = _moved(model_class, config, [group for group, wide in _groups(config, shape, chance, ()) if not wide])
    return None if config.to_dict() == tiny.to_dict() else config


def _widened(model_class: Any, config: PreTrainedConfig, wider: Wider, chance: random.Random) -> PreTrainedConfig:
    ratios = [(3, 2), (5, 4), (5, 2), (7, 4), (3, 1)]
    for times, by in chance.sample(ratios, len(ratios)):
        try:
            larger = wider(config, times, by)
        except GrowthError:
            continue
        if runs(model_class, larger):
            return larger
    return config


def moves(tiny: PreTrainedConfig, drawn: PreTrainedConfig) -> dict[str, Any]:
    """Attribute (of a part: part.attribute) -> drawn value, of those that differ from `tiny`."""

    def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{before}{key}.")
            else:
                yield f"{before}{key}", value

    old = dict(flat(tiny.to_dict()))
    return {key: value for key, value in flat(drawn.to_dict()) if old.get(key) != value}


def _moved(model_class: Any, config: PreTrainedConfig, groups: list[Group]) -> tuple[PreTrainedConfig, list[Group]]:
    """`config` with as many of `groups` as are legal together, and those that are not."""
    if not groups:
        return config, []
    moved = _with(config, groups)
    if moved is not None and runs(model_class, moved):
        return moved, []
    if len(groups) == 1:
        return config, groups
    half = len(groups) // 2
    config, first = _moved(model_class, config, groups[:half])
    config, second = _moved(model_class, config, groups[half:])
    return config, first + second


def _with(config: PreTrainedConfig, groups: list[Group]) -> PreTrainedConfig | None:
    values = config.to_dict()
    for path, value in (item for group in groups for item in group.items()):
        part = values
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = value
    try:
        moved = type(config).from_dict(copy.deepcopy(values))
    except CONFIG_ERRORS:
        return None
    keep_implementations(moved, config)
    made = moved.to_dict()
    for path, value in (item for group in groups for item in group.items()):
        part = made
        for name in path[:-1]:
            part = part[name]
        if part.get(path[-1], value) != value:
            return None  # the class derives it from what did not move
    return moved


def runs(model_class: Any, config: PreTrainedConfig) -> bool:
    """Whether the class builds and runs a model of `config` whose output depends on what it reads."""
    try:
        model = proxy(model_class, config, seed=0)
        with torch.no_grad():
            for seed in SEEDS:  # tables of other lengths than the vocabulary fail for some ids
                out = main_output(model(**random_batch(model, seed, size=4)))
    except CONFIG_ERRORS:
        return False
    rows = out.reshape(-1, out.shape[-1])
    return bool(torch.isfinite(rows).all() and (rows - rows[0]).abs().max() > 1e-2 * rows.abs().max())


def _groups(
    config: PreTrainedConfig, shape: PreTrainedConfig | None, chance: random.Random, path: tuple[str, ...]
) -> Iterator[tuple[Group, bool]]:
    """(what moves together, whether it is the width of a part) of `config` and its parts.

    Args:
        shape: whose proportions are wanted; None to draw.
    """
    stored = config.to_dict()
    kinds = {key: found for key, value in stored.items() if (found := _kind(config, key, value))}
    named = {role: [key for key, found in kinds.items() if found == role] for role in TINY}
    if isinstance(stored.get("depths"), list):
        named["hidden_size"] = []  # the widths of stages are others; a single one follows from them
    new: dict[str, Any] = {}
    if named["hidden_size"]:
        wanted = _shaped(config, shape, named) if shape is not None else _drawn(config, named, chance)
        if wanted:
            new = wanted
            yield {(*path, key): value for key, value in wanted.items()}, True
    old_hidden = stored[named["hidden_size"][0]] if named["hidden_size"] else 0
    theirs = shape.to_dict() if shape is not None else {}
    for key, found in kinds.items():
        value = stored[key]
        if (
            key in new
            or key.startswith("vocab_size_")
            or found in ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers")
        ):
            continue
        hidden = new.get(named["hidden_size"][0], old_hidden) if named["hidden_size"] else 0
        if shape is None:
            other = _other(key, found, value, chance)
        elif (
            type(whole := theirs.get(key)) is int and hidden and found not in ("vocab_size", "max_position_embeddings")
        ):
            times = hidden / max(theirs.get(named["hidden_size"][0]) or 1, 1)
            other = value if _counts(key) else max(2, 2 * round(whole * times / 2))
        else:
            continue
        if other != value:
            # The tables of a part that are looked up by the same ids are as long.
            same = {k: other for k in kinds if k == key or (key == "vocab_size" and k.startswith("vocab_size_"))}
            yield {(*path, k): new_value for k, new_value in same.items()}, False
    for key, part in config.__dict__.items():
        if isinstance(part, PreTrainedConfig):
            inner = getattr(shape, key, None) if shape is not None else None
            if shape is None or isinstance(inner, PreTrainedConfig):
                yield from _groups(part, inner, chance, (*path, key))


def _kind(config: PreTrainedConfig, key: str, value: Any) -> str:
    """The size of `TINY` that an attribute holds, "number" for another that is known, "" for what is left alone."""
    if type(value) is not int or value < 1 or key.endswith(("_id", "_index")):
        return ""
    own = {config.attribute_map.get(role, role): role for role in TINY}
    if key in own:
        return own[key]
    for pattern, tiny in TINY_ATTRIBUTES:
        if re.fullmatch(pattern, key):
            return tiny if isinstance(tiny, str) else "number"
    return next((role for role in ("num_key_value_heads", "head_dim") if key in SIZES[role]), "")


def _counts(key: str) -> bool:
    """Whether a number counts things, so that no width says how many there are."""
    return bool(re.match(COUNTS, key)) or "heads" in key


def _other(key: str, kind: str, value: int, chance: random.Random) -> int:
    """Another number for an attribute that stands alone."""
    if kind in ("vocab_size", "max_position_embeddings"):
        return value + chance.randrange(1, 30)
    if kind == "intermediate_size":
        return chance.choice([37, 43, 46, 51, 58, 69])
    if re.search("expert", key) and "per_tok" not in key and "size" not in key:
        return chance.choice([3, 5, 6]) if value > 2 else value
    if _counts(key):
        return value
    return max(2, 2 * round(value * chance.choice([0.7, 1.3, 1.6]) / 2))  # even: rotations are of pairs


def _drawn(config: PreTrainedConfig, named: Mapping[str, list[str]], chance: random.Random) -> dict[str, Any]:
    """Width, heads and key/value heads that no power of 2 divides alike."""
    heads = chance.choice([2, 3, 5, 6, 7, 9])
    keys = chance.choice([n for n in range(1, heads + 1) if heads % n == 0])
    dim = chance.choice([n for n in (4, 6, 8, 10, 12) if NARROWEST <= heads * n <= WIDEST])
    return _values(config, named, heads, keys, dim, free=chance.choice([28, 36, 44, 52]))


def _shaped(config: PreTrainedConfig, shape: PreTrainedConfig, named: Mapping[str, list[str]]) -> dict[str, Any]:
    """The width and heads of `shape`, divided."""
    theirs = shape.to_dict()

    def first(role: str) -> int:
        return next((theirs[key] for key in named[role] if type(theirs.get(key)) is int and theirs[key] > 0), 0)

    hidden, heads = first("hidden_size"), first("num_attention_heads")
    if not hidden:
        return {}
    keys = first("num_key_value_heads") or heads
    # A single key/value head for all stays one, and several stay several.
    several = [n for n in range(1, heads + 1) if heads % n == 0 and (keys == 1 or (keys % n == 0 and keys > n))]
    by = max((n for n in several if heads // n >= min(heads, 3)), default=1)
    small, few = (heads // by, max(1, keys // by)) if heads else (0, 0)
    if small > MOST_HEADS:  # a prime number of heads
        small, few = 7, 7 if few == small else 1
    head_dim = first("head_dim") or (hidden // heads if heads else 0)
    for dim in (6, 8, 10, 12, 16):
        free = hidden * small * dim / (heads * head_dim) if heads and head_dim else 48
        if free == int(free) and free >= NARROWEST:
            return _values(config, named, small, few, dim, int(free))
    return {}


def _values(
    config: PreTrainedConfig, named: Mapping[str, list[str]], heads: int, keys: int, dim: int, free: int
) -> dict[str, Any]:
    """Attribute -> value for heads of `dim` channels, and what is as wide as the model; `free` is the width where
    heads need not fill it."""
    stored = config.to_dict()

    def first(role: str) -> int:
        return next((stored[key] for key in named[role]), 0)

    old, old_heads, old_dim = first("hidden_size"), first("num_attention_heads"), first("head_dim")
    square = not old_dim or old_dim * old_heads == old
    hidden = heads * dim if square and old_heads else free
    values = {
        key: hidden for key, value in stored.items() if value == old and type(value) is int and _wide(key, named)
    }
    if old_heads > 1:
        values |= dict.fromkeys(named["num_attention_heads"], heads)
        one = first("num_key_value_heads")
        values |= dict.fromkeys(named["num_key_value_heads"], 1 if one == 1 else heads if one == old_heads else keys)
    values |= dict.fromkeys(named["head_dim"], dim)
    return values | state_space(stored, stored, old, hidden)


def _wide(key: str, named: Mapping[str, list[str]]) -> bool:
    return key in named["hidden_size"] or bool(re.search("hidden|width|dim|channels|embed|size|bottleneck", key))
