"""The recipe of an exact widening, found by a search on proxies of teacher and student."""

from ...errors import GrowthNotPreservedError
from ..proxy.model import FIX, Proxies, typed_errors
from .mapping import Recipe
from .search import NotFound, Search


def find_recipe(proxies: Proxies, times: int | None = None) -> Recipe:
    """The recipe of an exact widening.

    Args:
        times: what grows is multiplied by this in the proxies, instead of by the student's ratio.

    Raises:
        GrowthNotPreservedError: naming the module or axis and why.
    """
    with typed_errors(proxies.model_class):
        # The same proxies may follow from several ratios.
        question = ("recipe", proxies.larger(times).to_json_string())
        found = proxies.once(question, lambda: _search(proxies, times))
    if isinstance(found, NotFound):
        problem = f"No layout reproduces a tiny proxy: {found.why}."
        raise GrowthNotPreservedError(found.where, proxies.model_class.__name__, problem, FIX) from found
    return found


def _search(proxies: Proxies, times: int | None) -> Recipe | NotFound:
    try:
        return Search(proxies.teacher, proxies.student(times), proxies.batch).run()
    except NotFound as found:
        return found
