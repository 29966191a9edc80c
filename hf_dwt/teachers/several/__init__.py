"""Several teachers, whose distributions are mixed row by row: weightings are one file and one line here each."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...errors import TeacherError, unknown_name
from ...forward.calls import Batch
from ...forward.rows import Rows
from ...objective import Targets
from ...objective.chunked import chunks
from ...objective.sparse import SparseTargets
from ...objective.targets import Mixture
from ...parts import registry
from ..composed import TeacherSource
from ..protocol import Teacher
from .cross_entropy import CROSS_ENTROPY
from .equal import EQUAL
from .record import Figures, Weigh, Weighting

WEIGHTINGS: dict[str, Weighting] = registry(CROSS_ENTROPY, EQUAL)
"""Name -> weighting that `SeveralTeachers` may name."""
OVER = ("example", "row", "batch")


class SeveralTeachers:
    """Teachers of one tokenizer, of which the student gets one mixture: `teacher_model=SeveralTeachers([a, b])`.

    Args:
        teachers: ids, paths, models or teachers; by name, or in a list, where names are "0", "1" and so on.
        weighting: a name of `WEIGHTINGS`, a number for each teacher, or a function from `Figures` and the temperature
            to (n, K) weights.
        over: which rows have the same weights: those of an "example", each "row" by itself, or a "batch".
        temperature: of the weighting, in nats.

    Raises:
        TeacherError: no teachers, an unknown weighting, or numbers that are no weights.
    """

    same_tokenizer = True
    caches = True

    def __init__(
        self,
        teachers: Sequence[TeacherSource] | Mapping[str, TeacherSource],
        weighting: str | Sequence[float] | Weigh = "cross_entropy",
        over: str = "example",
        temperature: float = 1.0,
    ) -> None:
        named = teachers if isinstance(teachers, Mapping) else {str(n): one for n, one in enumerate(teachers)}
        self.sources = dict(named)
        if not self.sources:
            raise TeacherError("teachers", teachers, "are none.", "Give ids, paths or models.")
        if over not in OVER:
            raise unknown_name("over", over, OVER, error=TeacherError)
        if isinstance(weighting, str) and weighting not in WEIGHTINGS:
            otherwise = "a number for each teacher, or a function"
            raise unknown_name("weighting", weighting, WEIGHTINGS, otherwise, TeacherError)
        self.weighting, self.over, self.temperature = weighting, over, temperature

    def opened(self, teachers: Mapping[str, Teacher]) -> Teacher:
        """The mixture of those teachers."""
        weigh: Weigh = WEIGHTINGS[self.weighting] if isinstance(self.weighting, str) else self.weighting  # type: ignore[assignment]
        return MixingTeacher(teachers, weigh, self.over, self.temperature)


class MixingTeacher:
    """Several teachers that are run; see `SeveralTeachers`."""

    def __init__(self, teachers: Mapping[str, Teacher], weigh: Weigh, over: str, temperature: float) -> None:
        self.teachers, self.weigh, self.over, self.temperature = dict(teachers), weigh, over, temperature
        self.columns = frozenset[str]().union(*(teacher.columns for teacher in self.teachers.values()))

    def targets(self, batch: Batch, rows: Rows) -> Targets:
        """The mixture for the rows of a batch."""
        parts = [teacher.targets(batch, rows) for teacher in self.teachers.values()]
        if len(chunks(_logits(parts[0]))) == 1:  # made once: the weights are made of them as well
            parts = [part._replace(logits=part.part(slice(None)).logits) for part in parts]
        weights = self.weigh(self._figures(parts, rows), self.temperature)
        return Targets(Mixture(tuple(parts), weights))

    @torch.no_grad()
    def _figures(self, parts: Sequence[Targets], rows: Rows) -> Figures:
        found = [_figures_of(part.cast(), rows.labels) for part in parts]
        groups = {"row": torch.arange(len(rows.labels), device=rows.labels.device), "example": rows.examples}
        group = groups.get(self.over, torch.zeros_like(rows.labels))
        log_probs, entropies = (torch.stack(each, 1) for each in zip(*found, strict=True))
        return Figures(log_probs, entropies, group)


def _logits(targets: Targets):  # type: ignore[no-untyped-def]
    return targets.logits


def _figures_of(targets: Targets, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) log-probability of the label and entropy."""
    logits, truths, entropies = targets.logits, [], []
    assert not isinstance(logits, SparseTargets)
    for rows in chunks(logits):
        log_probs = torch.log_softmax(targets.part(rows).logits, -1)  # type: ignore[arg-type]
        places = labels[rows].clamp(max=log_probs.shape[1] - 1).unsqueeze(1)
        truths.append(log_probs.gather(1, places).squeeze(1))
        entropies.append(-(log_probs.exp() * log_probs).sum(1))
    return torch.cat(truths), torch.cat(entropies)


__all__ = ["WEIGHTINGS", "SeveralTeachers"]
