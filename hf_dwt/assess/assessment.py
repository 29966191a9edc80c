"""The result of an assessment, as values and as a page to read."""

from dataclasses import asdict, dataclass, field
from typing import Any

from .evidence import StudiedTeacher

STUDIED = "fill-mask"
"""The task of the study that verdicts rest on."""


@dataclass
class Figures:
    """How good a model is on labelled positions (rows).

    loss: cross-entropy in nats.
    accuracy: share of rows predicted right.
    calibration_error: mean distance, over bins of confidence, between the probability of the most likely class and
        the share of rows in which that class is right.
    """

    loss: float
    accuracy: float
    calibration_error: float


@dataclass
class Assessment:
    """What `assess_teacher` found; printed, it is a page to read.

    task: name of the task.
    examples, rows: on how many it was measured.
    unigram: the loss in nats of predicting each token (or class) by its frequency alone: what a teacher must beat.
    teacher: the teacher's figures.
    students: those of the student before training, by how it starts.
    explained: the share of `unigram` that the teacher explains; below 0 it is worse than knowing frequencies.
    verdict: "helps", "helps if faded early" or "too weak".
    suggestion: values of `DistillationArguments` and of `from_weak_teacher` (`init`), and `learning_rate_factor`: how
        much the best learning rate of such a start was above that of training from scratch.
    evidence: the teachers of the study that it rests on: those next to this one in the share that they explain.
    """

    task: str
    examples: int
    rows: int
    unigram: float
    teacher: Figures
    students: dict[str, Figures] = field(default_factory=dict)
    verdict: str = ""
    suggestion: dict[str, Any] = field(default_factory=dict)
    evidence: list[StudiedTeacher] = field(default_factory=list)

    @property
    def explained(self) -> float:
        return explained(self.teacher.loss, self.unigram)

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {**asdict(self), "explained": self.explained}

    def line(self) -> str:
        """In one line, as the trainer prints it."""
        return (
            f"The teacher's loss is {self.teacher.loss:.3f} nats on {self.rows} rows of your data, against "
            f"{self.unigram:.3f} nats of {self._frequencies} alone. Verdict: {self.verdict}{self._caveat}."
        )

    @property
    def _frequencies(self) -> str:
        return f"{'class' if self.task.endswith('-classification') else 'token'} frequencies"

    @property
    def _caveat(self) -> str:
        """What the verdict rests on, where that is another task."""
        return "" if self.task == STUDIED else f" (a guess, from {STUDIED} models)"

    def __str__(self) -> str:
        lines = [f"{self.task}, {self.examples} examples, {self.rows} rows", ""]
        lines += [f"{'':26}{'loss (nats)':>12}{'accuracy':>10}{'calibration error':>19}"]
        lines += [f"{f'{self._frequencies} alone':26}{self.unigram:>12.3f}"]
        named = {"teacher": self.teacher, **{f"student, {name}": found for name, found in self.students.items()}}
        for name, found in named.items():
            lines += [f"{name:26}{found.loss:>12.3f}{found.accuracy:>10.1%}{found.calibration_error:>19.1%}"]
        lines += [
            "",
            f"The teacher explains {self.explained:.0%} of the frequencies' loss. "
            f"Verdict: {self.verdict}{self._caveat}.",
        ]
        lines += ["Suggested: " + ", ".join(f"{name}={value!r}" for name, value in self.suggestion.items())]
        runs = "these runs" if self.task == STUDIED else f"these runs of tiny {STUDIED} models, the only ones studied"
        lines += ["", f"It rests on {runs}: loss at the end against the same steps without a teacher, random start"]
        for row in self.evidence:
            lines += [f"  a teacher that explains {row['explained']:.0%} (its loss {row['loss']:.3f})"]
            gains = sorted(row["gains"].items(), key=lambda item: item[1][0])
            lines += [f"    {name:34}{gain:+.3f} ± {half:.3f} nats" for name, (gain, half) in gains]
        return "\n".join(lines)


def explained(loss: float, unigram: float) -> float:
    """The share of the unigram loss that a model takes away."""
    return 1.0 - loss / unigram if unigram > 0 else 0.0
