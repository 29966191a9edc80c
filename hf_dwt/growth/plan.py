"""The plan of a growth: what is done with every parameter, printed before a weight is read, and then carried out."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig, PreTrainedModel

from .arguments import callers_words, check_arguments
from .checkpoint import Teacher, build, open_teacher
from .config.larger import larger_config, padded_vocabulary
from .config.names import SIZES
from .depth.rules import order
from .report import GrowthReport, Outcome, layer_lines
from .strategies import RESTS, STRATEGIES, Init, Rest, Strategy, default_depth, strategy_of, taken
from .strategies.auto import Choice
from .student import changed_numbers, check_shapes, own_initialisation, own_randomness
from .vocabulary import NEW_ROWS, NewRows, Shares, with_tables_of, without_new_rows
from .width.mapping import Plan, Step, kind

if TYPE_CHECKING:

    class GrownModel(PreTrainedModel):
        """What type checkers know of a student: a stock transformers model that carries its report."""

        growth_report: GrowthReport

else:
    GrownModel = PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """What a growth needs beside its plan; no weight of the teacher has been read.

    Args:
        source: the teacher.
        teacher: the same, with tables of as many rows as the student has.
        shares: of elements with new rows.
        strategy: which fills the student; of "auto" that which chooses.
        options: of it.
        rest: a function as in `RESTS`.
        named: names of the strategy and of `rest`, and the seed.
    """

    source: Teacher
    teacher: Teacher
    shares: Shares
    strategy: Strategy
    options: Mapping[str, Any]
    rest: Rest
    named: Mapping[str, Any]


@dataclass(frozen=True)
class GrowthPlan:
    """What a growth does; `print(plan)` shows it and `apply` does it.

    Args:
        teacher: id, path or class name.
        init: name of the strategy; of "auto" the one it chooses.
        config: the student's.
        steps: name of a student's parameter or buffer -> how it is made; what has none keeps its initialisation.
        sources: name of a student's parameter -> the teacher's that it is made from, None if there is none; empty
            where `init` is a function of your own.
        parameters: (teacher's, student's) number of parameters.
        bytes_per_parameter: in the teacher's dtype.
        notes: what "auto" chooses, and why the better ones were refused.
    """

    teacher: str
    init: str
    config: PreTrainedConfig
    steps: Plan
    sources: Mapping[str, str | None]
    parameters: tuple[int, int]
    bytes_per_parameter: int
    notes: tuple[str, ...] = ()
    ready: Ready = field(repr=False, kw_only=True)
    arguments: Mapping[str, Any] = field(repr=False, kw_only=True)

    @property
    def strategy(self) -> Strategy:
        """That of `init`."""
        return STRATEGIES.get(self.init, self.ready.strategy)

    @property
    def exact(self) -> bool:
        """Whether the student will compute what its teacher does."""
        return self.strategy.exact

    @property
    def memory(self) -> int:
        """Bytes that the student takes while it is grown, together with the teacher where that is read."""
        read = self.parameters if self.strategy.reads_teacher else self.parameters[1:]
        return sum(read) * self.bytes_per_parameter

    def apply(self) -> GrownModel:
        """The student, as `from_weak_teacher` returns it; now the teacher's weights are read.

        Raises:
            GrowthError: weights that cannot be read, or with which an exact strategy is not exact.
        """
        ready, seed = self.ready, self.ready.named["seed"]
        with callers_words(self.arguments):
            student = own_initialisation(ready.source, self.config, seed, skip=ready.strategy.writes_all)
            again = functools.partial(own_initialisation, ready.source, self.config, seed)
            steps = Choice(self.init, self.steps, self.notes[1:]) if ready.named["init"] == "auto" else self.steps
            options = taken(ready.strategy.initialise, {**ready.options, "steps": steps, "build_again": again})
            with own_randomness(seed):
                outcome = ready.strategy.initialise(student, ready.teacher, ready.rest, **options)
        outcome = outcome if isinstance(outcome, Outcome) else Outcome(outcome)
        outcome = replace(outcome, parameters=without_new_rows(outcome.parameters, ready.shares))
        # nn.Module declares tensors and modules only.
        student.growth_report = _report(ready, student, outcome)  # type: ignore[assignment]
        return student.eval()  # type: ignore[return-value]

    def __str__(self) -> str:
        small, large = self.parameters
        models = "teacher and student" if self.strategy.reads_teacher else "the student"
        summary = f"{self.teacher}: {small:,} -> {large:,} parameters, {self.memory / 2**20:,.0f} MiB for {models}"
        lines = [summary, f"init={self.init}: {self.strategy.promise}", *(f"  {note}" for note in self.notes)]
        return "\n".join([*lines, *layer_lines(self.sources), *(self._table() if self.steps else [])])

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
        what = self.strategy.what if any(axis.grows for axis in step.axes) else "copied"
        if step.constant is not None:
            what = f"filled with {step.constant:g}"
        elif step.above is not None:
            what = f"{what}, new outputs from the layer above"
        return axes.replace("/1", ""), what, "" if step.gain is None else f"{step.gain.factor:.4g}"


def plan_growth(
    teacher: str | Path | PreTrainedModel,
    *,
    auto_class: Any = None,
    hidden_size: int | None = None,
    num_hidden_layers: int | None = None,
    num_attention_heads: int | None = None,
    num_key_value_heads: int | None = None,
    head_dim: int | None = None,
    intermediate_size: int | None = None,
    vocab_size: int | None = None,
    pad_vocab_to_multiple_of: int | None = None,
    max_position_embeddings: int | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    init: str | Init = "remap",
    rest: str | Rest = "init",
    new_rows: str | NewRows = "init",
    depth: str | None = None,
    symmetry: float = 0.5,
    seed: int = 0,
    output_report: bool = False,
    **from_pretrained_kwargs: Any,
) -> GrowthPlan:
    """What `from_weak_teacher` does with these arguments: it is `plan_growth(...).apply()`. No weight is read.

    Args:
        output_report: of `from_weak_teacher`; the plan is the same, and its student carries the report in any case.

    All others are those of `from_weak_teacher`.

    Raises:
        GrowthNotPreservedError: an exact strategy would not be exact, naming the axis or module and why.
        GrowthError: as `from_weak_teacher`, before a weight is read.
    """
    arguments = {key: value for key, value in locals().items() if key != "from_pretrained_kwargs"}
    check_arguments(plan_growth, arguments, from_pretrained_kwargs)
    with callers_words({**arguments, **from_pretrained_kwargs}), own_randomness(seed):
        return _plan(arguments, from_pretrained_kwargs)


def _plan(arguments: Mapping[str, Any], loading: Mapping[str, Any]) -> GrowthPlan:
    """The plan for arguments that were checked."""
    source = open_teacher(arguments["teacher"], arguments["auto_class"], loading)
    vocabulary = padded_vocabulary(source.config, arguments["vocab_size"], arguments["pad_vocab_to_multiple_of"])
    sizes = {role: arguments[role] for role in SIZES} | {"vocab_size": vocabulary}
    name, strategy = strategy_of(arguments["init"])
    seed, layers = arguments["seed"], arguments["depth"] or default_depth(strategy)
    config = larger_config(source.config, sizes, arguments["config_overrides"], functools.partial(order, layers))
    check_shapes(source.skeleton, config, layers)
    rows, rest = arguments["new_rows"], arguments["rest"]
    teacher, shares = with_tables_of(source, config, NEW_ROWS.get(rows, rows), seed)
    student = build(type(source.skeleton), config, "meta")
    options = {"depth": layers, "symmetry": arguments["symmetry"], "seed": seed}
    found = strategy.plan(student, teacher, **taken(strategy.plan, options)) if strategy.plan else {}
    chosen = found if isinstance(found, Choice) else Choice(name, found)
    made_from = {
        key: chosen.steps[key].source if key in chosen.steps else None for key, _ in student.named_parameters()
    }
    return GrowthPlan(
        teacher=source.name,
        init=chosen.init,
        config=config,
        steps=chosen.steps,
        sources=made_from if strategy.plan else {},
        parameters=(source.skeleton.num_parameters(), student.num_parameters()),
        bytes_per_parameter=source.skeleton.dtype.itemsize,
        notes=() if found is chosen.steps else (f"auto would choose {chosen.init}", *chosen.refused),
        ready=Ready(
            source,
            teacher,
            shares,
            strategy,
            options,
            RESTS.get(rest, rest),
            {"init": name, "rest": _name(rest), "seed": seed},
        ),
        arguments=arguments,
    )


def _report(ready: Ready, student: PreTrainedModel, outcome: Outcome) -> GrowthReport:
    source, parameters = ready.source, outcome.parameters
    untrained = tuple(sorted(source.untrained)) if any(s.name for s in parameters.values()) else ()
    if untrained:
        logger.warning(
            "%d parameters are not in the teacher's checkpoint, so the student's are not the teacher's either: %s. "
            "If the checkpoint was trained for another task, name its class in auto_class.",
            len(untrained),
            ", ".join(untrained),
        )
    return GrowthReport(
        teacher=source.name,
        **ready.named,
        sizes=changed_numbers(source.config, student.config),
        parameters=parameters,
        untrained=untrained,
        preserved=outcome.preserved,
        difference=outcome.difference,
        notes=outcome.notes,
        unproven=outcome.unproven,
        references=STRATEGIES.get(outcome.init, ready.strategy).references,
    )


def _name(choice: Any) -> str:
    return choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)
