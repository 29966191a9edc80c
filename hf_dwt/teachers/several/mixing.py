"""Several teachers that are run: one mixture of their distributions for the rows of a batch."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...errors import TeacherError
from ...forward.calls import Batch
from ...forward.rows import Rows
from ...objective import Targets
from ...objective.chunked import chunks
from ...objective.sparse import SparseTargets
from ...objective.targets import Mixture
from ..composed import LearningPart, MadeOf
from ..protocol import Teacher
from .policy import Selecting
from .record import Figures, Weigh


class MixingTeacher(MadeOf):
    """See `SeveralTeachers`.

    Args:
        teachers: by name.
        weigh: their weights, or the policy that chooses among them.
        over: which rows are weighted together.
        temperature: of the weighting.
    """

    def __init__(
        self, teachers: Mapping[str, Teacher], weigh: Weigh | Selecting, over: str, temperature: float
    ) -> None:
        own = {"policy": weigh.part} if isinstance(weigh, Selecting) else dict[str, LearningPart]()
        super().__init__(teachers, own)
        self._weigh, self._over, self._temperature = weigh, over, temperature

    def at(self, progress: float) -> None:
        """See `LearningTeacher`."""
        super().at(progress)
        if isinstance(self._weigh, Selecting):
            self._weigh.at(progress)

    def targets(self, batch: Batch, rows: Rows) -> Targets:
        """The mixture for the rows of a batch.

        Raises:
            TeacherError: a teacher gives a few classes alone.
        """
        parts = _of_same_classes({name: teacher.targets(batch, rows) for name, teacher in self.teachers.items()})
        figures = Figures(parts, rows.labels, self._groups(rows))
        if isinstance(self._weigh, Selecting):
            weights, watch = self._weigh.choose(figures, batch, self.columns, rows)
            return Targets(Mixture(tuple(parts), weights, tuple(self.teachers)), watches=((slice(None), watch),))
        weights = self._weigh(figures, self._temperature)
        return Targets(Mixture(tuple(parts), weights, tuple(self.teachers)))

    def _groups(self, rows: Rows) -> Tensor:
        if self._over == "example":
            return rows.examples
        return torch.arange(len(rows.labels)).to(rows.labels) if self._over == "row" else torch.zeros_like(rows.labels)


def _of_same_classes(parts: Mapping[str, Targets]) -> Sequence[Targets]:
    """Cut to the classes that all have; with the logits of all rows, where these take no more than one chunk."""
    for name, part in parts.items():
        if isinstance(part.logits, SparseTargets):
            problem = "gives a few classes of its distribution, and a mixture is made of all of them."
            raise TeacherError("teachers", name, problem, "Give a teacher with the logits of all classes.")
    shared = min(part.logits.shape[-1] for part in parts.values())
    cut = [part.first(shared) for part in parts.values()]
    first = cut[0].logits
    if isinstance(first, SparseTargets) or len(chunks(first)) > 1:
        return cut
    # The weights and the objective both read them: they are made once.
    return [part if isinstance(part.logits, Mixture) else part.part(slice(None)) for part in cut]
