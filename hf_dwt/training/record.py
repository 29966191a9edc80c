"""The sections of the run record that only a distillation run has."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from torch import nn

from ..adapters import adapter_configs
from ..arguments import DistillationArguments
from ..batches.proposing import ProposingCollator
from ..parts import Reference
from ..publish.describe import hub_id, parameter_count, public_name
from ..tasks import model_class, plain_model
from ..teachers import Teacher
from ..teachers.columns import ColumnTeacher
from ..teachers.composed import ComposedTeacher, TeacherSource, single_sources
from .meter import Stopwatch

Section = dict[str, object]


def objective_section(
    options: DistillationArguments,
    has_teacher: bool,
    layers: Sequence[tuple[object, object]] = (),
    proposals: ProposingCollator | None = None,
) -> Section:
    """Weights, divergence and schedule, callables by their names; and whose ideas the parts are that have an effect.

    Args:
        options: of the run.
        has_teacher: without one most parts have no effect.
        layers: (the student's, the supervisor's) that a term on hidden states compares.
        proposals: what makes text for it, or None.
    """
    plain = options.to_dict()
    names: tuple[str, ...] = ("hard_weight", "soft_weight", "soft_term", "temperature", "soft_loss_scaling")
    schedule = {"schedule": plain["soft_weight_schedule"], "schedule_kwargs": plain["soft_weight_schedule_kwargs"]}
    if options.teacher_correction is not None:
        names = (*names, "teacher_correction", "teacher_correction_kwargs")
    compared: Section = {}
    if (hidden := options.hidden()) is not None and hidden.weight > 0:
        names = (
            *names,
            "hidden_term",
            "hidden_term_kwargs",
            "hidden_weight_schedule",
            "hidden_weight_schedule_kwargs",
        )
        compared = {"hidden_weight": hidden.weight, "hidden_layers": [list(pair) for pair in layers]}
    parts = [part for part in options.parts() if has_teacher or not getattr(part, "needs_teacher", True)]
    references = [asdict(reference) for part in parts for reference in part.references]
    if proposals is not None:
        compared["proposals"] = proposals.description
        references += [asdict(reference) for reference in proposals.references]
    return {**{name: plain[name] for name in names}, **compared, **schedule, "references": references}


def spent_seconds(teacher: Stopwatch | None, proposals: ProposingCollator | None) -> Section:
    """Seconds of this process in the teacher's forward passes, and of making text, also in workers of its loader."""
    spent: Section = {} if teacher is None else {"teacher": round(teacher.seconds, 3)}
    return spent if proposals is None else {**spent, "proposals": round(proposals.seconds, 3)}


def teacher_section(
    source: TeacherSource | None,
    frozen: Mapping[str, Teacher],
    revision: object,
    licenses: Mapping[str, str | None],
) -> Section:
    """The teacher's name, its place on the Hub and its size; of several teachers those of each.

    Args:
        source: `teacher_model` as the user gave it.
        frozen: the models that are run, by the names of what the teacher is made of.
        revision: of the Hub, as the user asked for it.
        licenses: as their cards give them, by these names.
    """
    if source is None:
        return {}
    found = {
        name: _single(frozen.get(name, one), one, revision, licenses.get(name)) for name, one in single_sources(source)
    }
    references = [asdict(reference) for reference in _references(source)]
    own: Section = {"references": references} if references else {}
    if found.keys() == {""}:
        return found[""] | own | ({"made_of": text} if (text := _made_of(source)) else {})
    sections = list(found.values())
    known = {section["license"] for section in sections}
    return own | {
        "name": ", ".join(str(section["name"]) for section in sections),
        "hub_id": None,
        "revision": None,
        "parameters": sum(section["parameters"] for section in sections),  # type: ignore[misc]
        "license": known.pop() if len(known) == 1 else None,
        "teachers": found,
        "weighting": _made_of(source),
    }


def _made_of(source: TeacherSource) -> str:
    """What composed teachers say of themselves, from the outside in."""
    if not isinstance(source, ComposedTeacher):
        return ""
    parts = {name: _made_of(part) for name, part in source.sources.items()}
    single = len(parts) == 1
    texts = [text if single else f"{name}: {text}" for name, text in parts.items() if text]
    return "; ".join([getattr(source, "description", type(source).__name__), *texts])


def _references(source: TeacherSource) -> list[Reference]:
    """Whose ideas a teacher is made of."""
    if not isinstance(source, ComposedTeacher):
        return []
    return [
        *getattr(source, "references", ()),
        *(one for part in source.sources.values() for one in _references(part)),
    ]


def _single(teacher: object, source: object, revision: object, license: str | None) -> Section:
    """The section of one model, or of an object that is a teacher already."""
    model: nn.Module | None = getattr(teacher, "model", None)
    adapters = [] if model is None else list(adapter_configs(model).values())
    commit = getattr(getattr(model, "config", None), "_commit_hash", None)  # only what came from the Hub has one
    if adapters:  # that commit is of the model which they adapt
        commit = None
    own_name = getattr(model, "name_or_path", "") or (type(teacher) if model is None else model_class(model)).__name__
    given = source.name if isinstance(source, ColumnTeacher) else source
    named = given if isinstance(given, str | os.PathLike) else own_name
    base = adapters[0].base_model_name_or_path if adapters else None
    adapted = {"adapter": adapters[0].peft_type.value, "base_model": base and public_name(base)} if adapters else {}
    return adapted | {
        "name": public_name(named),
        "hub_id": (str(named) if commit else None) or hub_id(given),
        "revision": commit or revision,
        "parameters": (parameter_count(model) or 0) if model is not None else 0,
        "license": license,
    }


def growth_section(model: nn.Module | None) -> Section:
    """Of a student that was grown from a checkpoint: how."""
    report = getattr(plain_model(model), "growth_report", None) if model is not None else None
    if report is None:
        return {}
    section = {name: getattr(report, name) for name in ("init", "rest", "seed", "copied", "fresh")}
    section["tokens"] = asdict(report.tokens) if report.tokens is not None else None
    if report.adapter:
        section |= {"adapter": report.adapter, "base_model": public_name(report.base_model)}
    section["references"] = [asdict(reference) for reference in report.references]
    return {**section, "teacher": public_name(report.teacher), "hub_id": hub_id(report.teacher)}
