"""What the study measured, and what follows from it for a teacher."""

import json
from functools import cache
from pathlib import Path
from typing import Any

EVIDENCE = Path(__file__).with_name("evidence.json")
"""Written by `examples/reproduce_paper.py --report`."""
HELPS, IF_FADED, TOO_WEAK = "helps", "helps if faded early", "too weak"


@cache
def evidence() -> dict[str, Any]:
    """The study's results: `teachers`, a list of {explained, loss, gains: setting -> (nats, half its 95 % interval)};
    `settings`: setting -> arguments; `rates`: init -> the best learning rate."""
    return json.loads(EVIDENCE.read_text(encoding="utf-8"))


def advice(share: float, known: dict[str, Any] | None = None) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Verdict, suggestion and the rows they rest on, for a teacher that explains `share` of the unigram loss.

    The study's teachers next to it on both sides speak for it. It helps if with each of them a constant soft term
    ended lower than none, with its interval; it helps if faded early if "auto" did; else it is too weak. Suggested is
    what ended lowest in their mean.
    """
    known = known or evidence()
    ranked = sorted(known["teachers"], key=lambda row: row["explained"])
    above = next((row for row in ranked if row["explained"] >= share), ranked[-1])
    below = next((row for row in reversed(ranked) if row["explained"] <= share), ranked[0])
    rows = [below] if above is below else [above, below]

    def surely_gains(setting: str) -> bool:
        return all(setting in row["gains"] and sum(row["gains"][setting]) < 0 for row in rows)

    # weaker than any teacher that was tried: nothing is known of it, and there is nothing to know below 0
    if share <= 0 or not (surely_gains("random, constant") or surely_gains("random, auto")):
        verdict = TOO_WEAK
    else:
        verdict = HELPS if surely_gains("random, constant") else IF_FADED
    shared = set.intersection(*(set(row["gains"]) for row in rows))
    if share <= 0:
        shared = {name for name in shared if name == "random, none"}
    best = min(shared, key=lambda name: sum(row["gains"][name][0] for row in rows), default="random, none")
    suggestion = dict(known["settings"].get(best, {"soft_weight": 0.0, "init": "random"}))
    rates = known["rates"]
    suggestion["learning_rate_factor"] = rates[suggestion["init"]] / rates["random"]
    return verdict, suggestion, rows
