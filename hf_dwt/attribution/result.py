"""The result of an attribution: scores of training examples for queries, and what is read from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError, raise_all
from ..kinds import COUNT, FUNCTION, Bounds

SHARES = Bounds(0, 1, above=True)


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much each training example taught a model each answer.

    Args:
        scores: (examples, queries) in nats per unit of learning rate: by how much, to first order, one step of
            gradient descent on the summed loss of an example would lower the summed loss of a query. Examples with the
            highest scores taught the answer, those below 0 worked against it.
        rows: (examples,) labelled positions of each.
    """

    scores: np.ndarray
    rows: np.ndarray

    @property
    def by_example(self) -> np.ndarray:
        """(examples,) means over the queries."""
        means: np.ndarray = self.scores.mean(1, dtype=np.float64)
        return means

    def top(self, share: float) -> list[int]:
        """The indices of this share of the examples with the highest scores, the highest first; at least one.

        Args:
            share: above 0, up to 1.

        Raises:
            ArgumentError: it is no such share.
        """
        return [int(index) for index in self._order()[: self._count(share)]]

    def rest(self, share: float) -> list[int]:
        """The indices of all examples but those of `top`, in the order of the data set.

        Args:
            share: above 0, up to 1.

        Raises:
            ArgumentError: it is no such share.
        """
        return sorted(int(index) for index in self._order()[self._count(share) :])

    def table(self, count: int = 10, show: Callable[[int], object] | None = None) -> str:
        """A Markdown table of the examples with the highest scores.

        Args:
            count: of its lines.
            show: from the index of an example to what is shown of it, such as its text.

        Raises:
            ArgumentError: no such count, or no function.
        """
        given = {"count": count, "show": show}
        kinds = {"count": COUNT, "show": FUNCTION.or_none()}
        raise_all([kind.error(name, given[name]) for name, kind in kinds.items() if not kind.is_right(given[name])])
        means, best = self.by_example, self.scores.argmax(1)
        lines = ["| example | score | query of its highest score | rows |", "|---|---|---|---|"]
        lines = [f"{line}{' text |' if n == 0 else '---|'}" if show else line for n, line in enumerate(lines)]
        for index in map(int, self._order()[:count]):
            cells = [str(index), f"{means[index]:.4g}", str(best[index]), str(self.rows[index])]
            cells += [_in_one_cell(show(index))] if show else []
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _order(self) -> np.ndarray:
        order: np.ndarray = np.argsort(-self.by_example, kind="stable")
        return order

    def _count(self, share: float) -> int:
        if share not in SHARES:
            raise ArgumentError("share", share, "is no share of the examples.", f"Give a number {SHARES}.")
        return max(1, round(share * len(self.scores)))


def _in_one_cell(value: Any, most: int = 80) -> str:
    text = " ".join(str(value).split()).replace("|", "\\|")
    return text if len(text) <= most else f"{text[: most - 3]}..."
