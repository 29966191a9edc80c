"""Where the layers of a deeper student come from, and how new ones become identity layers."""

from transformers import PreTrainedModel

from ..proxy.batches import Batch, random_batch
from ..proxy.model import proxy, typed_errors
from ..proxy.shrink import shrink
from .identity import Identity, find_identity
from .rules import DEPTHS, Deepening, Origin, layer_lists, match_kinds, signature


def find_deepening(teacher: PreTrainedModel, student: PreTrainedModel, rule: str, seed: int = 0) -> Deepening:
    """Where the layers of a deeper student come from; new ones are identities.

    Args:
        teacher: may lie on the meta device, as the student may.
        rule: a key of `depth.DEPTHS`.

    Raises:
        GrowthError: the layers cannot be made identities, or have no layer of their kind to be made from.
    """
    lists = layer_lists(teacher, student)
    origins = {path: match_kinds(DEPTHS[rule](old, new), path, teacher, student) for path, (old, new) in lists.items()}
    if not any(new for origin in origins.values() for _, new in origin):
        return Deepening(origins, {})
    with typed_errors(type(teacher)):
        small = proxy(type(teacher), shrink(teacher.config), seed)
        batch = random_batch(small, seed)
        identities = {path: _identity(small, batch, path, teacher, origin) for path, origin in origins.items()}
    return Deepening(origins, identities)


def _identity(
    small: PreTrainedModel, batch: Batch, path: str, teacher: PreTrainedModel, origin: list[Origin]
) -> Identity:
    """How layers of the kinds from which new ones are made become identities."""
    layers = list(teacher.get_submodule(path).children())
    sources = {signature(layers[source]) for source, new in origin if new}
    return find_identity(small, batch, path, lambda layer: signature(layer) in sources)
