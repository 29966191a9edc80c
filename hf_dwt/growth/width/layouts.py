"""What an axis is made of: candidates, likeliest first, from the sizes that the two configs store.

A layout is a tuple of names of sizes, such as ("query", "key", "key"), or (n,), n equal segments. It is found on a
tiny proxy and read again with the sizes of the real model.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

from transformers import PreTrainedConfig

from ..axes import Axis, Segment
from ..config.declared_layouts import LAYOUTS, SSM_WIDTHS, STATE_SPACE
from ..config.sizes import size

Layout = tuple[str | int, ...]
"""Names of sizes in order, or one number of equal segments."""
Sizes = Mapping[str, tuple[int, int]]
"""Name of a size -> (teacher's, student's)."""

PLAIN: Layout = (1,)
EQUAL = (2, 3, 4, 5, 6, 8)
MOST_SEGMENTS = 4


def model_types(config: PreTrainedConfig) -> tuple[str, ...]:
    """The model type of a config, then those of the parts that it is composed of."""
    parts = [part for part in config.__dict__.values() if isinstance(part, PreTrainedConfig)]
    return tuple(dict.fromkeys((config.model_type, *(name for part in parts for name in model_types(part)))))


def named_sizes(old: PreTrainedConfig, new: PreTrainedConfig) -> dict[str, tuple[int, int]]:
    """The sizes that both configs store, and the products of heads and their width."""
    sizes: dict[str, tuple[int, int]] = {}
    parts = [(old, new)]
    for key, value in old.__dict__.items():
        if isinstance(value, PreTrainedConfig) and isinstance(getattr(new, key, None), PreTrainedConfig):
            parts.append((value, getattr(new, key)))
    for a, b in reversed(parts):
        stored = b.to_dict()
        for key, value in a.to_dict().items():
            if type(value) is int and value > 0 and type(stored.get(key)) is int and not key.endswith("_id"):
                sizes[key] = (value, stored[key])
            elif isinstance(value, list) and isinstance(other := stored.get(key), list) and len(value) == len(other):
                both = zip(value, other, strict=True)
                sizes |= {f"{key}.{i}": (m, n) for i, (m, n) in enumerate(both) if type(m) is type(n) is int and m > 0}
        if isinstance(depths := stored.get("depths"), list) and "embed_dim" in sizes:
            # Each stage is twice as wide as the one before.
            sizes |= {f"embed_dim.{i}": _product(f"{2**i}*embed_dim", sizes) for i in range(len(depths))}
        sizes |= _products(a, b)
    return sizes


def _products(old: PreTrainedConfig, new: PreTrainedConfig) -> dict[str, tuple[int, int]]:
    found = {}
    pair = {
        role: (size(old, role), size(new, role))
        for role in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
    }

    def both(role: str) -> tuple[int, int] | None:
        a, b = pair[role]
        return (a, b) if a and b else None

    hidden, heads = both("hidden_size"), both("num_attention_heads")
    if hidden and heads:
        dim = both("head_dim") or (hidden[0] // heads[0], hidden[1] // heads[1])
        keys = both("num_key_value_heads") or heads
        found["query"] = (heads[0] * dim[0], heads[1] * dim[1])
        found["key"] = (keys[0] * dim[0], keys[1] * dim[1])
        found |= {"heads": heads, "key_heads": keys}
        found |= _per_head(old, new, heads)
        found["head"] = dim
    if hidden:
        found |= _inner(old, new, hidden)
    if inner := both("intermediate_size"):
        found["ffn"] = inner
    if hidden:
        found["hidden"] = hidden
    return found


def _inner(old: PreTrainedConfig, new: PreTrainedConfig, hidden: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """The inner width, heads and state of a state-space layer, under the names that such configs use."""
    found = {}
    for name, names in STATE_SPACE.items():
        for key in names:
            a, b = getattr(old, key, None), getattr(new, key, None)
            if isinstance(a, int | float) and isinstance(b, int | float) and a > 0:
                times = hidden if name == "inner" and key.endswith("expand") else (1, 1)
                found[name] = (int(a * times[0]), int(b * times[1]))
                break
    width = next((key for key in SSM_WIDTHS if type(getattr(old, key, None)) is int), "")
    if width and found.keys() >= {"inner", "ssm_heads"}:  # what heads fill need be no multiple of the hidden size
        a, b = found["ssm_heads"]
        found["inner"] = (a * getattr(old, width), b * getattr(new, width))
    return found


def _per_head(old: PreTrainedConfig, new: PreTrainedConfig, heads: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Heads times each width of a head in the config, and times each sum of two (keys with and without RoPE)."""
    known = new.to_dict()
    numbers = {k: (v, known[k]) for k, v in old.to_dict().items() if type(v) is int and k in known}
    widths = {k: pair for k, pair in numbers.items() if k.endswith("head_dim")}
    found = {f"heads*{name}": (heads[0] * a, heads[1] * b) for name, (a, b) in widths.items()}
    for several, (a, b) in numbers.items():
        if several.endswith("_heads") and several != "num_attention_heads":
            found |= {f"{several}*{name}": (a * c, b * d) for name, (c, d) in widths.items()}
    for (one, (a, b)), (two, (c, d)) in combinations(widths.items(), 2):
        found[f"heads*({one}+{two})"] = (heads[0] * (a + c), heads[1] * (b + d))
    return found


def read_layout(layout: Layout, old: int, new: int, sizes: Sizes) -> Axis | None:
    """The axis of length `old` -> `new` that a layout describes; None where it does not add up."""
    if len(layout) == 1 and isinstance(layout[0], int):
        n = layout[0]
        if old % n or new % n:
            return None
        return Axis((Segment(old // n, new // n, _name(old // n, new // n, sizes)),) * n)
    sizes = (
        {**sizes, **_shares(old, new, sizes)}
        if any(str(part).startswith(("grows", "stays")) for part in layout)
        else sizes
    )
    try:
        segments = tuple(segment for part in layout for segment in _segments(part, sizes))
    except (KeyError, ValueError):
        return None
    axis = Axis(segments)
    return axis if (axis.old, axis.new) == (old, new) else None


def _segments(part: str | int, sizes: Sizes) -> tuple[Segment, ...]:
    """A named size, or a product of them such as "2*n_groups*state_size"; with ^ and a count, so many of them.

    "query/key_heads" is as many equal segments as the teacher has key/value heads: grown one by one, query heads stay
    with the keys that they read, whether or not these grow with them. "query/2" is two. "heads@head" is as many heads,
    each as wide, that differ by their place (`Segment.heads`), and "hidden/2@sines" so many frequencies.
    """
    if isinstance(part, int):
        raise ValueError(part)
    part, _, width = part.partition("@")
    product_of, _, share = part.partition("/")
    product_of, _, times = product_of.partition("^")
    (old, new), (count, student_count) = _product(product_of, sizes), _product(times or "1", sizes)
    n = _product(share or "1", sizes)[0]
    if old % n or new % n or count != student_count or old < 1:
        raise ValueError(part)
    if width == "sines":
        if new % old:
            raise ValueError(part)
        return (Segment(old // n, new // n, part, (old // n, new // n), sines=True),)
    if width:
        wide = _product(width, sizes)
        return (Segment(old * wide[0], new * wide[1], part, (old, new)),)
    return (Segment(old // n, new // n, part),) * n * count


def _product(name: str, sizes: Sizes) -> tuple[int, int]:
    first, minus, rest = name.partition("-")
    if minus:
        (a, b), (c, d) = _product(first, sizes), _product(rest, sizes)
        return a - c, b - d
    old = new = 1
    for factor in name.split("*"):
        a, b = (int(factor), int(factor)) if factor.isdigit() else sizes[factor]
        old, new = old * a, new * b
    return old, new


def _shares(old: int, new: int, sizes: Sizes) -> dict[str, tuple[int, int]]:
    """What of an axis grows in the ratio of the hidden size, and what stays; where no size grows, a whole ratio."""
    a, b = sizes.get("hidden") or next(((m, n) for m, n in sizes.values() if m != n), (1, -(-new // old)))
    grows = (new - old) * a // (b - a) if b > a else 0
    stays = old - grows
    return {"grows": (grows, new - stays), "stays": (stays, stays)} if grows > 0 and stays > 0 else {}


def _name(old: int, new: int, sizes: Sizes) -> str:
    return next((name for name in ("hidden", "query", "key", "ffn", *sizes) if sizes.get(name) == (old, new)), "")


def candidates(
    parameter: str, dim: int, old: int, new: int, sizes: Sizes, model_types: Sequence[str]
) -> Iterator[Layout]:
    """Layouts that add up for axis `dim` of a parameter, each axis once, the likeliest first."""
    seen = set()
    for layout in (*declared(parameter, dim, model_types), *_guesses(old, new, sizes)):
        axis = read_layout(layout, old, new, sizes)
        if axis is not None and axis not in seen:
            seen.add(axis)
            yield layout


def declared(parameter: str, dim: int, model_types: Sequence[str]) -> list[Layout]:
    """What was declared of axis `dim` of a parameter of a model of these types."""
    known = [item for model_type in model_types for item in LAYOUTS.get(model_type, {}).items()]
    names = parameter, f"{parameter}:{dim}"
    return [layout for pattern, layout in known if any(re.search(pattern, name) for name in names)]


def _guesses(old: int, new: int, sizes: Sizes) -> Iterator[Layout]:
    """One block if it has the size of one; equal blocks of a known size; blocks of query and keys; then any."""
    grouped = regrouped(sizes)
    within = [(part,) for name, part in grouped.items() if sizes[name] == (old, new)]
    if (old, new) != sizes.get("hidden"):
        yield from within
    if (old, new) in sizes.values():
        yield PLAIN
    widths = {pair for name, pair in sizes.items() if "_heads" not in name}  # as wide as a number of heads by chance
    for n in EQUAL[:2]:
        if old % n == 0 and new % n == 0 and (old // n, new // n) in widths:
            if n == 2 and (old // n, new // n) == sizes.get("query"):
                yield PLAIN  # heads twice as wide: in two halves they may seem right, but an odd number has none
            yield (n,)
    yield tuple(grouped.get(name, name) for name in ("query", "key", "key"))
    yield from within
    yield ("query", "key", "key")
    yield PLAIN
    for n in EQUAL:
        yield (n,)
    names = {pair: name for name, pair in reversed(list(sizes.items())) if "*(" not in name}  # one name for each pair
    for (a, b), times in names.items():
        if 1 < a == b and old % a == 0 and (old // a, new // a) in names:
            yield (f"{names[old // a, new // a]}^{times}",)
    blocks = [name for name in ("query", "key", "ffn", "hidden") if name in sizes]
    for length in range(2, MOST_SEGMENTS + 1):
        yield from product(blocks, repeat=length)
    for (a, b), name in names.items():
        if (rest := names.get((old - a, new - b))) is not None:
            yield (name, rest)
        for (c, d), third in names.items():
            if (a, b) != (c, d) and (old - 2 * a, new - 2 * b) == (c, d):
                yield (name, name, third)
            several = (old - a) // c
            if several > 1 and (old - a, new - b) == (several * c, several * d):
                yield (name, f"{third}^{several}")
    for n in (1, 2, 3):
        yield from ((f"grows/{n}", "stays"), ("stays", f"grows/{n}"))


def regrouped(sizes: Sizes) -> dict[str, str]:
    """What "query" and "key" are read as where the groups of query heads change; empty where they stay as large."""
    query, key, key_heads = (sizes.get(name, (1, 1)) for name in ("query", "key", "key_heads"))
    if key_heads[0] == 1 or query[0] * key[1] == query[1] * key[0]:
        return {}
    return {"query": "query/key_heads", "key": "key/key_heads"}


def regrouped_axes(sizes: Sizes) -> list[Axis]:
    """The axes of `regrouped`, in channels and in whole heads."""
    if not (parts := regrouped(sizes)):
        return []
    parts = {**parts, "heads": "heads/key_heads", "key_heads": "key_heads/key_heads"}
    read = (read_layout((part,), *sizes[name], sizes) for name, part in parts.items())
    return [axis for axis in read if axis is not None]
