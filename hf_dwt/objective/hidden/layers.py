"""Which layers a term on hidden states compares, by number; no model.

A layer is a number from 1 to the depth, its output as it is added up; a number from -depth to -1, counted from the
last; or "last", what the whole body puts out, which is behind its final norm.
"""

import json
from collections.abc import Mapping, Sized
from typing import NamedTuple

from ...errors import ArgumentError

LAST = "last"
MAPPED = "mapped"
"""What supervises a layer of the student by default: the teacher's last layer, or the one that it was made from."""

Layer = int | str
Pair = tuple[Layer, Layer]
"""(the student's layer, the layer that supervises it)."""


class Depths(NamedTuple):
    """What is known of the layers of two models.

    student: how many the student has.
    supervisor: how many the model has that supervises.
    made_from: the supervisor's layer, 1 to `supervisor`, that each of the student's was made from; empty where that is
        not known.
    """

    student: int
    supervisor: int
    made_from: tuple[int, ...] = ()

    def map(self) -> dict[int, int]:
        """The supervisor's layer of each layer of the student that has one.

        A layer of the student stands for the supervisor's layer i where it is the last before the first that was made
        from layer i + 1: identity layers in between put out what the layer before them does. The last layers belong
        together. Where it is not known what was made from what, layers at equal shares of the depth do.
        """
        of = {self.student: self.supervisor}
        begun = 1
        for place, source in enumerate(self.made_from, 1):
            if source == begun + 1:
                of[place - 1] = begun
                begun = source
        if not self.made_from or begun < self.supervisor:
            shares = ((max(1, round(i * self.student / self.supervisor)), i) for i in range(1, self.supervisor + 1))
            of = dict(shares)
        return dict(sorted(of.items()))

    def opposite(self, layer: Layer) -> Layer:
        """The supervisor's layer for one of the student's: of the map, or at an equal share of the depth."""
        if not isinstance(layer, int):
            return LAST
        return self.map().get(layer) or max(1, round(layer * self.supervisor / self.student))


def read_layers(given: object) -> list[Layer | Pair] | None:
    """What `hidden_layers` may be, as a list of the student's layers or of pairs.

    Args:
        given: a dict from the student's layers to those that supervise them, a list of such pairs, a list of the
            student's layers, or any of these as JSON.

    Raises:
        ArgumentError: it is none of them.
    """
    value = given
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            fix = f"{_FORMS} In JSON it is '{{\"1\": 2}}', '[[1, 2]]' or '[1]'."
            raise ArgumentError("hidden_layers", given, f"is not JSON ({error}).", fix) from error
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = list(value.items())
    if not isinstance(value, list | tuple | range) or not value:
        problem = "names no layers." if isinstance(value, Sized) and not len(value) else "is no list of layers."
        raise ArgumentError("hidden_layers", given, problem, _FORMS)
    found: list[Layer | Pair] = []
    for item in value:
        parts = [_layer(part) for part in item] if isinstance(item, list | tuple) else [_layer(item)]
        one, other = parts[0] if parts else None, parts[-1] if parts else None
        if one is None or other is None or len(parts) > 2:
            raise ArgumentError("hidden_layers", given, f"has {item!r}, which is no layer and no pair of two.", _FORMS)
        found.append(one if len(parts) == 1 else (one, other))
    return found


_FORMS = (
    "Give {student's layer: teacher's layer}, pairs of them, or a list of the student's layers; "
    "a layer is a number from 1 on, one below 0 from the last, or 'last'."
)


def _layer(value: object) -> Layer | None:
    """A layer as it was given, in JSON perhaps as the text of a number; None where it is none."""
    if value == LAST:
        return LAST
    if isinstance(value, str) and value.removeprefix("-").isdecimal():
        value = int(value)
    return value if type(value) is int and value != 0 else None


def numbered(layer: Layer, depth: int) -> Layer | None:
    """That layer as a number from 1 to the depth, or "last"; None where the model has none of that number."""
    if not isinstance(layer, int):
        return layer
    number = layer if layer > 0 else depth + 1 + layer
    return number if 1 <= number <= depth else None
