"""What the study measured, and what follows from it for a teacher."""

import json
from functools import cache
from pathlib import Path
from typing import Any

EVIDENCE = Path(__file__).with_name("evidence.json")
"""Written by `examples/reproduce_paper.py --report`."""
HELPS, IF_FADED, TOO_WEAK = "helps", "helps if faded early", "too weak"
CONSTANT, AUTO = "random, constant", "random, auto"  # the settings that decide


@cache
def evidence() -> dict[str, Any]:
    """The study's results: `teachers`, a list of {explained, loss, gains: setting -> (nats, half its 95 % interval)};
    `settings`: setting -> arguments; `rates`: init -> the best learning rate."""
    return json.loads(EVIDENCE.read_text(encoding="utf-8"))


def advice(share: float, known: dict[str, Any] | None = None) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Verdict, suggestion and the rows they rest on, for a teacher that explains `share` of the unigram loss.

    What it would gain is read between the study's teachers next to it on both sides; one better than them all is
    taken for the best. It helps if so a constant soft term ends lower than none, by more than its interval; it helps
    if faded early if "auto" does; else it is too weak, as is whoever knows less than any teacher that was tried.
    Suggested is what gains most.
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


def _between(share: float, above: dict[str, Any], below: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Setting -> (gain, half its interval), on the straight line between two teachers, where both were measured."""
    span = above["explained"] - below["explained"]
    part = (share - below["explained"]) / span if span else 1.0
    return {
        name: tuple(part * one + (1.0 - part) * other for one, other in zip(found, below["gains"][name], strict=True))
        for name, found in above["gains"].items()
        if name in below["gains"]
    }
