"""What the study measured, and what follows from it for a teacher."""

import json
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

EVIDENCE = Path(__file__).with_name("evidence.json")
"""Written by `examples/reproduce_paper.py --report`."""
HELPS, IF_FADED, TOO_WEAK = "helps", "helps if faded early", "too weak"
CONSTANT, AUTO = "random, constant", "random, auto"  # the settings that decide


Gain = tuple[float, float]
"""Change of the loss at the end in nats, negative where it is lower, and half of its 95 % interval."""


class StudiedTeacher(TypedDict):
    """A teacher of the study: its loss, the share of the unigram loss that it explains, and setting -> gain."""

    name: str
    loss: float
    explained: float
    gains: dict[str, Gain]


class Evidence(TypedDict):
    """The study's results. settings: setting -> arguments; rates: init -> the best learning rate."""

    teachers: list[StudiedTeacher]
    settings: dict[str, dict[str, Any]]
    rates: dict[str, float]


@cache
def evidence() -> Evidence:
    """The study's results that are shipped."""
    found: Evidence = json.loads(EVIDENCE.read_text(encoding="utf-8"))
    return found


def advice(share: float, known: Evidence | None = None) -> tuple[str, dict[str, Any], list[StudiedTeacher]]:
    """Verdict, suggestion and the teachers of the study that they rest on.

    What the teacher would gain is interpolated between the two teachers of the study next to it; one better than all
    of them counts as the best. It "helps" if a constant soft term then ends lower than none by more than its interval;
    it "helps if faded early" if the adaptive schedule does; otherwise it is "too weak", as is a teacher that explains
    less than every one that was tried. The suggestion is the setting with the largest gain.

    Args:
        share: of the unigram loss, that the teacher explains.
        known: the results to read; by default those that are shipped.
    """
    known = known or evidence()
    ranked = sorted(known["teachers"], key=lambda row: row["explained"])
    above = next((row for row in ranked if row["explained"] >= share), ranked[-1])
    below = next((row for row in reversed(ranked) if row["explained"] <= share), ranked[0])
    rows = [below] if above is below else [above, below]
    gains = _between(share, above, below) if share >= ranked[0]["explained"] else {}
    surely = {name for name, (gain, half) in gains.items() if gain + half < 0}
    verdict = HELPS if CONSTANT in surely else IF_FADED if AUTO in surely else TOO_WEAK
    best = min(gains, key=lambda name: gains[name][0], default="")
    suggestion = dict(known["settings"].get(best, {"init": "random", "soft_weight": 0.0}))
    suggestion["learning_rate_factor"] = known["rates"][suggestion["init"]] / known["rates"]["random"]
    return verdict, suggestion, rows


def _between(share: float, above: StudiedTeacher, below: StudiedTeacher) -> dict[str, Gain]:
    """Setting -> gain, on the straight line between two teachers, where both were measured."""
    span = above["explained"] - below["explained"]
    part = (share - below["explained"]) / span if span else 1.0

    def between(better: float, worse: float) -> float:
        return part * better + (1.0 - part) * worse

    pairs = {name: (above["gains"][name], below["gains"][name]) for name in above["gains"] if name in below["gains"]}
    return {name: (between(one[0], two[0]), between(one[1], two[1])) for name, (one, two) in pairs.items()}
