"""Where the layers of a deeper student come from, and how new ones become identity layers."""

from transformers import PreTrainedModel

from ..proxy.model import Proxies, typed_errors
from .identity import Identity, find_identity
from .rules import DEPTHS, Deepening, Origin, layer_lists, match_kinds, signature


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
