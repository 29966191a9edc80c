"""The plan of a growth: what is done with every parameter, printed before a weight is read, and then carried out."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from transformers import PreTrainedConfig, PreTrainedModel

from .applying import Work, carry_out
from .arguments import Arguments
from .building import build
from .checkpoint import Teacher, open_teacher
from .config.larger import larger_config, padded_vocabulary
from .config.names import SIZES
from .depth.rules import order
from .disk.shards import MAX_SHARD_SIZE
from .disk.writing import write_student
from .plan_lines import parameter_lines
from .proxy.model import Proxies
from .report import GrowthReport, TokenCounts, adapter_words, layer_lines, size_lines
from .rests import RESTS
from .strategies import INITS
from .strategy import SETTINGS, Choice, Init, Strategy, unplanned
from .student import changed_numbers, check_shapes, own_initialisation
from .vocabulary.new_rows import NEW_ROWS, both_shares, with_rows_of
from .vocabulary.transplant import find_transplant
from .width.mapping import Plan

if TYPE_CHECKING:

    class GrownModel(PreTrainedModel):
        """What type checkers know of a student: a stock transformers model that carries its report."""

        growth_report: GrowthReport

else:
    GrownModel = PreTrainedModel


@dataclass(frozen=True)
class GrowthPlan:
    """What a growth does; `print(plan)` shows it and `apply` does it.

    Args:
        teacher: id, path or class name.
        strategy: which fills the student; of "auto" the one it chooses.
        config: the student's.
        sizes: attribute of the config -> (teacher's value, student's), for every number that changes.
        steps: name of a student's parameter or buffer -> how it is made; what has none keeps its initialisation.
        sources: name of a student's parameter -> the teacher's that it is made from, None if there is none; empty
            where `init` is a function of your own.
        parameters: (teacher's, student's) number of parameters.
        bytes_per_parameter: in the teacher's dtype.
        notes: what "auto" chooses, and why the better ones were refused.
        options: name -> value of what the caller may set of the strategy, and of new rows where there are any.
        tokens: how the rows of another tokenizer's vocabulary are made; None where the vocabulary is the teacher's.
    """

    teacher: str
    strategy: Strategy
    config: PreTrainedConfig
    sizes: Mapping[str, tuple[int | None, int | None]]
    steps: Plan
    sources: Mapping[str, str | None]
    parameters: tuple[int, int]
    bytes_per_parameter: int
    notes: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    tokens: TokenCounts | None = None
    work: Work = field(repr=False, kw_only=True)

    @property
    def init(self) -> str:
        """Name of the strategy."""
        return self.strategy.name

    @property
    def exact(self) -> bool:
        """Whether the student will compute what its teacher does."""
        return self.strategy.exact

    @property
    def memory(self) -> int:
        """Bytes that the student takes while it is grown, together with the teacher where that is read."""
        read = self.parameters if self.strategy.reads_teacher else self.parameters[1:]
        return sum(read) * self.bytes_per_parameter

    @overload
    def apply(self) -> GrownModel: ...

    @overload
    def apply(self, *, to: str | Path, max_shard_size: int | str = ...) -> GrowthReport: ...

    def apply(
        self, *, to: str | Path | None = None, max_shard_size: int | str = MAX_SHARD_SIZE
    ) -> GrownModel | GrowthReport:
        """The student, as `from_weak_teacher` returns it; now the teacher's weights are read.

        Args:
            to: folder that the student is written to instead, part by part, for one that does not fit into memory: its
                files are those of `save_pretrained`, bit for bit the same numbers, and `growth.json`. What was killed
                goes on behind its last whole file when it is called again with the same arguments.
            max_shard_size: of a file in that folder, in bytes or as "5GB".

        Returns:
            the student; with `to` the `GrowthReport`, and `from_pretrained(to)` loads the student.

        Raises:
            GrowthError: weights that cannot be read, or with which an exact strategy is not exact; naming `to`, what
                cannot be written part by part (a function of your own as `init` or `rest`, code of a checkpoint's own)
                and a folder with another model.
        """
        if to is not None:
            return write_student(self.work, self.config, str(self), Path(to), max_shard_size)
        work = self.work
        student, report = carry_out(work, functools.partial(own_initialisation, work.source, self.config, work.seed))
        grown: Any = student
        grown.growth_report = report
        return cast(GrownModel, grown)

    def __str__(self) -> str:
        small, large = self.parameters
        models = "teacher and student" if self.strategy.reads_teacher else "the student"
        adapter, base = self.work.source.adapter, self.work.source.base_model
        head = [
            f"{self.teacher}: {small:,} -> {large:,} parameters, {self.memory / 2**20:,.0f} MiB for {models}",
            *([adapter_words(adapter, base)] if adapter else []),
            f"init={self.init}: {self.strategy.promise}",
            *(f"  {note}" for note in self.notes),
        ]
        if self.options:
            head.append("  with " + ", ".join(f"{name}={value}" for name, value in self.options.items()))
        if self.tokens is not None:
            head.append(f"  new vocabulary: {self.tokens}")
        parameters = parameter_lines(self.steps, self.strategy, self.work.origin.skeleton)
        return "\n".join([*head, *size_lines(self.sizes), *layer_lines(self.sources), *parameters])


def make_growth_plan(arguments: Arguments, loading: Arguments) -> GrowthPlan:
    """The plan for arguments of `plan_growth`, and of `from_pretrained`, that were checked."""
    origin = open_teacher(arguments["teacher"], arguments["auto_class"], loading)
    rows, rest, seed = arguments["new_rows"], arguments["rest"], arguments["seed"]
    rule = NEW_ROWS[rows] if isinstance(rows, str) else rows
    transplant = find_transplant(origin, arguments, loading, rule)
    source = origin if transplant is None else transplant(origin)
    strategy = _strategy(arguments["init"])
    depth = arguments["depth"] or strategy.depth
    config = _config(source, arguments, depth, None if transplant is None else len(transplant.rows.sources))
    teacher, shares = with_rows_of(source, config, rule, seed)
    if transplant is not None:
        shares = both_shares(transplant.shares(source.skeleton), shares)
    student = build(type(source.skeleton), config, "meta")
    options = {
        "rest": RESTS[rest] if isinstance(rest, str) else rest,
        "depth": depth,
        "symmetry": arguments["symmetry"],
        "seed": seed,
        "proxies": Proxies(teacher.skeleton, student.config, seed),
        "strategies": INITS,
    }
    steps = strategy.planned(student, teacher, options)
    chosen = steps if isinstance(steps, Choice) else Choice(strategy.name, steps)
    made_from = {n: chosen.steps[n].source if n in chosen.steps else None for n, _ in student.named_parameters()}
    settings = {name: options[name] for name in SETTINGS} | {"rest": _name(rest)}
    filling = INITS[chosen.init] if chosen is steps else strategy
    taken = {name: value for name, value in settings.items() if name == "seed" or name in filling.parameters}
    return GrowthPlan(
        teacher=origin.name,
        strategy=filling,
        config=config,
        sizes=changed_numbers(origin.config, config),
        steps=chosen.steps,
        sources=made_from if strategy.plan else {},
        parameters=(origin.skeleton.num_parameters(), student.num_parameters()),
        bytes_per_parameter=source.skeleton.dtype.itemsize,
        notes=(f"auto would choose {chosen.init}", *chosen.refused) if chosen is steps else (),
        options=taken | ({"new_rows": _name(rows)} if shares else {}),
        tokens=None if transplant is None else transplant.rows.counts,
        work=Work(origin, transplant, source, teacher, shares, strategy, steps, options, _name(rest), rule, arguments),
    )


def _config(source: Teacher, arguments: Arguments, depth: str, rows: int | None) -> PreTrainedConfig:
    """The student's config.

    Args:
        source: the teacher, with the vocabulary of another tokenizer if there is one.
        rows: of that vocabulary; None where it is the teacher's.
    """
    vocabulary = None
    if rows is None:
        vocabulary = padded_vocabulary(source.config, arguments["vocab_size"], arguments["pad_vocab_to_multiple_of"])
    sizes = {role: arguments[role] for role in SIZES} | {"vocab_size": vocabulary}
    config = larger_config(source.config, sizes, arguments["config_overrides"], functools.partial(order, depth))
    check_shapes(source.skeleton, config, depth)
    return config


def _strategy(init: str | Init) -> Strategy:
    """The record of a name or a function; a function that is in no registry has no plan."""
    if isinstance(init, str):
        return INITS[init]
    if isinstance(init, Strategy):
        return init
    return next((strategy for strategy in INITS.values() if strategy.function is init), unplanned(init))


def _name(choice: object) -> str:
    named = choice if isinstance(choice, str) else getattr(choice, "name", getattr(choice, "__name__", ""))
    return named or type(choice).__name__
