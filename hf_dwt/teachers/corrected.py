"""A teacher with a correction of its own."""

from collections.abc import Mapping

import torch

from ..errors import ArgumentError, TeacherError
from ..forward.calls import Batch
from ..forward.rows import Rows
from ..objective import Targets
from ..objective.corrections import CORRECTIONS, get_correction
from ..objective.targets import Correct
from ..parts import Reference
from .composed import MadeOf, Shown, TeacherSource
from .protocol import Teacher


class CorrectedTeacher(Shown):
    """One teacher, whose predictions are corrected row by row: `CorrectedTeacher(source, "revise", eta=0.8)`.

    A single teacher of a run has the same by `teacher_correction`; this is for one of several.

    Args:
        source: id, path, model or another teacher.
        correction: a name of `hf_dwt.objective.corrections.CORRECTIONS`, or a function; as `teacher_correction`.
        **parameters: of the correction; as `teacher_correction_kwargs`.

    Raises:
        ArgumentError: unknown correction or parameter, or one out of its bounds.
        TeacherError: the source is corrected already.
    """

    same_tokenizer = True
    caches = True
    needs_all_classes = True

    def __init__(self, source: TeacherSource, correction: str | Correct, **parameters: object) -> None:
        if isinstance(source, CorrectedTeacher):
            fix = "Give the teacher itself, and one function that corrects twice."
            raise TeacherError("source", source, "has a correction already, and a row is corrected once.", fix)
        self.sources: Mapping[str, TeacherSource] = {"": source}
        self.correction, self.parameters = correction, parameters
        try:
            correct = get_correction(correction, parameters)
        except ArgumentError as error:  # under the names that it has here
            name = error.argument.replace("teacher_correction_kwargs", "parameters")
            name = name.replace("teacher_correction", "correction")
            raise ArgumentError(name, error.value, error.problem, error.fix) from error
        assert correct is not None
        self._correct: Correct = correct

    @property
    def description(self) -> str:
        """The correction, as run.json and cards have it."""
        given = self.correction
        name = given if isinstance(given, str) else getattr(given, "__name__", "a function")
        return f"corrected by {name}" + (f" with {self.parameters}" if self.parameters else "")

    @property
    def references(self) -> tuple[Reference, ...]:
        """Whose idea the correction is."""
        return CORRECTIONS[self.correction].references if isinstance(self.correction, str) else ()

    @property
    def mixes(self) -> bool:
        """Whether a distribution is left, which can be mixed with those of other teachers."""
        few = torch.zeros(3, 5)
        return self._correct(few, few, torch.arange(3), 0.5).divergence is None

    def opened(self, teachers: Mapping[str, Teacher]) -> Teacher:
        """That teacher with the correction."""
        return _Correcting(teachers, self._correct)


class _Correcting(MadeOf):
    def __init__(self, teachers: Mapping[str, Teacher], correct: Correct) -> None:
        super().__init__(teachers)
        (self._teacher,) = teachers.values()
        self._correct = correct

    def targets(self, batch: Batch, rows: Rows) -> Targets:
        return self._teacher.targets(batch, rows)._replace(correct=self._correct)
