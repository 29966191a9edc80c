"""Which layers of a run's models a hidden term compares, and whether it can be had: known before the first step."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from ...arguments import DistillationArguments
from ...errors import ArgumentError, DistillationError, raise_all
from ...forward.hidden_states import layers_of, width_of
from ...objective.hidden import require_losses
from ...objective.hidden.layers import LAST, Depths, Layer, Pair, numbered, read_layers
from ...objective.hidden.record import HiddenTerm
from ...publish.run_record import GROWTH_FILE
from ...tasks import is_compiled, model_class, plain_model
from ...teachers.composed import ComposedTeacher
from ...teachers.corrected import CorrectedTeacher
from .sources import Composition, Loaded, OneTeacher


@dataclass(frozen=True)
class Growth:
    """How the student was grown, as far as it is known.

    sources: name of a student's parameter -> the teacher's that it was made from, or None.
    widths: (teacher's, student's) of every size that changed.
    tiled: whether the student's channel j holds the teacher's channel j mod d; else the teacher's channels come first.
    """

    sources: Mapping[str, str | None]
    widths: frozenset[tuple[int | None, int | None]]
    tiled: bool

    def made_from(self, path: str, depth: int) -> tuple[int, ...]:
        """The teacher's layer, from 1 on, of each layer of the list at `path`; empty where one has none."""
        votes: list[Counter[int]] = [Counter() for _ in range(depth)]
        for name, source in self.sources.items():
            ours = re.match(rf"{re.escape(path)}\.(\d+)\.", name)
            theirs = re.match(rf"{re.escape(path)}\.(\d+)\.", source or "")
            if ours and theirs and int(ours[1]) < depth:
                votes[int(ours[1])][int(theirs[1]) + 1] += 1
        return tuple(vote.most_common(1)[0][0] for vote in votes) if all(votes) else ()


def growth_of(student: nn.Module) -> Growth | None:
    """Of a student that carries its report, or was loaded from a folder that has it; None of another."""
    plain: Any = plain_model(student)
    report = getattr(plain, "growth_report", None)
    found: Mapping[str, Any] = {}
    if report is not None:
        found = report.to_dict()
    elif (path := Path(str(getattr(plain, "name_or_path", "")), GROWTH_FILE)).is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
    if not found.get("parameters"):
        return None
    sources = {name: source["name"] for name, source in found["parameters"].items()}
    return Growth(sources, frozenset(map(tuple, found["sizes"].values())), bool(found.get("tiled")))


@dataclass(frozen=True)
class HiddenPlan:
    """A term and the layers that it compares.

    pairs: (the student's layer, the supervisor's), numbered from 1 on or "last".
    widths: (the student's, the supervisor's).
    growth: of the student, where it is known.
    """

    term: HiddenTerm
    pairs: tuple[Pair, ...]
    widths: tuple[int, int]
    growth: Growth | None = None

    @property
    def projects(self) -> bool:
        """Whether channels are compared and widths differ."""
        return self.term.same_width and self.widths[0] != self.widths[1]

    def name_of(self, one: Layer, other: Layer) -> str:
        """Of the projector of a pair."""
        return f"{one}_{other}"

    def projectors(self, seed: int) -> nn.ModuleDict:
        """A linear map for each pair, by its name, where `projects`; else none.

        Of a grown student it begins as the mean over the copies of a channel: an exact one puts out what its teacher
        does. Else it begins as any linear layer of PyTorch. The global random state stays as it was.
        """
        ours, theirs = self.widths
        found = nn.ModuleDict()
        if not self.projects:
            return found
        generator = torch.Generator().manual_seed(seed)
        for one, other in self.pairs:
            layer: nn.Linear = nn.utils.skip_init(nn.Linear, ours, theirs, bias=False)
            with torch.no_grad():
                start = self._means()
                if start is None:
                    layer.weight.uniform_(-(ours**-0.5), ours**-0.5, generator=generator)
                else:
                    layer.weight.copy_(start)
            found[self.name_of(one, other)] = layer
        return found

    def _means(self) -> Tensor | None:
        """(H_T, H_S) the mean over the student's channels that hold the same of the teacher's, by its growth."""
        ours, theirs = self.widths
        if self.growth is None or (theirs, ours) not in self.growth.widths:
            return None
        if not self.growth.tiled:
            return torch.eye(theirs, ours)
        copies = torch.arange(ours) % theirs == torch.arange(theirs).unsqueeze(1)
        return copies.float() / copies.sum(1, keepdim=True)


def make_hidden_plan(
    student: nn.Module, source: object, loaded: Loaded | None, options: DistillationArguments, args: TrainingArguments
) -> HiddenPlan | None:
    """The plan of a run; None without a term.

    Args:
        student: the model that learns.
        source: of the teacher, as the user gave it.
        loaded: what it was loaded as; None without a teacher, and where loading found something wrong.
        options: of distillation.
        args: of the run.

    Raises:
        DistillationError: there is no teacher whose layers could supervise, or a layer does not exist.
    """
    term = options.hidden()
    if term is None:
        return None
    supervisor = student
    if term.needs_teacher:
        raise_all(_teacher_problems(term, source, options))
        if (teacher := _model_of(loaded)) is None:
            return None  # another problem, which has been noted
        supervisor = teacher
    raise_all([*_compile_problems(term, student, args), *_list_problems(term, student, supervisor)])
    (path, ours), (_, theirs) = layers_of(student), layers_of(supervisor)
    growth = growth_of(student)
    made_from = growth.made_from(path, len(ours)) if growth is not None and term.needs_teacher else ()
    made_from = made_from if max(made_from, default=0) <= len(theirs) else ()
    depths = Depths(len(ours), len(theirs), made_from)
    widths = width_of(student) or 0, width_of(supervisor) or 0
    require_losses(term.name, term, (widths[1], widths[1]) if term.same_width else widths, args.device)
    return HiddenPlan(term, _pairs(term, options.hidden_layers, depths), widths, growth)


def _model_of(loaded: Loaded | None) -> nn.Module | None:
    """The one frozen model that a teacher is, with a correction perhaps."""
    if isinstance(loaded, Composition):
        (loaded,) = loaded.parts.values()
    return loaded.teacher if isinstance(loaded, OneTeacher) and isinstance(loaded.teacher, nn.Module) else None


def _teacher_problems(term: HiddenTerm, source: object, options: DistillationArguments) -> list[DistillationError]:
    """A teacher whose hidden states are not there."""
    if source is None:
        fix = "Give teacher_model, or hidden_term='self_features', which needs none."
        return [ArgumentError("hidden_term", term.name, "compares with a teacher, and there is none.", fix)]
    if options.teacher_cache:
        problem = "compares with hidden states of the teacher's layers, which no cache keeps."
        return [ArgumentError("hidden_term", term.name, problem, "Leave teacher_cache out.")]
    inner = source.sources[""] if isinstance(source, CorrectedTeacher) else source
    single = not isinstance(inner, ComposedTeacher) and (isinstance(inner, nn.Module) or not hasattr(inner, "targets"))
    if single:
        return []
    problem = f"compares with the layers of one frozen model, and teacher_model is a {type(inner).__name__}."
    fix = "Give an id, a path or a model as teacher_model, or leave hidden_term out."
    return [ArgumentError("hidden_term", term.name, problem, fix)]


def _compile_problems(term: HiddenTerm, student: nn.Module, args: TrainingArguments) -> list[DistillationError]:
    if not args.torch_compile and not is_compiled(student):
        return []
    problem = "needs hooks on layers, which a compiled model does not run."
    return [ArgumentError("hidden_term", term.name, problem, "Leave torch_compile out.")]


def scaling_problems(plan: HiddenPlan | None, deepspeed: bool, precision: str) -> list[DistillationError]:
    """Projectors whose gradients have a factor that only an engine knows.

    Args:
        plan: of the run.
        deepspeed: whether DeepSpeed runs the student.
        precision: "no", "bf16", "fp16" or "fp8", as accelerate has it.
    """
    if plan is None or not plan.projects or not deepspeed or precision != "fp16":
        return []
    problem = f"has DeepSpeed multiply gradients by a factor of its own, and hidden_term={plan.term.name!r} learns a "
    problem += "projector beside the student, which is not divided by it."
    return [ArgumentError("fp16", True, problem, "Use bf16=True, or layers of equal width.")]


def _list_problems(term: HiddenTerm, *models: nn.Module) -> list[DistillationError]:
    """A model whose layers or width cannot be found, and a student that leaves layers out."""
    problems: list[DistillationError] = []
    config = plain_model(models[0]).config
    for name in ("layerdrop", "decoder_layerdrop"):
        if (share := getattr(config, name, 0.0)) > 0:
            problem = f"leaves out layers at random, which hidden_term={term.name!r} may compare."
            problems.append(ArgumentError(f"model.config.{name}", share, problem, "Set it to 0."))
    for model in dict.fromkeys(models):
        if not layers_of(model)[1] or width_of(model) is None:
            problem = f"finds no list of layers, or no hidden_size, in {model_class(model).__name__}."
            problems.append(ArgumentError("hidden_term", term.name, problem, "Leave it out for this model."))
    return problems


def _pairs(term: HiddenTerm, given: Any, depths: Depths) -> tuple[Pair, ...]:
    """The pairs of a run, as numbers from 1 on or "last".

    Raises:
        DistillationError: a layer that does not exist, or one that supervises itself.
    """
    wanted: list[Layer | Pair] | None = read_layers(given)
    if wanted is None:
        wanted = list(depths.map().items()) if term.layers is None else list(term.layers(depths.student))
        given = None if term.layers is None else f"{term.name}.layers({depths.student})"
    found, problems = [], list[DistillationError]()
    for item in wanted:
        one, other = item if isinstance(item, tuple) else (item, None)
        ours = numbered(one, depths.student)
        if ours is None:
            problems.append(_no_layer(given, one, "student", depths.student))
            continue
        if other is None:
            other = LAST if term.supervisor == LAST else depths.opposite(ours)
        theirs = numbered(other, depths.supervisor)
        whose = "teacher" if term.needs_teacher else "student"
        if theirs is None:
            problems.append(_no_layer(given, other, whose, depths.supervisor))
        elif not term.needs_teacher and ours == theirs:
            problem = f"has layer {ours} of the student supervise itself."
            problems.append(ArgumentError("hidden_layers", given, problem, "Give an earlier layer of the student."))
        else:
            found.append((ours, theirs))
    raise_all(problems)
    return tuple(dict.fromkeys(found))


def _no_layer(given: object, layer: Layer, whose: str, depth: int) -> DistillationError:
    problem = f"names layer {layer} of the {whose}, which has {depth}."
    fix = f"Give a number from 1 to {depth}, from -{depth} to -1, or 'last'."
    return ArgumentError("hidden_layers", given, problem, fix)
