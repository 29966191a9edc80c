"""The student's config: the teacher's, larger.

Widths of heads are kept; the number of heads, of key/value heads and the FFN grow in proportion unless they are given.
The config is rebuilt through its own class, so that what the class derives from sizes is derived from the new ones.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from transformers import PreTrainedConfig

from ...errors import DistillationError, GrowthError, raise_all
from .names import FOLLOWS_HIDDEN, PROPORTIONAL, SIZES
from .rebuild import Order, appended, rebuild, unknown_keys
from .sizes import ROW_COUNTS, Values, attributes, listed_layers, size


def larger_config(
    config: PreTrainedConfig,
    sizes: Mapping[str, int | None],
    overrides: Values | None = None,
    order: Order = appended,
) -> PreTrainedConfig:
    """A config like `config` with larger sizes.

    Args:
        config: the teacher's; not changed.
        sizes: role (a key of `SIZES`) -> wanted value, None to derive it.
        overrides: further attributes by the config's own names; they win over what is derived.
        order: which layers the student's are made from, for lists with one entry per layer.

    Raises:
        GrowthError: a size that is not legal, with the nearest legal ones; a smaller one; an unknown attribute.
    """
    student = LargerSizes(config, {role: v for role, v in sizes.items() if v is not None}, dict(overrides or {}))
    student.check_names()
    raise_all(student.problems)
    student.resolve()
    raise_all(student.problems)
    return rebuild(config, {**student.values, **student.proportional}, student.overrides, order)


def padded_vocabulary(config: PreTrainedConfig, vocab_size: int | None, multiple: int | None) -> int | None:
    """The number of rows for `vocab_size` tokens (None: the teacher's), rounded up to a multiple of `multiple`.

    Raises:
        GrowthError: a multiple that is no positive integer, or a config without a vocabulary.
    """
    if multiple is None:
        return vocab_size
    tokens = size(config, "vocab_size") if vocab_size is None else vocab_size
    if type(multiple) is not int or multiple < 1 or type(tokens) is not int:
        problem = "It must be a positive integer." if tokens else f"{type(config).__name__} stores no vocab_size."
        raise GrowthError("pad_vocab_to_multiple_of", multiple, problem, "Give a whole number such as 64.")
    return -(-tokens // multiple) * multiple


@dataclass
class LargerSizes:
    """The student's sizes, worked out from the few that the caller gives.

    Args:
        config: the teacher's.
        given: role -> the caller's value.
        overrides: attribute -> the caller's value.
        values: attribute that holds a size -> the student's, filled by `resolve`.
        proportional: likewise, attributes that grow with the hidden size.
        problems: everything found to be wrong.
    """

    config: PreTrainedConfig
    given: dict[str, int]
    overrides: dict[str, object]
    values: dict[str, int] = field(default_factory=dict)
    proportional: dict[str, int | list[int]] = field(default_factory=dict)
    problems: list[DistillationError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.overrides = {self.config.attribute_map.get(key, key): value for key, value in self.overrides.items()}
        self.names = {role: attributes(self.config, role) for role in SIZES}
        stored = self.config.to_dict()
        self.old = {name: stored[name] for names in self.names.values() for name in names}

    def check_names(self) -> None:
        """Sizes must be positive integers that the config stores; overrides must be attributes that it knows."""
        self.problems += unknown_keys(self.config, self.overrides)
        layers = (self.config.to_dict().get("per_layer_config") or {}).values()
        sized = {name for role, names in self.names.items() if role != "head_dim" for name in names}
        if self.given and any(sized & one.keys() for one in layers):
            problem = f"{type(self.config).__name__} gives its layers different sizes: no single number fits them."
            self._refuse(*next(iter(self.given.items())), problem, "Give them in config_overrides.")
        for role, value in self.given.items():
            if type(value) is not int or value < 1:
                self._refuse(role, value, "A size is a positive integer.", "Give a whole number.")
            elif not self.names[role] and not (role == "head_dim" and self.names["num_attention_heads"]):
                self._refuse(role, value, *self._no_such_size(role))
            elif self.names[role] and self.overrides.get(self.names[role][0], value) != value:
                self._refuse(role, value, f"The argument {role}={value} asks for something else.", "Give it once.")
        for name, wanted in self.overrides.items():
            if name in self.old and wanted is not None and (type(wanted) is not int or wanted < 1):
                self._refuse(name, wanted, "A size is a positive integer.", "Give a whole number.")

    def resolve(self) -> None:
        """Fill `values`: the caller's first, then heads, key/value heads and FFN in proportion."""
        self.values |= {name: v for name, v in self.overrides.items() if name in self.old and isinstance(v, int)}
        for role in ("hidden_size", "num_hidden_layers", "head_dim", "intermediate_size", *ROW_COUNTS):
            self._spread(role)
        hidden = self._ratio("hidden_size")
        self._heads(hidden)
        for name in self.names["intermediate_size"]:
            # n_inner=None stays None: the architecture derives the width from the hidden size itself.
            if self.old[name] is not None:
                self.values.setdefault(name, math.ceil(self.old[name] * hidden[0] / hidden[1]))
        for name in FOLLOWS_HIDDEN:
            before = size(self.config, "hidden_size")
            if before is not None and getattr(self.config, name, None) == before and name not in self.overrides:
                self.values[name] = hidden[0]
        self._follow(hidden)
        self._check_division()
        self._check_growth()
        # What stays the same is left to the class, which may derive it from an override (Swin's hidden_size); but a
        # class such as Llama's would derive another head_dim from the new number of heads.
        heads = {name: self.old[name] for name in self.names["head_dim"] if self.old[name] is not None}
        changed = {name: value for name, value in self.values.items() if value != self.old.get(name)}
        self.values = {**heads, **changed}

    def _follow(self, hidden: tuple[int, int]) -> None:
        """Scale what else grows with the hidden size; where that is no whole number the class decides."""
        for name in (*PROPORTIONAL[""], *PROPORTIONAL.get(self.config.model_type, ())):
            old: object = getattr(self.config, name, None)
            several = old if isinstance(old, list) else [old]
            fit = [v for v in several if type(v) is int and v > 1 and v * hidden[0] % hidden[1] == 0]
            new = [v * hidden[0] // hidden[1] for v in fit]
            if name not in self.overrides and len(new) == len(several) and new != several:
                self.proportional[name] = new if isinstance(old, list) else new[0]

    def _heads(self, hidden: tuple[int, int]) -> None:
        """Heads in proportion to the hidden size; key/value heads to the heads, so that groups stay groups."""
        heads, keys = self.names["num_attention_heads"], self.names["num_key_value_heads"]
        if "head_dim" in self.given and not self.names["head_dim"] and "num_attention_heads" not in self.given:
            head_dim = self.given["head_dim"]
            if hidden[0] % head_dim:
                legal = _multiples(hidden[0], head_dim, hidden[1])
                self._refuse("head_dim", head_dim, f"It does not divide hidden_size={hidden[0]}.", f"Use {legal}.")
                return
            self.values.update(dict.fromkeys(heads, hidden[0] // head_dim))
        if heads and "num_attention_heads" in self.given:
            self._spread("num_attention_heads")
        self._spread("num_key_value_heads")
        together = (*heads, *(name for name in keys if name not in self.values))
        leader = "num_attention_heads" if self.values.keys() & set(heads) else "hidden_size"
        for name in heads:
            self._proportion(name, "hidden_size", together)
        for name in keys:
            self._proportion(name, leader, together)

    def _spread(self, role: str) -> None:
        """Give the caller's size to each attribute that holds it, in proportion where the teacher's differ."""
        names = self.names[role]
        if role not in self.given or not names:
            return
        value, first = self.given[role], self.old[names[0]]
        for name in names:
            scaled = value * self.old[name] / first if first and self.old[name] else value
            if scaled != int(scaled) and name not in self.values:
                problem = (
                    f"The teacher has {names[0]}={first} and {name}={self.old[name]}; no whole {name} keeps that."
                )
                self._refuse(role, value, problem, f"Say config_overrides={{{name!r}: ...}} too.")
            self.values.setdefault(name, int(scaled))

    def _proportion(self, name: str, role: str, together: Iterable[str]) -> None:
        """Scale a number of heads with `role`; where it does not come out whole, the value of `role` is not legal."""
        if name in self.values or self.old[name] is None:
            return
        new, old = self._ratio(role)
        if self.old[name] * new % old == 0:
            self.values[name] = self.old[name] * new // old
            return
        if self.old[name] == 1 and name in self.names["num_key_value_heads"]:
            self.values[name] = 1  # a single one serves any number of heads
            return
        step = old // math.gcd(old, *(self.old[other] for other in together if self.old[other]))
        problem = (
            f"Heads keep their width, so {name} would become {self.old[name] * new / old:g} (now {self.old[name]})."
        )
        also = "num_attention_heads" if name in self.names["num_attention_heads"] else "num_key_value_heads"
        self._refuse(role, new, problem, f"Use {_multiples(new, step, old)}, or say {also} as well.")
        self.values[name] = self.old[name]

    def _check_division(self) -> None:
        """Heads divide the hidden size where their width is not stored; key/value heads divide heads."""
        hidden, heads = self._ratio("hidden_size")[0], self._ratio("num_attention_heads")
        keys = self._ratio("num_key_value_heads")[0] if self.names["num_key_value_heads"] else 1
        if self.problems or not self.names["num_attention_heads"] or not self.names["hidden_size"]:
            return
        if heads[0] % keys:
            legal = [n for n in range(1, heads[0] + 1) if heads[0] % n == 0]
            nearest = " or ".join(map(str, sorted(sorted(legal, key=lambda n: abs(n - keys))[:2])))
            problem = f"Key/value heads must divide the {heads[0]} heads."
            self._refuse("num_key_value_heads", keys, problem, f"Use {nearest}.")
        # Some architectures (Reformer, GLM-4 MoE) store no head_dim and divide nothing; their own code knows.
        if self._ratio("hidden_size")[1] % heads[1]:
            return
        if size(self.config, "head_dim") is not None or ("head_dim" in self.given and self.names["head_dim"]):
            return
        if hidden % heads[0]:
            problem = f"{heads[0]} heads do not divide it."
            legal_sizes = _multiples(hidden, heads[0], self._ratio("hidden_size")[1])
            self._refuse("hidden_size", hidden, problem, f"Use {legal_sizes}, or another num_attention_heads.")
            return
        width, before = hidden // heads[0], self._ratio("hidden_size")[1] // heads[1]
        if self.given.get("head_dim", width) != width:
            problem = f"{heads[0]} heads of a hidden size of {hidden} are {width} wide."
            self._refuse("head_dim", self.given["head_dim"], problem, f"Use {width}, or change one of the others.")
        elif width < before:
            problem = f"Heads would shrink from {before} to {width}: {heads[0]} heads share a hidden size of {hidden}."
            fix = f"Use hidden_size={heads[0] * before}, or at most {hidden // before} heads."
            self._refuse("num_attention_heads", heads[0], problem, fix)

    def _check_growth(self) -> None:
        """No size is smaller than the teacher's."""
        for role, name in ((role, name) for role, names in self.names.items() for name in names):
            new, old = self.values.get(name, self.overrides.get(name)), self.old[name]
            # A derived size shrinks only because of one that the caller gives: that one is named.
            given = role if role in self.given else name if name in self.overrides else None
            if given is None or not isinstance(new, int) or old is None or new >= old:
                continue
            fix = f"Use {old} or more."
            if role == "vocab_size":
                fix = f"A tokenizer of fewer tokens fits the teacher's rows: leave it out, or use {old} or more."
            self._refuse(given, new, f"It is smaller than the teacher's {old}.", fix)

    def _ratio(self, role: str) -> tuple[int, int]:
        """(student's, teacher's) value of a role; (1, 1) where the config does not store it."""
        names = self.names[role]
        if not names or not self.old[names[0]]:
            return (1, 1)
        return (self.values.get(names[0], self.old[names[0]]), self.old[names[0]])

    def _no_such_size(self, role: str) -> tuple[str, str]:
        name = type(self.config).__name__
        if role == "num_hidden_layers" and (stages := listed_layers(self.config)):
            problem = f"{name} lists the layers of each stage: no single number fits them."
            return problem, f"Say config_overrides={{{stages!r}: [...]}}; it is {getattr(self.config, stages)} now."
        for key, part in self.config.__dict__.items():
            if isinstance(part, PreTrainedConfig) and attributes(part, role):
                problem = f"{name} is composed of several configs, and which part should grow is not clear."
                return problem, f"Say config_overrides={{{key!r}: {{{attributes(part, role)[0]!r}: ...}}}}."
        return f"{name} stores no such size.", "Give the attribute that it does store in config_overrides."

    def _refuse(self, argument: str, value: object, problem: str, fix: str) -> None:
        # One problem for each thing the caller can change: encoder and decoder complain about the same size.
        if argument not in {known.argument for known in self.problems}:
            self.problems.append(GrowthError(argument, value, problem, fix))


def _multiples(value: int, step: int, least: int) -> str:
    """The multiples of `step` next to `value`, none below `least`: "16 or 24"."""
    below, above = value // step * step, math.ceil(value / step) * step
    legal = sorted({n for n in (below, above) if n >= least} or {math.ceil(least / step) * step})
    return " or ".join(map(str, legal))
