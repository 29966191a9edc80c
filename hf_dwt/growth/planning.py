"""The plan of a growth, printed before a weight is read or moved."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import DistillationError, GrowthError, raise_all, unknown_name
from .aki import plan_aki
from .clone import plan_clone
from .depth import DEPTHS, order
from .pad import pad_init, plan_pad
from .plan import Plan, Step, kind
from .proof import proxy, scaled
from .remap import keep_init
from .shrink import shrink
from .sizes import grown_part, larger_config, stream_width
from .student import check_shapes
from .tables import own_rows, with_new_rows
from .teacher import Teacher, build, open_teacher

PROMISES = {
    "random": "not exact: the class's own initialisation, nothing of the teacher is read",
    "remap": "not exact: the overlap with the teacher's parameters is copied, outputs will differ",
    "clone": "exact, proven on a tiny proxy; compared again on the student when it is grown",
    "pad": "exact, proven on a tiny proxy; compared again on the student when it is grown",
    "aki": "not exact: new outputs are those of the layer above",
}
"""What each strategy says of the outputs."""


@dataclass(frozen=True)
class GrowthPlan:
    """What `from_weak_teacher` would do; `print(plan)` shows it.

    Args:
        teacher: id, path or class name.
        init: name of the strategy; of "auto" the one it would choose.
        config: the student's.
        steps: name of a student's parameter -> how it is made; empty where the strategy goes by position alone.
        parameters: (teacher's, student's) number of parameters.
        bytes_per_parameter: in the teacher's dtype.
        notes: what "auto" would choose, and why the better ones were refused.
    """

    teacher: str
    init: str
    config: PreTrainedConfig
    steps: Plan
    parameters: tuple[int, int]
    bytes_per_parameter: int
    notes: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the student will compute what its teacher does."""
        return PROMISES[self.init].startswith("exact")

    @property
    def memory(self) -> int:
        """Bytes that the student takes while it is grown, together with the teacher where that is read."""
        read = self.parameters if self.init != "random" else self.parameters[1:]
        return sum(read) * self.bytes_per_parameter

    def __str__(self) -> str:
        small, large = self.parameters
        models = "the student" if self.init == "random" else "teacher and student"
        summary = f"{self.teacher}: {small:,} -> {large:,} parameters, {self.memory / 2**20:,.0f} MiB for {models}"
        lines = [summary, f"init={self.init}: {PROMISES[self.init]}", *(f"  {note}" for note in self.notes)]
        return "\n".join([*lines, *(self._table() if self.steps else [])])

    def _table(self) -> list[str]:
        rows: dict[tuple[str, ...], tuple[str, str, str, str]] = {}
        for name, step in self.steps.items():
            row = (kind(name), *self._describe(step))
            rows.setdefault(row[:3], row)
        head = ("parameter", "axes (teacher->student)", "map", "gain")
        table = [head, *rows.values()]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]

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
    init: str = "remap",
    depth: str = "append",
    seed: int = 0,
    from_pretrained: Mapping[str, Any] | None = None,
    **sizes: int | None,
) -> GrowthPlan:
    """Say what `from_weak_teacher` would do with these arguments. No weight of the teacher is read.

    Args:
        init: a key of `PLANS`.
        from_pretrained: how to find the teacher: revision, token, ...
        **sizes: hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size.

    Raises:
        GrowthNotPreservedError: an exact strategy would not be exact, naming the axis or module and why.
        GrowthError: sizes that are not legal, or an unknown strategy.
    """
    problems: list[DistillationError] = []
    for argument, choice, known in (("init", init, PLANS), ("depth", depth, DEPTHS)):
        if choice not in known:
            problems.append(unknown_name(argument, choice, known, error=GrowthError))
    raise_all(problems)
    source = open_teacher(teacher, auto_class, from_pretrained or {})
    config = larger_config(source.config, sizes, config_overrides, functools.partial(order, depth))
    check_shapes(source.skeleton, config, depth)
    student = build(type(source.skeleton), config, "meta")
    counts = source.skeleton.num_parameters(), student.num_parameters()
    plain = GrowthPlan(source.name, init, student.config, {}, counts, source.skeleton.dtype.itemsize)
    longer, _ = with_new_rows(source, config, own_rows, seed)
    return PLANS[init](plain, longer, student, depth, seed)


Planner = Callable[[GrowthPlan, Teacher, PreTrainedModel, str, int], GrowthPlan]
"""(plan without steps, teacher, student on the meta device, depth, seed) -> plan."""


def _by_position(plan: GrowthPlan, teacher: Teacher, student: PreTrainedModel, depth: str, seed: int) -> GrowthPlan:
    return plan


def _clone(plan: GrowthPlan, teacher: Teacher, student: PreTrainedModel, depth: str, seed: int) -> GrowthPlan:
    return replace(plan, init="clone", steps=plan_clone(student, teacher, depth, seed))


def _pad(plan: GrowthPlan, teacher: Teacher, student: PreTrainedModel, depth: str, seed: int) -> GrowthPlan:
    steps = plan_pad(student, teacher, depth, seed)
    part = grown_part(teacher.config, student.config)
    if stream_width(student.config, part) != stream_width(teacher.config, part):
        _pad_proxy(teacher, student, seed)
    return replace(plan, init="pad", steps=steps)


def _pad_proxy(teacher: Teacher, student: PreTrainedModel, seed: int) -> None:
    """Pad a tiny proxy, which raises where the residual stream is written by norms: no layout tells."""
    model_class, small = type(teacher.skeleton), shrink(teacher.config)
    tiny = proxy(model_class, small, seed)
    large = build(model_class, scaled(small, teacher.config, student.config, times=2), "cpu").float().eval()
    pad_init(large, Teacher("proxy", build(model_class, small, "meta"), lambda: (tiny, frozenset())), keep_init)


def _aki(plan: GrowthPlan, teacher: Teacher, student: PreTrainedModel, depth: str, seed: int) -> GrowthPlan:
    return replace(plan, init="aki", steps=plan_aki(student, teacher, depth, seed))


def _auto(plan: GrowthPlan, teacher: Teacher, student: PreTrainedModel, depth: str, seed: int) -> GrowthPlan:
    refused: list[str] = []
    for init in ("clone", "pad"):
        try:
            found = PLANS[init](plan, teacher, student, depth, seed)
        except GrowthError as error:
            refused.append(f"{init} refused: {error.argument}: {error.problem}")
        else:
            return replace(found, notes=(f"auto would choose {init}", *refused))
    return replace(plan, init="remap", notes=("auto would choose remap", *refused))


PLANS: dict[str, Planner] = {
    "random": _by_position,
    "remap": _by_position,
    "clone": _clone,
    "pad": _pad,
    "aki": _aki,
    "auto": _auto,
}
"""What makes the plan of each strategy."""
