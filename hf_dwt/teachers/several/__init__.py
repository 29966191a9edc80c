"""Several teachers, whose distributions are mixed row by row: weightings are one file and one line here each."""

from collections.abc import Mapping, Sequence

from ...errors import DistillationError, TeacherError, raise_all, unknown_name
from ...kinds import Bounds
from ...parts import Reference
from ..composed import Shown, TeacherSource
from ..corrected import CorrectedTeacher
from ..protocol import Teacher
from .choice import WEIGHTINGS, get_weighting, named_teachers, weighting_problems
from .mixing import MixingTeacher
from .policy import ReinforcedSelection, Selecting
from .record import Figures, Weigh
from .rewards import REWARDS

OVER = ("example", "row", "batch")


class SeveralTeachers(Shown):
    """Teachers of one tokenizer, of which the student gets one mixture: `teacher_model=SeveralTeachers([a, b])`.

    sum_k w_k KL(p_k || q) and KL(sum_k w_k p_k || q) differ by terms without the student's q, so that one soft term
    has the gradient of all. `soft_loss` is the latter, and is not to be compared with that of a single teacher.

    The weights read the labels, except for "equal" and numbers; so does the mixture's loss in evaluations then. They
    are made of what the teachers predict before any correction.

    Args:
        teachers: ids, paths, models or other teachers; by name, or in a list, where names are "0", "1" and so on. They
            may differ in size and in the padding of their vocabularies. They may be `SeveralTeachers` themselves.
        weighting: a name of `WEIGHTINGS`; a number from 0 upwards for each teacher; a function from `Figures` and the
            temperature to (n, K) weights; or a `ReinforcedSelection`.
        over: which rows have the same weights: those of an "example", each "row" by itself, or a "batch". That is the
            micro-batch of one process, as in arXiv 2010.05445: it alone depends on how the samples of a step are
            split, and on which of them come together. With examples of several domains in a batch no teacher stands
            out.
        temperature: of the weighting, in nats ("perplexity": in perplexities). Towards 0 the best teacher has all the
            weight, towards infinity all have the same. "equal", numbers and a policy do not read it.

    Raises:
        TeacherError: no teachers, names that are none, an unknown weighting, numbers that are no weights, a function
            that makes none, or a teacher whose correction leaves no distribution.
    """

    same_tokenizer = True
    caches = True
    needs_all_classes = True

    def __init__(
        self,
        teachers: Sequence[TeacherSource] | Mapping[str, TeacherSource],
        weighting: str | Sequence[float] | Weigh | ReinforcedSelection = "cross_entropy",
        over: str = "example",
        temperature: float = 1.0,
    ) -> None:
        named, problems = named_teachers(teachers)
        problems += _unmixable(named)
        if over not in OVER:
            problems.append(unknown_name("over", over, OVER, error=TeacherError))
        if temperature not in Bounds(above=True):
            fix = f"Give a number {Bounds(above=True)}; 1 is the default."
            problems.append(TeacherError("temperature", temperature, "cannot divide cross-entropies.", fix))
            temperature = 1.0  # to see what else is wrong
        if named and not isinstance(weighting, ReinforcedSelection):
            problems += weighting_problems(weighting, len(named), temperature)
        raise_all(problems)
        self.sources: Mapping[str, TeacherSource] = named  # type: ignore[assignment]  # loading checks each
        self.weighting, self.over, self.temperature = weighting, over, temperature
        self._selecting: Selecting | None = None

    @property
    def description(self) -> str:
        """The weighting, as run.json and cards have it."""
        given = self.weighting
        shown = getattr(given, "__name__", None) or (given if isinstance(given, str) else repr(given))
        return f"{shown} over each {self.over}, temperature {self.temperature:g}"

    @property
    def references(self) -> tuple[Reference, ...]:
        """Whose idea the weighting is."""
        if isinstance(self.weighting, ReinforcedSelection):
            return REWARDS[self.weighting.reward].references
        return WEIGHTINGS[self.weighting].references if isinstance(self.weighting, str) else ()

    def opened(self, teachers: Mapping[str, Teacher]) -> Teacher:
        """The mixture of those teachers; of all that are opened, the policy is the same."""
        if not isinstance(self.weighting, ReinforcedSelection):
            return MixingTeacher(teachers, get_weighting(self.weighting), self.over, self.temperature)
        self._selecting = self._selecting or Selecting(self.weighting, len(teachers))
        return MixingTeacher(teachers, self._selecting, self.over, self.temperature)


def _unmixable(teachers: Mapping[str, object]) -> list[DistillationError]:
    found = {name: one for name, one in teachers.items() if isinstance(one, CorrectedTeacher) and not one.mixes}
    problem = "puts a divergence of its own in place of a distribution, which cannot be mixed with others."
    fix = "Correct it by 'revise', or correct the mixture: teacher_correction={!r}."
    return [
        TeacherError(f"teachers[{name!r}].correction", one.correction, problem, fix.format(one.correction))
        for name, one in found.items()
    ]


__all__ = ["WEIGHTINGS", "Figures", "ReinforcedSelection", "SeveralTeachers"]
