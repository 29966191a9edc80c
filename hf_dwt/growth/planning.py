"""The plan of a growth, printed before a weight is read or moved."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import GrowthError
from .clone import plan_clone
from .plan import Plan, Step, kind
from .sizes import larger_config
from .teacher import build, open_teacher

EXACT = ("clone", "pad")
"""Strategies that have a plan: the others copy by position and promise nothing."""


@dataclass(frozen=True)
class GrowthPlan:
    """What `from_weak_teacher` would do; `print(plan)` shows it.

    Args:
        teacher: id, path or class name.
        init: name of the strategy.
        config: the student's.
        steps: name of a student's parameter -> how it is made.
        parameters: (teacher's, student's) number of parameters.
        bytes_per_parameter: in the teacher's dtype.
    """

    teacher: str
    init: str
    config: PreTrainedConfig
    steps: Plan
    parameters: tuple[int, int]
    bytes_per_parameter: int

    @property
    def memory(self) -> int:
        """Bytes that teacher and student take together."""
        return sum(self.parameters) * self.bytes_per_parameter

    def __str__(self) -> str:
        rows: dict[tuple[str, ...], tuple[str, str, str, str]] = {}
        for name, step in self.steps.items():
            row = (kind(name), *self._describe(step))
            rows.setdefault(row[:3], row)
        head = ("parameter", "axes (teacher->student)", "map", "gain")
        table = [head, *rows.values()]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        small, large = self.parameters
        summary = f"{self.teacher}: {small:,} -> {large:,} parameters, {self.memory / 2**20:,.0f} MiB for both"
        exact = f"init={self.init}: exact, proven on a tiny proxy; compared again on the student when it is grown"
        return "\n".join([summary, exact, *lines])

    def _describe(self, step: Step) -> tuple[str, str, str]:
        axes = " x ".join(f"({axis})/{'k' if dim in step.summed else '1'}" for dim, axis in enumerate(step.axes))
        grows = any(axis.grows for axis in step.axes)
        what = f"filled with {step.constant:g}" if step.constant is not None else "copied"
        if grows and step.constant is None:
            what = "tiled" if self.init == "clone" else "padded"
        return axes.replace("/1", ""), what, "" if step.gain is None else f"{step.gain.factor:.4g}"


def plan_growth(
    teacher: str | Path | PreTrainedModel,
    *,
    auto_class: Any = None,
    config_overrides: Mapping[str, Any] | None = None,
    init: str = "clone",
    depth: str = "append",
    seed: int = 0,
    from_pretrained: Mapping[str, Any] | None = None,
    **sizes: int | None,
) -> GrowthPlan:
    """Say what an exact growth would do; arguments as of `from_weak_teacher`. No weight of the teacher is read.

    Args:
        from_pretrained: how to find the teacher: revision, token, ...
        **sizes: hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size.

    Raises:
        GrowthNotPreservedError: it would not be exact, naming the axis or module and why.
        GrowthError: sizes that are not legal, or a strategy that has no plan.
    """
    if init not in EXACT:
        raise GrowthError("init", init, "It copies by position and has no plan.", f"Use {' or '.join(EXACT)}.")
    source = open_teacher(teacher, auto_class, from_pretrained or {})
    config = larger_config(source.config, sizes, config_overrides)
    student = build(type(source.skeleton), config, "meta")
    plan = plan_clone(student, source, depth, seed, times=2 if init == "pad" else None)
    counts = source.skeleton.num_parameters(), student.num_parameters()
    return GrowthPlan(source.name, init, student.config, plan, counts, source.skeleton.dtype.itemsize)
