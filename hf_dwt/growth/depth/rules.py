"""Depth: by which rule each layer of the student is made from one of the teacher's, and which layers are new."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from ...errors import GrowthError
from ...parts import Part, Reference, paper, registry
from ..proxy.model import Proxies, typed_errors
from ..width.mapping import kind
from .identity import Identity, find_identity

MODES = ("is_sliding", "layer_type", "attention_type")
"""Attributes of modules that hold what kind of attention they have."""


class Signature(NamedTuple):
    """What must agree for one layer to take another's parameters.

    Args:
        parameters: (name, number of axes) of each.
        layer: name of the class.
        modes: values of `MODES` of all its modules.
    """

    parameters: tuple[tuple[str, int], ...]
    layer: str
    modes: tuple[str, ...]


def signature(layer: nn.Module) -> Signature:
    """The signature of a layer."""
    parameters = sorted((name, parameter.ndim) for name, parameter in layer.named_parameters())
    modes = [str(getattr(module, mode, None)) for module in layer.modules() for mode in MODES]
    return Signature(tuple(parameters), type(layer).__name__, tuple(modes))


Origin = tuple[int, bool]
"""(the teacher's layer, whether the student's is new: an identity where the rule is exact)."""


def append(old: int, new: int) -> list[Origin]:
    """New layers behind the old ones."""
    return [(i, False) for i in range(old)] + [(old - 1, True)] * (new - old)


def interleave(old: int, new: int) -> list[Origin]:
    """New layers spread evenly, each behind an old one."""
    layers: list[Origin] = []
    for i in range(old):
        layers.append((i, False))
        layers += [(i, True)] * ((i + 1) * new // old - i * new // old - 1)
    return layers


def stack(old: int, new: int) -> list[Origin]:
    """The whole teacher again (G_stack); not exact."""
    return [(i % old, False) for i in range(new)]


def repeat_each(old: int, new: int) -> list[Origin]:
    """Every layer repeated in place; not exact."""
    return [(i * old // new, False) for i in range(new)]


def repeat_last(old: int, new: int) -> list[Origin]:
    """The last layer repeated, the paper's rule; not exact."""
    return [(min(i, old - 1), False) for i in range(new)]


_EXACT, _COPIES = "exact under clone, pad and auto", "not exact, layers are copies"

DEPTHS: dict[str, Part[[int, int], list[Origin]]] = registry(
    Part("append", "new layers behind the old ones", append, _EXACT),
    Part("interleave", "new layers spread evenly, each behind the layer it is made from", interleave, _EXACT),
    Part("stack", "the whole teacher again", stack, _COPIES, (Reference("stacking", "G_stack", "2405.15319"),)),
    Part("repeat_each", "every layer repeated in place", repeat_each, _COPIES),
    Part("repeat_last", "the last layer repeated", repeat_last, _COPIES, (paper("the rule for layers"),)),
)
"""Rules by name: (teacher's depth, student's) -> the origin of each of the student's layers."""


def order(rule: str, old: int, new: int) -> list[int]:
    """The teacher's layer that each of the student's is made from."""
    return [source for source, _ in DEPTHS[rule](old, new)]


@dataclass(frozen=True)
class Deepening:
    """Where the parameters of a deeper student come from.

    Args:
        origins: path of a list of layers -> the origin of each of the student's layers.
        identities: path -> how its new layers become identities; empty where copies are wanted.
    """

    origins: Mapping[str, list[Origin]]
    identities: Mapping[str, Identity]

    def origin(self, name: str) -> tuple[str, float | None]:
        """(the teacher's parameter for the student's `name`, the constant that fills it instead or None)."""
        for path, origins in self.origins.items():
            if not name.startswith(f"{path}."):
                continue
            index, _, rest = name.removeprefix(f"{path}.").partition(".")
            i = int(index)
            source, new = origins[i]
            identity = self.identities.get(path)
            if identity is not None and kind(name) in identity.last_norm:
                # The affine of an old layer is carried by the last of the new ones behind it.
                if i + 1 < len(origins) and origins[i + 1][1]:
                    return f"{path}.{source}.{rest}", identity.last_norm[kind(name)]
                source = next(s for s, fresh in reversed(origins[: i + 1]) if not fresh)
            elif identity is not None and new and kind(name) in identity.constants:
                return f"{path}.{source}.{rest}", identity.constants[kind(name)]
            return f"{path}.{source}.{rest}", None
        return name, None

    def source(self, module: str) -> str | None:
        """The teacher's name of a student's module; None in a new layer."""
        for path, origins in self.origins.items():
            if module.startswith(f"{path}."):
                index, dot, rest = module.removeprefix(f"{path}.").partition(".")
                source, new = origins[int(index)]
                return None if new else f"{path}.{source}{dot}{rest}"
        return module


def find_deepening(teacher: PreTrainedModel, student: PreTrainedModel, rule: str, proxies: Proxies) -> Deepening:
    """Where the layers of a deeper student come from; new ones are identity layers.

    Args:
        teacher: may lie on the meta device, as the student may.
        rule: a key of `DEPTHS`.

    Raises:
        GrowthError: the layers cannot be made identities, or have no layer of their kind to be made from.
    """
    lists = layer_lists(teacher, student)
    origins = {path: match_kinds(DEPTHS[rule](old, new), path, teacher, student) for path, (old, new) in lists.items()}
    if not any(new for origin in origins.values() for _, new in origin):
        return Deepening(origins, {})
    with typed_errors(proxies.model_class):
        identities = proxies.once(
            ("identities", rule),
            lambda: {path: _identity(proxies, path, teacher, origin) for path, origin in origins.items()},
        )
    return Deepening(origins, identities)


def _identity(proxies: Proxies, path: str, teacher: PreTrainedModel, origin: list[Origin]) -> Identity:
    """How layers of the kinds from which new ones are made become identities."""
    layers = list(teacher.get_submodule(path).children())
    sources = {signature(layers[source]) for source, new in origin if new}
    return find_identity(proxies.teacher, proxies.batch, path, lambda layer: signature(layer) in sources)


def layer_lists(teacher: nn.Module, student: nn.Module) -> dict[str, tuple[int, int]]:
    """Path of each list of layers that is longer in the student -> (teacher's length, student's)."""
    found = {}
    for path, module in teacher.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        try:
            other = student.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(other, nn.ModuleList | nn.Sequential) and len(other) > len(module) > 0:
            found[path] = (len(module), len(other))
    return found


def way_out(rule: str, teacher: nn.Module, student: nn.Module, otherwise: str) -> str:
    """What to do where a student is not exact: `otherwise`, unless layers that `rule` copies are the reason."""
    if not layer_lists(teacher, student) or any(new for _, new in DEPTHS[rule](1, 2)):
        return otherwise
    return f"depth={rule!r} copies layers: use 'append' or 'interleave', or init='remap', which is not exact."


def match_kinds(origins: list[Origin], path: str, teacher: nn.Module, student: nn.Module) -> list[Origin]:
    """`origins` with each new layer taken from the nearest old layer of its kind (names of parameters, module types).

    Where the rule copies layers, which is not exact, so is every other layer.

    Raises:
        GrowthError: an old layer comes to stand where the student's config wants another kind, or no old one is of a
            new layer's kind.
    """
    theirs, ours = (list(model.get_submodule(path).children()) for model in (teacher, student))
    exact = any(new for _, new in origins)
    matched: list[Origin] = []
    for i, (source, new) in enumerate(origins):
        if signature(theirs[source]) != signature(ours[i]):
            # A new layer adds nothing, whatever its attention sees: the same parameters will do.
            nearest = _nearest(source, signature(ours[i]), [signature(layer) for layer in theirs])
            if nearest is None or (exact and not new):
                unlike = _unlike(signature(ours[i]), signature(theirs[source]))
                problem = f"It would be made from layer {source}, which is of another kind ({unlike})."
                append = "" if origins == DEPTHS["append"](len(theirs), len(ours)) else " with depth='append'"
                fix = (
                    f"Use a multiple of the teacher's pattern of layers{append}, or init='remap', which is not exact."
                )
                raise GrowthError("depth", f"{path}.{i}", problem, fix)
            source = nearest
        matched.append((source, new))
    return matched


def copied_layers(teacher: nn.Module, student: nn.Module, rule: str) -> dict[str, list[int | None]]:
    """Path of each list of layers that grows -> the teacher's layer to copy for each of the student's.

    It is the rule's, or where that is of another kind the nearest of the same kind; of the same parameters, or of them
    and more, where no layer is of the same kind; None where there is none of these either: a layer of another kind is
    never copied.
    """
    found: dict[str, list[int | None]] = {}
    for path, (old, new) in layer_lists(teacher, student).items():
        theirs, ours = ([signature(layer) for layer in m.get_submodule(path).children()] for m in (teacher, student))
        found[path] = [_nearest(source, ours[i], theirs) for i, source in enumerate(order(rule, old, new))]
    return found


def _nearest(source: int, wanted: Signature, kinds: list[Signature]) -> int | None:
    """The layer nearest to `source` that is `wanted`, the later of two; else the nearest with its parameters, or with
    more of them: the first layer of T5 alone has the embedding of relative positions.
    """
    same = [j for j, found in enumerate(kinds) if found == wanted]
    same = same or [j for j, found in enumerate(kinds) if found.parameters == wanted.parameters]
    same = same or [
        j
        for j, found in enumerate(kinds)
        if found.layer == wanted.layer and {*found.parameters} > {*wanted.parameters}
    ]
    return min(same, key=lambda j: (abs(j - source), -j), default=None)


def _unlike(wanted: Signature, found: Signature) -> str:
    """In what a layer of one signature differs from one of another."""
    names = [{name for name, _ in layer.parameters} for layer in (wanted, found)]
    for word, more in (("lacks", names[0] - names[1]), ("has", names[1] - names[0])):
        if more:
            return f"it {word} {min(more)}"
    for i, (a, b) in enumerate(zip(wanted.modes, found.modes, strict=False)):
        if a != b:
            return f"{MODES[i % len(MODES)]} is {b} instead of {a}"
    return f"it is a {found.layer} instead of a {wanted.layer}"
