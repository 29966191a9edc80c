"""What was measured of exact growth, counted and written as a file of data and as a page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.coverage.drawn import SETTINGS
from benchmarks.coverage.growths import growths
from benchmarks.coverage.refusals import WHY_NOT


def verdict(by_setting: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """(status, "exact of measured") of the entries of one type and growth, one for each setting.

    "exact" or "declared" where all are; "partly" where some are; else "refused".
    """
    exact = [entry["status"] for entry in by_setting.values() if entry["status"] != "refused"]
    status = "refused" if not exact else "partly" if len(exact) < len(by_setting) else exact[0]
    return status, f"{len(exact)} of {len(by_setting)}"


def totals(coverage: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Task -> growth -> "exact or declared at every setting, of all"."""
    return {
        task: {
            growth: f"{sum(verdict(e[growth])[0] in ('exact', 'declared') for e in known.values())} of {len(known)}"
            for growth in growths()
            if all(growth in e for e in known.values())
        }
        for task, known in coverage["growths"].items()
    }


def page(coverage: Mapping[str, Any], text: str) -> str:
    """The table as Markdown: `text`, totals, and a row for each type."""
    lines = ["# Which architectures grow exactly", "", text.split("\n\n", 1)[1].strip(), ""]
    titles = " | ".join(map(str, growths().values()))
    drawn = [one for known in coverage["sizes"].values() for one in known.values()]
    built = [one for one in drawn if one]
    never = sum(all(sizes is None for sizes in one.values()) for one in built)
    lines += [
        f"{len(drawn)} types; {len(drawn) - len(built)} could not be built, {never} accept no sizes but the first.",
        "",
        "Written by `make coverage` from `benchmarks/coverage/coverage.json`, which holds the drawn sizes.",
        "",
        f"| map | {titles} |",
        "|---" * (1 + len(growths())) + "|",
    ]
    for task, found in sorted(totals(coverage).items()):
        lines.append(f"| {task} | " + " | ".join(found.get(growth, "") for growth in growths()) + " |")
    for task, entries in sorted(coverage["growths"].items()):
        lines += ["", f"## {task}", "", f"| type | {titles} | refused because |"]
        lines.append("|---" * (2 + len(growths())) + "|")
        for model_type, by_growth in sorted(entries.items()):
            status = " | ".join(_shown(by_growth.get(growth, {}), task) for growth in growths())
            lines.append(f"| {model_type} | {status} | {_why(model_type, by_growth)} |")
    return "\n".join(lines) + "\n"


def _shown(by_setting: Mapping[str, Mapping[str, Any]], task: str) -> str:
    if not by_setting:
        return "not measured"
    status, count = verdict(by_setting)
    if status == "refused":
        return status
    unproven = any(entry["unproven"] for entry in by_setting.values())
    path = "" if not unproven else " (image path)" if task == "image-classification" else " (text path)"
    return f"{status}, {count}{path}"


def _why(model_type: str, by_growth: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The fact of the architecture, and of each growth the reason of the first setting at which it is not exact; empty
    where all are."""
    if all(verdict(by_setting)[0] in ("exact", "declared") for by_setting in by_growth.values()):
        return ""
    reasons = [WHY_NOT.get(model_type, "")]
    for growth, by_setting in by_growth.items():
        setting, reason = next(((s, e["reason"]) for s, e in by_setting.items() if e["reason"]), ("", ""))
        partly = reason and verdict(by_setting)[0] == "partly"
        reasons.append(f"{growth.capitalize()}, {setting}: {reason}" if partly else reason)
    return " ".join(dict.fromkeys(filter(None, reasons))).replace("|", "/").replace("\n", " ")


def write(coverage: Mapping[str, Any], path: Path) -> None:
    """Write the data, sorted, a line for each entry."""

    def lines(value: Any, depth: int, indent: str = "") -> str:
        if not depth or not isinstance(value, dict):
            return json.dumps(value, sort_keys=True)
        inner = ",\n".join(f"{indent} {json.dumps(k)}: {lines(v, depth - 1, indent + ' ')}" for k, v in _sorted(value))
        return f"{{\n{inner}\n{indent}}}" if inner else "{}"

    data = {"sizes": coverage["sizes"], "growths": coverage["growths"]}
    whole = ",\n".join(f' "{key}": {lines(value, 4 if key == "growths" else 3, " ")}' for key, value in data.items())
    path.write_text(f"{{\n{whole}\n}}\n", encoding="utf-8")


def _sorted(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    order = {name: str(i) for i, name in enumerate((*SETTINGS, *growths()))}
    return sorted(values.items(), key=lambda item: order.get(item[0], item[0]))
