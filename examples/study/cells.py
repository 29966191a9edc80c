"""What reproduce_paper.py runs: its presets, as data. A cell is one training run; a study is a list of cells."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

NONE, CONSTANT, FADE, AUTO = "none", "constant", "knowledge_inheritance", "auto"


@dataclass(frozen=True)
class Cell:
    """One training run.

    teacher: a name of `Study.teachers`; the growth starts from it, and it speaks unless `soft` is "none".
    student: a name of `Study.students`.
    init, depth: of `from_weak_teacher`; "teacher" trains the teacher itself on, which is a control.
    soft: the schedule of the soft term, or "none".
    schedule: its parameters.
    weight: soft_weight.
    voice: who speaks: the "teacher", or a control that reads nothing: "smoothing" (label smoothing), "virtual" (0.99
        on the truth, the rest uniform), "unigram" (the frequencies of the training text, whatever the sentence).
    rate: the learning rate; None for the best one of the tuning cells of the same start.
    share: of the training text.
    """

    teacher: str
    student: str = "wide"
    init: str = "random"
    depth: str | None = None
    soft: str = NONE
    schedule: tuple[tuple[str, float | str], ...] = ()
    weight: float = 1.0
    voice: str = "teacher"
    rate: float | None = None
    share: float = 1.0
    seed: int = 0

    @property
    def key(self) -> str:
        """A name that is a function of the values alone."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=6).hexdigest()

    @property
    def start(self) -> tuple[str, str, str | None, float]:
        """Cells of one start share a learning rate: their tuning cells decide it."""
        return self.student, self.init, self.depth, self.share

    def __str__(self) -> str:
        parts = [
            self.teacher,
            self.student,
            self.init,
            self.depth or "",
            self.soft,
            *(f"{v}" for _, v in self.schedule),
        ]
        parts += [f"x{self.weight:g}" * (self.weight != 1), self.voice * (self.voice != "teacher")]
        parts += [f"{self.share:g} of the text" * (self.share != 1), f"rate {self.rate:g}" if self.rate else ""]
        return " ".join(part for part in [*parts, f"seed {self.seed}"] if part)


@dataclass(frozen=True)
class Study:
    """A preset.

    teachers: name -> (optimiser steps, seed); the rate falls to 0 over the steps, so fewer steps leave a weaker one.
    small: sizes of the teachers. students: name -> sizes of a student.
    steps, batch, length: optimiser steps of a run, examples of a step, tokens of an example.
    rates: learning rates to choose from. teacher_rate: of the teachers.
    """

    teachers: dict[str, tuple[int, int]]
    small: dict[str, int]
    students: dict[str, dict[str, int]]
    steps: int
    batch: int
    length: int
    vocabulary: int
    rates: tuple[float, ...]
    teacher_rate: float
    seeds: tuple[int, ...]
    groups: dict[str, tuple[Cell, ...]] = field(default_factory=dict)
    model_type: str = "modernbert"
    arguments: dict[str, Any] = field(default_factory=dict)

    def cells(self, groups: list[str] | None = None) -> list[Cell]:
        """The cells of the groups, each once; the tuning cells that they rest on come first."""
        wanted: dict[Cell, None] = {}
        for name in groups or self.groups:
            for cell in self.groups[name]:
                wanted |= dict.fromkeys(replace(cell, seed=seed) for seed in self.seeds)
        return list(wanted)

    def tuning(self, cells: list[Cell]) -> list[Cell]:
        """Cells that decide the learning rates of `cells`: one seed that no other cell has, without a soft term."""
        starts = {cell.start: cell for cell in cells if cell.rate is None}
        return [
            Cell(first.teacher, *start[:2], depth=start[2], share=start[3], rate=rate, seed=TUNING_SEED)
            for start, first in starts.items()
            for rate in self.rates
        ]


TUNING_SEED = 1000


def _main(teacher: str) -> Iterator[Cell]:
    """The paper's factor 3 in full: initialisation x fading, and what a claim must beat."""
    starts: tuple[dict[str, Any], ...] = ({"init": "random"}, {"init": "remap"}, {"init": "clone"})
    for start in starts:
        yield Cell(teacher, **start)
        yield Cell(teacher, soft=CONSTANT, **start)
        yield Cell(teacher, soft=FADE, schedule=(("until", 0.3),), **start)
        yield Cell(teacher, soft=AUTO, **start)
    yield Cell(teacher, soft=CONSTANT, voice="smoothing")
    yield Cell(teacher, soft=CONSTANT, voice="virtual")
    yield Cell(teacher, soft=FADE, schedule=(("until", 0.3),), voice="unigram")
    yield Cell(teacher, init="teacher", student="small")


def _quality(teachers: dict[str, tuple[int, int]]) -> Iterator[Cell]:
    """Factor 1, with schedules for the weaker ones, from a random start and from the teacher's weights."""
    for teacher in teachers:
        yield Cell(teacher, soft=CONSTANT)
        yield Cell(teacher, soft=CONSTANT, weight=0.25)
        yield Cell(teacher, soft=FADE, schedule=(("until", 0.15),))
        yield Cell(teacher, soft=FADE, schedule=(("until", 0.3),))
        yield Cell(teacher, soft=AUTO)
        yield Cell(teacher, init="clone")
        yield Cell(teacher, init="clone", soft=FADE, schedule=(("until", 0.15),))
        yield Cell(teacher, init="clone", soft=AUTO)


def _weight(teacher: str) -> Iterator[Cell]:
    """Factor 2."""
    for weight in (0.25, 1.0, 4.0):
        yield Cell(teacher, soft=CONSTANT, weight=weight)
    yield Cell(teacher, soft="linear_decay")
    for until in (0.1, 0.3, 0.5, 1.0):
        yield Cell(teacher, soft=FADE, schedule=(("until", until),))
    yield Cell(teacher, soft="step_off")


def _depth(teacher: str) -> Iterator[Cell]:
    """Factor 3 in depth: the same width, twice the layers."""
    starts: tuple[dict[str, Any], ...] = (
        {"init": "random"},
        {"init": "remap"},
        {"init": "clone", "depth": "append"},
        {"init": "clone", "depth": "interleave"},
    )
    for start in starts:
        yield Cell(teacher, student="deep", **start)
        yield Cell(teacher, student="deep", soft=FADE, schedule=(("until", 0.3),), **start)
        yield Cell(teacher, student="deep", soft=AUTO, **start)


def _poor(teacher: str, share: float) -> Iterator[Cell]:
    """The student is given less text than its teacher has seen."""
    for init in ("random", "clone"):
        yield Cell(teacher, init=init, share=share)
        yield Cell(teacher, init=init, share=share, soft=CONSTANT)
        yield Cell(teacher, init=init, share=share, soft=FADE, schedule=(("until", 0.3),))
        yield Cell(teacher, init=init, share=share, soft=AUTO)


_CPU_TEACHERS = {"good": (1500, 0), "fair": (1000, 0), "weak": (850, 0), "plateau": (600, 0)}
PRESETS = {
    "cpu": Study(
        teachers=_CPU_TEACHERS,
        small={"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        students={"wide": {"hidden_size": 128}, "deep": {"num_hidden_layers": 4}, "small": {}},
        steps=1500,
        batch=32,
        length=64,
        vocabulary=512,
        rates=(1e-3, 2e-3, 4e-3),
        teacher_rate=4e-3,
        seeds=(0, 1, 2),
        groups={
            "main": tuple(_main("good")),
            "quality": tuple(_quality(_CPU_TEACHERS)),
            "weight": tuple(_weight("good")),
            "depth": tuple(_depth("good")),
            "poor": tuple(_poor("good", 0.125)),
        },
    ),
}
