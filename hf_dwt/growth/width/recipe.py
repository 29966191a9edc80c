"""The recipe of an exact widening, found by a search on proxies of teacher and student."""

from typing import Any

from transformers import PreTrainedConfig

from ...errors import GrowthNotPreservedError
from ..checkpoint import build
from ..config.declared_layouts import LAYOUTS
from ..proxy.batches import random_batch
from ..proxy.model import FIX, proxy, typed_errors
from ..proxy.scale import scaled
from ..proxy.shrink import shrink
from .layouts import model_types
from .mapping import Recipe
from .search import NotFound, Search

_KNOWN: dict[Any, Recipe | NotFound] = {}
"""What the last search found."""


def find_recipe(
    model_class: Any, old: PreTrainedConfig, new: PreTrainedConfig, seed: int = 0, times: int | None = None
) -> Recipe:
    """The recipe of an exact widening of `model_class` from `old` to `new`, found on tiny proxies.

    Args:
        times: what grows is multiplied by this in the proxy, instead of by the ratio of `new` and `old`.

    Raises:
        GrowthNotPreservedError: naming the module or axis and why.
    """
    with typed_errors(model_class):
        small = shrink(old)
        large = scaled(small, old, new, times)
        # Cloning and padding ask for the same proxies, one after the other.
        key = (
            model_class,
            small.to_json_string(),
            large.to_json_string(),
            seed,
            repr([LAYOUTS.get(name) for name in model_types(old)]),
        )
        if key not in _KNOWN:
            _KNOWN.clear()
            teacher, student = proxy(model_class, small, seed), build(model_class, large, "cpu").float().eval()
            try:
                _KNOWN[key] = Search(teacher, student, random_batch(teacher, seed)).run()
            except NotFound as found:
                _KNOWN[key] = found
    if isinstance(known := _KNOWN[key], NotFound):
        problem = f"No layout reproduces a tiny proxy: {known.why}."
        raise GrowthNotPreservedError(known.where, model_class.__name__, problem, FIX) from known
    return known
