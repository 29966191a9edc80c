"""What is done with each kind of parameter, in the lines that a plan prints."""

import re
from collections import Counter
from collections.abc import Sequence

from torch import nn

from .origins import every_tensor
from .strategy import Strategy
from .width.mapping import Plan, Step, kind


def parameter_lines(steps: Plan, strategy: Strategy, teacher: nn.Module) -> list[str]:
    """A title, a line for each kind of parameter (its axes, and what is done with it), and what the words mean.

    Args:
        steps: name of a student's parameter or buffer -> how it is made.
        strategy: which does it.
        teacher: before it has new rows or another vocabulary.
    """
    rows: dict[tuple[str, str, str], list[str]] = {}
    theirs = every_tensor(teacher)
    for name, step in steps.items():
        old = theirs[step.source].shape if step.source in theirs else None
        rows.setdefault((kind(name), _axes(step, old), _action(strategy, step)), []).append(name)
    if not rows:
        return []
    kinds = Counter(name for name, _, _ in rows)
    table = [("parameters", "teacher->student", "")]
    for (name, axes, action), members in rows.items():
        table.append((f"  {name if kinds[name] == 1 else _with_layers(name, members)}", axes, action))
    widths = [max(len(row[i]) for row in table) for i in range(2)]
    lines = [f"{name:<{widths[0]}}  {axes:<{widths[1]}}  {action}".rstrip() for name, axes, action in table]
    legend = {strategy.verb: strategy.meaning, **_LEGEND}
    body = "\n".join(lines[1:])
    return [*lines, *(f"({word.strip()}: {meaning})" for word, meaning in legend.items() if meaning and word in body)]


_LEGEND = {
    "filled": "so that new layers are identity layers, which return what they read",
    "|": "blocks of one axis, each of which grows by itself",
    " in ": "an axis that is summed over",
}


def _with_layers(name: str, members: list[str]) -> str:
    """A kind of parameter with the numbers of its layers: "layers.2-3.weight"."""
    layers = sorted({int(found[1]) for member in members if (found := re.search(r"\.(\d+)\.", member))})
    starts = [n for n in layers if n - 1 not in layers]
    ends = [n for n in layers if n + 1 not in layers]
    runs = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return name.replace("*", ",".join(runs), 1)


def _axes(step: Step, old: Sequence[int] | None) -> str:
    """Lengths of the axes, "teacher's->student's" where one grows: "512 x 64->128".

    Args:
        old: the teacher's; None of a parameter that the student unties.
    """
    shown = []
    for dim, axis in enumerate(step.axes):
        if old is not None and old[dim] != axis.old:
            shown.append(f"{old[dim]}->{axis.new} with new rows")
            continue
        blocks = [f"{part.old}->{part.new}" if part.new != part.old else f"{part.old}" for part in axis.segments]
        shown.append("|".join(blocks) + (" in" if axis.grows and dim in step.summed else ""))
    return " x ".join(shown)


def _action(strategy: Strategy, step: Step) -> str:
    """What is done with a parameter."""
    if step.constant is not None:
        return f"filled with {step.constant:g}"
    action = strategy.verb if any(axis.grows for axis in step.axes) else "copied"
    action += ", new outputs from the layer above" if step.above is not None else ""
    return action if step.gain is None else f"{action}, times {step.gain.factor:.4g}"
