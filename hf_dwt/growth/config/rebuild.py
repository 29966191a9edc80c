"""Building a config from another one through its own class."""

import copy
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ...errors import DistillationError, GrowthError
from .names import FOLLOWS_HIDDEN, SIZES
from .sizes import Values

CONFIG_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ZeroDivisionError,
    AssertionError,
    RuntimeError,
    StrictDataclassError,
)
"""What a class of configs or models, strict or remote, raises on values it does not like, or cannot set."""

NOT_COPIED = ("transformers_version", "_name_or_path", "quantization_config")
"""The student is not the teacher's checkpoint, and was not made by the version that made it."""

Order = Callable[[int, int], list[int]]
"""(teacher's depth, student's) -> the teacher's layer that each of the student's is made from."""


def appended(old: int, new: int) -> list[int]:
    """The old layers, then the last again and again."""
    return [min(i, old - 1) for i in range(new)]


def rebuild(config: PreTrainedConfig, sizes: Values, overrides: Values, order: Order = appended) -> PreTrainedConfig:
    """A config of the same class with other values.

    What the class derives from sizes by itself is left to it; lists with one entry per layer go with the layers: entry
    i is the old entry of the layer that i is made from. Where the old layers stay in front, a list that the class
    derives is left to it too, so that a pattern of layers goes on; where they move, their entries move with them.

    Args:
        config: the teacher's; not changed.
        sizes: attribute -> value, under the config's own names.
        overrides: likewise, and stronger; a dict for a part of a composite config is merged into that part.
        order: which layers the student's are made from.

    Raises:
        GrowthError: the class refuses the values, or sets one of them to something else.
    """
    stored = _stored(config)
    depth = getattr(config, "num_hidden_layers", None)
    name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    new_depth = overrides.get("num_hidden_layers", overrides.get(name, sizes.get(name, depth)))
    lists = {key: value for key, value in _per_layer(stored, depth).items() if key != "architectures"}
    origins = order(depth, new_depth) if lists and depth and isinstance(new_depth, int) else []
    moved = lists.keys() if origins != appended(depth or 0, len(origins)) else set()
    derived = _derived(config, stored, depth, keep={*sizes, *overrides}) - moved
    extended = {key: [value[source] for source in origins] for key, value in lists.items()}
    if origins and not _accepts(config, {**stored, name: new_depth}, derived):
        # The class does not derive a list that is a constant, as long as its first checkpoint is deep.
        longer = {**stored, **extended, name: new_depth}
        derived -= {next((key for key in extended if _accepts(config, longer, derived - {key})), "")}
    values = {key: extended.get(key, value) for key, value in stored.items() if key not in derived}
    values = _merge(config, {**values, **sizes}, overrides, order)
    try:
        student = type(config).from_dict(values)
    except CONFIG_ERRORS as error:
        problem = f"{type(config).__name__} refuses these values: {str(error).strip()}"
        fix = "Choose other sizes, or give the attribute it names in config_overrides."
        raise GrowthError("config", {**sizes, **overrides}, problem, fix) from error
    keep_implementations(student, config)
    # Where layers have sizes of their own, only the dict of the config holds those of the others.
    made = student.to_dict()
    plain = {name: value for name, value in overrides.items() if isinstance(value, str | int | float)}
    for name, value in {**sizes, **plain}.items():
        if made.get(name, value) != value:
            problem = f"{type(config).__name__} derives it from other values and made it {made[name]}."
            raise GrowthError(name, value, problem, "Change the values it is derived from in config_overrides.")
    return student


def keep_implementations(new: PreTrainedConfig, old: PreTrainedConfig) -> None:
    """Give `new` the implementations of attention and experts of `old`; a part may not support that of the whole.

    They are not stored in a config's dict, and choices of the caller all the same.
    """
    new._attn_implementation = old._attn_implementation
    new._experts_implementation = getattr(old, "_experts_implementation", None)
    for key, part in old.__dict__.items():
        if isinstance(part, PreTrainedConfig) and isinstance(other := new.__dict__.get(key), PreTrainedConfig):
            keep_implementations(other, part)


def unknown_keys(config: PreTrainedConfig, overrides: Values, path: str = "") -> list[DistillationError]:
    """One error per key of `overrides` that `config`, or the part of it that the key is in, does not know or keeps."""
    known = {*config.to_dict(), *config.attribute_map}
    known |= {item.name for item in fields(config)} if is_dataclass(config) else set()
    problems: list[DistillationError] = []
    for key, value in overrides.items():
        part = getattr(config, key, None)
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), n=3)
            fix = (
                f"Did you mean {' or '.join(map(repr, close))}?" if close else f"It knows: {', '.join(sorted(known))}."
            )
            problem = f"{type(config).__name__} has no attribute {path + key!r}."
            problems.append(GrowthError("config_overrides", {key: value}, problem, fix))
        elif key == "model_type" and value != part:
            problem = f"The student is of the teacher's type, {part!r}: no other class would load it."
            problems.append(GrowthError("config_overrides", {key: value}, problem, "Leave it out."))
        elif isinstance(part, PreTrainedConfig) and isinstance(value, Mapping):
            problems += unknown_keys(part, value, f"{path}{key}.")
    return problems


def _stored(config: PreTrainedConfig) -> dict[str, object]:
    return {key: value for key, value in config.to_dict().items() if key not in NOT_COPIED}


def _per_layer(stored: Values, depth: int | None) -> dict[str, Sequence[object]]:
    """Those attributes that are lists with one entry per layer."""
    lists = {key: value for key, value in stored.items() if isinstance(value, list | tuple)}
    return {key: value for key, value in lists.items() if depth and len(value) == depth}


def _derived(config: PreTrainedConfig, stored: dict[str, object], depth: int | None, keep: set[str]) -> set[str]:
    """Numbers and per-layer lists that the class arrives at by itself from the other values.

    A constant default counts too: leaving it out gives the same constant again.
    """

    def lost_without(keys: set[str]) -> set[str]:
        try:
            again = _stored(type(config).from_dict(copy.deepcopy({k: v for k, v in stored.items() if k not in keys})))
        except CONFIG_ERRORS:
            return keys
        return {key for key in keys if again.get(key) != stored[key]}

    # Ids of tokens do not depend on sizes, and defaults outside the vocabulary would be warned about.
    numbers = {key for key, value in stored.items() if type(value) is int and not key.endswith("_id")}
    candidates = numbers | _per_layer(stored, depth).keys()
    derived = {key for key in candidates - keep if not lost_without({key})}
    # Two values may each follow from the other; then leaving out both loses both.
    while lost := lost_without(derived) if derived else set():
        derived -= lost
    return derived


def _accepts(config: PreTrainedConfig, stored: dict[str, object], left_out: set[str]) -> bool:
    """Whether the class makes a config of what is `stored` without some of it."""
    try:
        type(config).from_dict({key: value for key, value in stored.items() if key not in left_out})
    except CONFIG_ERRORS:
        return False
    return True


def _merge(config: PreTrainedConfig, values: Values, overrides: Values, order: Order) -> dict[str, object]:
    """`values` with `overrides`; the parts of a composite config are rebuilt as the whole is."""
    merged = copy.deepcopy(dict(values))
    for key, value in overrides.items():
        part = getattr(config, key, None)
        if isinstance(part, PreTrainedConfig) and isinstance(value, Mapping):
            wanted = {part.attribute_map.get(name, str(name)): one for name, one in value.items()}
            merged[key] = rebuild(part, {}, {**_following(part, wanted), **wanted}, order).to_dict()
        else:
            merged[key] = value
    return merged


def _following(part: PreTrainedConfig, value: Values) -> Values:
    """What stays as wide as the hidden size of a part."""
    hidden = next((name for name in SIZES["hidden_size"] if name in value and hasattr(part, name)), "")
    return {
        name: value[hidden] for name in FOLLOWS_HIDDEN if hidden and getattr(part, name, None) == getattr(part, hidden)
    }
