"""What reproduce_paper.py runs: its presets, as data. A cell is one training run; a study is a list of cells."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

NONE, CONSTANT, FADE, AUTO = "none", "constant", "knowledge_inheritance", "auto"
INITS = ("random", "remap", "clone")


@dataclass(frozen=True)
class Cell:
    """One training run.

    teacher: a name of `Study.teachers`; the growth starts from it, and it speaks unless `soft` is "none".
    student: a name of `Study.students`.
    init, depth: of `from_weak_teacher`; "teacher" trains the teacher itself on, which is a control.
    soft: the schedule of the soft term, or "none".
    schedule: its parameters.
    weight: soft_weight.
    voice: who speaks: the "teacher"; a control that reads nothing: "smoothing" (label smoothing), "virtual" (0.99 on
        the truth, the rest uniform), "unigram" (the frequencies of the training text, whatever the sentence); or the
        teacher corrected, or with a term on hidden states, by a name of `study.candidates.CANDIDATES`.
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
    def is_taught(self) -> bool:
        """Whether a teacher's predictions or hidden states are used."""
        return self.soft != NONE or self.voice in ("late_to_early", "features", "strong_features")

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
    seeds: of every cell. base_seeds: more of the one that the others are compared with, a random start alone: whatever
        is said of them has its spread, which is the largest.
    rates: learning rates to choose from, rising; the search begins at `first_rate`. teacher_rate: of the teachers.
    """

    teachers: dict[str, tuple[int, int]]
    small: dict[str, int]
    students: dict[str, dict[str, int]]
    steps: int
    batch: int
    length: int
    vocabulary: int
    rates: tuple[float, ...]
    first_rate: float
    teacher_rate: float
    seeds: tuple[int, ...]
    base_seeds: tuple[int, ...] = ()
    groups: dict[str, tuple[Cell, ...]] = field(default_factory=dict)
    model_type: str = "modernbert"
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Cell:
        """A random start without a teacher."""
        return Cell(next(iter(self.teachers)))

    def cells(self, groups: list[str] | None = None) -> list[Cell]:
        """The cells of the groups with every seed, each once; those that tune a rate have their own."""
        wanted: dict[Cell, None] = {}
        for name in groups or self.groups:
            for cell in self.groups[name]:
                own = cell.seed == TUNING_SEED
                seeds = (cell.seed,) if own else self.seeds + self.base_seeds * (cell == self.base)
                wanted |= dict.fromkeys(replace(cell, seed=seed) for seed in seeds)
        return list(wanted)

    def rate(self, cell: Cell, losses: Mapping[str, float]) -> float | Cell:
        """The learning rate of a cell, or the tuning cell that must be run before it is known.

        One step along `rates` at a time, towards lower losses, until both neighbours of the best were tried. Tuning
        cells have a seed that no other cell has, and no soft term.

        Args:
            losses: of the finished cells, by their keys.
        """
        if cell.rate is not None:
            return cell.rate
        student, init, depth, share = cell.start
        teacher = next(iter(self.teachers))  # whichever teacher a start is from, it has one rate
        trials = [Cell(teacher, student, init, depth, rate=rate, share=share, seed=TUNING_SEED) for rate in self.rates]
        tried = [(losses[trial.key], place) for place, trial in enumerate(trials) if trial.key in losses]
        if not tried:
            return trials[self.rates.index(self.first_rate)]
        best = min(tried)[1]
        open_ends = [place for place in (best + 1, best - 1) if 0 <= place < len(trials)]
        return next((trials[p] for p in open_ends if trials[p].key not in losses), self.rates[best])


TUNING_SEED = 1000


KI: dict[str, Any] = {"soft": FADE, "schedule": (("until", 0.3),)}


def _main(teacher: str) -> Iterator[Cell]:
    """The paper's factor 3 in full: initialisation x fading, and what a claim must beat."""
    softs: tuple[dict[str, Any], ...] = ({}, {"soft": CONSTANT}, {"soft": AUTO}, KI)
    for soft in softs:
        for init in INITS:
            yield Cell(teacher, init=init, **soft)
    yield Cell(teacher, soft=CONSTANT, voice="smoothing")
    yield Cell(teacher, soft=CONSTANT, voice="virtual")
    yield Cell(teacher, voice="unigram", **KI)
    yield Cell(teacher, init="teacher", student="small")


def _quality(teachers: Iterable[str]) -> Iterator[Cell]:
    """Factor 1, from a random start and from the teacher's weights, which may be worth less the weaker it is."""
    for teacher in teachers:
        yield Cell(teacher, soft=CONSTANT)
        yield Cell(teacher, soft=AUTO)
        yield Cell(teacher, init="remap")
        yield Cell(teacher, init="remap", soft=AUTO)
        yield Cell(teacher, **KI)


def _weight(teacher: str) -> Iterator[Cell]:
    """Factor 2."""
    for weight in (1.0, 4.0, 0.25):
        yield Cell(teacher, soft=CONSTANT, weight=weight)
    yield Cell(teacher, soft="linear_decay")
    for until in (0.3, 0.1, 1.0):
        yield Cell(teacher, soft=FADE, schedule=(("until", until),))
    yield Cell(teacher, soft="step_off")


def _candidates(teachers: Iterable[str]) -> Iterator[Cell]:
    """What else could make a weak teacher harmless."""
    for teacher in teachers:
        for voice in ("gate", "revision", "confidence"):
            yield Cell(teacher, soft=CONSTANT, voice=voice)


def _revision(teacher: str) -> Iterator[Cell]:
    """Label revision, its refinement, and the control that shifts as much weight to the labels on every row."""
    for soft in (CONSTANT, AUTO):
        for voice in ("revise", "refine", "shifted"):
            yield Cell(teacher, soft=soft, voice=voice)


def _hidden(teacher: str) -> Iterator[Cell]:
    """Terms on hidden states beside none and "auto", and what must not explain them: features that know nothing."""
    for voice in ("late_to_early", "strong_features"):
        for soft in (NONE, AUTO):
            yield Cell(teacher, soft=soft, voice=voice)
    yield Cell(teacher, init="remap", voice="late_to_early")
    for voice in ("random_features", "strong_self_features", "features", "self_features"):
        yield Cell(teacher, voice=voice)


def _starts(teacher: str) -> Iterator[Cell]:
    """Factor 3 in what the main table leaves out: depth, at the same width. ModernBERT cannot be padded exactly."""
    starts: tuple[dict[str, Any], ...] = (
        {"student": "deep", "init": "random"},
        {"student": "deep", "init": "remap"},
        {"student": "deep", "init": "clone", "depth": "append"},
        {"student": "deep", "init": "clone", "depth": "interleave"},
    )
    for start in starts:
        yield Cell(teacher, **start)
        yield Cell(teacher, soft=CONSTANT, **start)
        yield Cell(teacher, **KI, **start)


def _poor(teacher: str, share: float) -> Iterator[Cell]:
    """The student is given less text than its teacher has seen."""
    softs: tuple[dict[str, Any], ...] = ({}, {"soft": CONSTANT}, {"soft": AUTO})
    for init in ("random", "remap"):
        for soft in softs:
            yield Cell(teacher, init=init, share=share, **soft)


def _gpu(model_type: str) -> Study:
    """Grown 4 x 256 to 8 x 512, on 60 MB of text or more; meant for half of 25 minutes of an H100-class card."""
    softs: tuple[dict[str, Any], ...] = ({}, {"soft": CONSTANT}, {"soft": AUTO})
    main = [Cell("good", init=init, **soft) for soft in softs for init in INITS]
    # A card runs many cells at a time, and a search goes one step at a time: what it is likely to ask for, at once.
    likely = {"random": (5e-4, 1e-3, 2e-3), "remap": (1e-3, 2e-3, 4e-3), "clone": (1e-3, 2e-3, 4e-3)}
    tuning = [Cell("good", init=init, rate=rate, seed=TUNING_SEED) for init, tried in likely.items() for rate in tried]
    return Study(
        teachers={"good": (1600, 0), "weak": (500, 0)},
        small={"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
        students={"wide": {"hidden_size": 512, "num_hidden_layers": 8}, "small": {}},
        steps=800,
        batch=64,
        length=128,
        vocabulary=16384,
        rates=(5e-4, 1e-3, 2e-3, 4e-3),
        first_rate=1e-3,
        teacher_rate=2e-3,
        seeds=(0, 1),
        groups={
            "tuning": tuple(tuning),
            "main": tuple(main),
            "quality": (Cell("weak", soft=CONSTANT), Cell("weak", soft=AUTO), Cell("weak", init="remap", soft=AUTO)),
        },
        model_type=model_type,
        arguments={"bf16": True},
    )


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
        rates=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3),
        first_rate=2e-3,
        teacher_rate=4e-3,
        seeds=(0, 1, 2),
        base_seeds=(3, 4, 5, 6, 7),
        groups={
            "main": tuple(_main("good")),
            "quality": tuple(_quality(_CPU_TEACHERS)),
            "weight": tuple(_weight("good")),
            "candidates": tuple(_candidates(("good", "plateau"))),
            "revision": tuple(_revision("good")),
            "hidden": tuple(_hidden("good")),
            "poor": tuple(_poor("good", 0.125)),
            "starts": tuple(_starts("good")),
        },
    ),
    **{name: _gpu(model_type) for name, model_type in (("gpu", "modernbert"), ("gpu-bert", "bert"))},
}
