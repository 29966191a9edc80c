"""A plan is carried out: the student is filled and reported, in memory or in its folder."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from .arguments import Arguments, errors_about
from .building import own_randomness
from .checkpoint import Teacher
from .report import GrowthReport, Outcome
from .strategies import INITS
from .strategy import Choice, Strategy
from .student import changed_numbers
from .vocabulary.new_rows import NewRows, Shares, without_new_rows
from .vocabulary.transplant import MEANS, Transplant
from .width.mapping import Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What carrying out a plan needs beside it; no weight of the teacher has been read.

    Args:
        origin: the teacher.
        transplant: gives it the vocabulary of another tokenizer; None where it keeps its own.
        source: the teacher with that vocabulary.
        teacher: the same, with as many rows of tokens and positions as the student has.
        shares: of elements with new rows.
        strategy: which fills the student; of "auto" that which chooses.
        steps: what the strategy planned.
        options: of the strategy.
        rest: its name, for the report.
        new_rows: what the rows of new tokens hold.
        arguments: the caller's.
    """

    origin: Teacher
    transplant: Transplant | None
    source: Teacher
    teacher: Teacher
    shares: Shares
    strategy: Strategy
    steps: Plan | Choice
    options: Mapping[str, object]
    rest: str
    new_rows: NewRows
    arguments: Arguments

    @property
    def seed(self) -> int:
        """Of all that is random."""
        return int(self.arguments["seed"])


def carry_out(work: Work, initialised: Callable[..., PreTrainedModel]) -> tuple[PreTrainedModel, GrowthReport]:
    """The student in evaluation mode, filled, and what became of it.

    Args:
        initialised: makes the student before it is filled, with its own initialisation; under `skip=True` without.

    Raises:
        GrowthError: weights that cannot be read, or with which an exact strategy is not exact.
    """
    with errors_about(work.arguments):
        student = initialised(skip=work.strategy.writes_all)
        given = {"steps": work.steps, "build_again": initialised}
        with own_randomness(work.seed):
            filled = work.strategy.fill(student, work.teacher, {**work.options, **given})
    outcome = filled if isinstance(filled, Outcome) else Outcome(filled)
    if outcome.difference is not None and math.isnan(outcome.difference):
        outcome = replace(outcome, difference=None, notes=(*outcome.notes, UNMEASURED))
    outcome = replace(outcome, parameters=without_new_rows(outcome.parameters, work.shares))
    return student.eval(), _report(work, student, outcome)


UNMEASURED = "the outputs of teacher and student were not compared: this was proven on a tiny model alone"
"""A note of a student that its folder alone holds, where its class cannot be run from there."""


def _report(work: Work, student: PreTrainedModel, outcome: Outcome) -> GrowthReport:
    source, parameters = work.source, outcome.parameters
    untrained = tuple(sorted(source.untrained)) if any(s.name for s in parameters.values()) else ()
    if untrained:
        logger.warning(
            "%d parameters are not in the teacher's checkpoint, so the student's are not the teacher's either: %s. "
            "If the checkpoint was trained for another task, name its class in auto_class.",
            len(untrained),
            ", ".join(untrained),
        )
    chosen = INITS.get(outcome.init, work.strategy)
    return GrowthReport(
        teacher=source.name,
        init=work.strategy.name,
        rest=work.rest,
        seed=work.seed,
        sizes=changed_numbers(work.origin.config, student.config),
        parameters=parameters,
        untrained=untrained,
        preserved=outcome.preserved,
        difference=outcome.difference,
        notes=outcome.notes,
        unproven=outcome.unproven,
        references=(*chosen.references, *((MEANS,) if work.transplant else ())),
        tokens=work.transplant.rows.counts if work.transplant else None,
        adapter=source.adapter,
        base_model=source.base_model,
        tiled=chosen.tiles,
    )
