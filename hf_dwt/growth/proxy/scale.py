"""The config of a proxy of the student: the teacher's proxy grown by the ratios of the real sizes."""

from itertools import product

from transformers import PreTrainedConfig

from ..config.names import LAYERS_OF_STAGES, SIZES, SIZES_OF_TYPE
from ..config.sizes import Values, whole


def scaled(
    small: PreTrainedConfig, old: PreTrainedConfig, new: PreTrainedConfig, times: int | None = None
) -> PreTrainedConfig:
    """`small` grown by the ratios between `old` and `new`: integer ratios stay integer, others are rounded up.

    Args:
        times: what grows is multiplied by this instead.
    """
    return type(small).from_dict(_scaled(small.to_dict(), old.to_dict(), new.to_dict(), times))


def _scaled(small: Values, old: Values, new: Values, times: int | None) -> dict[str, object]:
    values = dict(small)
    own = SIZES_OF_TYPE.get(str(small.get("model_type", "")), {})
    depths = {*SIZES["num_hidden_layers"], *LAYERS_OF_STAGES, *own.get("num_hidden_layers", ())}
    for key, value in small.items():
        a, b = old.get(key), new.get(key)
        if key in depths:
            continue  # width is found at the proxy's depth
        if isinstance(value, dict) and isinstance(a, dict) and isinstance(b, dict):
            values[key] = _scaled(value, a, b, times)
        elif type(value) is float and type(a) is float and type(b) is float and a > 0 and b != a:
            values[key] = value * (times or b / a)  # a multiplier of widths
        elif type(value) is int and type(a) is int and type(b) is int and a > 0 and b != a:
            values[key] = _times(value, a, b, times)
        elif value is None and a is None and type(b) is int and key in SIZES["head_dim"]:
            values[key] = _head_dim(small)  # given, so that heads may grow alone
        elif isinstance(value, list) and (pairs := _changes(a, b)):
            pairs = pairs if len(value) == len(pairs) else [next(p for p in pairs if p[0] != p[1])] * len(value)
            values[key] = [v if m == n else _times(v, m, n, times) for v, (m, n) in zip(value, pairs, strict=True)]
    return {**values, **_regrouped(small, old, new, times)} if times else values


def _times(value: int, old: int, new: int, times: int | None) -> int:
    return value * times if times else -(-value * new // old)


def _head_dim(small: Values) -> int | None:
    """The width of a head that follows from the others."""
    hidden, heads = (
        next((size for name in SIZES[role] if (size := whole(small, name)) is not None), None)
        for role in ("hidden_size", "num_attention_heads")
    )
    return hidden // heads if hidden and heads else None


def _regrouped(small: Values, old: Values, new: Values, times: int) -> dict[str, int]:
    """Key/value heads that grow more than the query heads, or less, do so in the proxy too."""
    values: dict[str, int] = {}
    for heads, keys in product(SIZES["num_attention_heads"], SIZES["num_key_value_heads"]):
        (a, b), (c, d) = ((whole(old, name), whole(new, name)) for name in (heads, keys))
        if a is None or b is None or c is None or d is None or d <= c:
            continue
        more = d * a - c * b
        known = whole(small, keys)
        if more and b > a and known is not None:
            values[keys] = known * (times * times if more > 0 else 1)
    return values


def _changes(old: object, new: object) -> list[tuple[int, int]]:
    """Pairs of two lists of numbers, one for each layer or stage; empty where they are none or equal."""
    if not isinstance(old, list) or not isinstance(new, list) or {type(v) for v in (*old, *new)} != {int}:
        return []
    pairs = list(zip(old, new, strict=False))
    return pairs if any(m != n for m, n in pairs) and all(m > 0 for m, n in pairs) else []
