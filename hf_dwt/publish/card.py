"""The model card: a run record as text, by model_card_template.md."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from huggingface_hub import CardData, ModelCard, ModelCardData

from ..parts import PAPER
from .bookkeeping import Bookkeeping, Value
from .describe import hub_id, public_name
from .metadata import FIGURES, TAGS, figures, metadata
from .run_record import GROWTH_FILE, GrowthSection, ObjectiveSection, RunRecord, SingleTeacher, StageEntry, write_whole
from .use import reader_of, use_of

CARD_FILE = "README.md"
KEEP = ("<!-- keep -->", "<!-- /keep -->")
"""What stands between these in a card is the user's, and survives every rewriting."""

_TEMPLATE = "model_card_template.md"
# As their authors and peft's pages spell what peft names in capitals.
_ADAPTERS = {"LORA": "LoRA", "ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr", "VERA": "VeRA", "DORA": "DoRA"}


def may_write_card(folder: str | Path) -> bool:
    """Whether README.md is free to be written: there is none, or one of ours, which has our marks."""
    path = Path(folder) / CARD_FILE
    return not path.is_file() or KEEP[0] in path.read_text(encoding="utf-8-sig")


def write_card(record: RunRecord, folder: str | Path, bookkeeping: Bookkeeping | None = None) -> None:
    """Write README.md into the folder of a saved model; what the user wrote in the one that is there stays.

    That is what stands between the markers `KEEP`, and license, language and further tags in the metadata. A section
    that fails is left out; `bookkeeping` warns of it unless it has before.
    """
    path = Path(folder) / CARD_FILE
    old = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    write_whole(path, str(model_card(record, folder, old, bookkeeping)))


def model_card(
    record: RunRecord, folder: str | Path | None = None, old: str = "", bookkeeping: Bookkeeping | None = None
) -> ModelCard:
    """The card, with metadata that the Hub accepts: ids of the Hub only, and nothing that is not known.

    Args:
        record: of the run.
        folder: where the picture and `growth.json` lie; its name stands for the repository's id where that is not
            known.
        old: the text of the card that is replaced.
        bookkeeping: of the run; warns once of each section that fails.
    """
    bookkeeping = bookkeeping or Bookkeeping()

    def section(name: str, make: Callable[[], Value]) -> Value | None:
        return bookkeeping.get(f"the card's section {name!r}", make, None)

    grown = section("growth.json", lambda: _known_growth(record, folder))
    record = replace(record, growth=grown or record.growth)
    model_id = record.asked.get("model_id") or public_name(folder or "model")
    name = record.asked.get("model_name") or model_id.rstrip("/").split("/")[-1]
    before = section("metadata of the card before", lambda: _old_data(old)) or CardData()
    data = section("metadata", lambda: metadata(record, name, before)) or ModelCardData(tags=list(TAGS))
    card: ModelCard = ModelCard.from_template(
        data,
        template_path=str(template_path()),
        model_name=name,
        model_id=model_id,
        record=record,
        keep=_kept(old),
        settings=sorted(record.settings.items()),
        summary=section("summary", lambda: _summary(record)),
        growth=section("growth", lambda: _growth(record)),
        objective=section("objective", lambda: _objective(record)),
        training=section("training", lambda: _training(record)),
        stages=section("stages", lambda: [_stage(one) for one in record.stages]),
        results=section("results", lambda: _results(record)),
        figures=section("figures", lambda: list(figures(record).values())),
        use=section("use", lambda: use_of(record)),
        verdict=section("verdict", lambda: verdict(record)),
        reader=section("use", lambda: reader_of(record, folder)),
        picture=folder is not None and (Path(folder) / "curves.png").is_file(),
        environment=section("environment", lambda: _environment(record)),
        references=section("references", lambda: [one for one in record.references if one["arxiv"] != PAPER]),
    )
    return card


def _old_data(text: str) -> CardData:
    return ModelCard(text, ignore_metadata_errors=True).data if text.startswith("---") else CardData()


def _kept(text: str) -> str:
    """The user's blocks, with their markers; an empty one to write into if there is none."""
    blocks = re.findall(f"{KEEP[0]}.*?{KEEP[1]}", text, re.DOTALL)
    return "\n\n".join(blocks) or "\n".join(KEEP)


# ---- sections ----


def _summary(record: RunRecord) -> str:
    model, teacher = record.model, record.teacher
    what = f"A {model['task']} model" if model.get("task") else "A model"
    size = f" of {model['parameters']:,} parameters ({model['class']})" if model.get("parameters") else ""
    if "adapter" in model:
        what = f"A {_kind_of(model['adapter'])} adapter"
        size = f" for {_code(model['base_model'])}" if model["base_model"] else ""  # a model in memory has no name
    if not teacher:
        return f"{what}{size}, trained with hf_dwt."
    weak = f", a model of {teacher['parameters']:,} parameters" if teacher.get("parameters") else ""
    weak += (
        f" ({teacher['parameters'] / model['parameters']:.0%} of this one's)" if weak and size[4:5].isdigit() else ""
    )
    how = "trained with hf_dwt by Distillation from Weak Teacher: on data and on the predictions of"
    if several := teacher.get("teachers"):
        names = ", ".join(_code(one["name"]) + _adapting(one, one["name"]) for one in several.values())
        return f"{what}{size}, {how} {len(several)} models: {names}."
    return f"{what}{size}, {how} {_code(teacher['name'])}{_adapting(teacher, teacher['name'])}{weak}."


def _kind_of(adapter: str) -> str:
    return _ADAPTERS.get(adapter, adapter)


def _adapting(section: SingleTeacher | GrowthSection, name: str) -> str:
    """Of a teacher with an adapter, behind its name: what it adapts."""
    if not section.get("adapter"):
        return ""
    kind, base = _kind_of(section["adapter"]), section.get("base_model")
    return f" ({kind} adapter of {_code(base)})" if base and base != name else f" with its {kind} adapter"


def _growth(record: RunRecord) -> str | None:
    growth = record.growth
    if not growth:
        return None
    text = f"`init={growth['init']!r}` from {_code(growth['teacher'])}{_adapting(growth, growth['teacher'])}"
    total = growth["copied"] + growth["fresh"]
    share = f": {growth['copied'] / total:.0%} of the {total:,} parameters come from it" if total else ""
    if tokens := growth.get("tokens"):
        share += "; a new vocabulary: {copied:,} tokens copied, {composed:,} composed, {fresh:,} fresh".format(
            **tokens
        )
    return f"{text}{share}; seed {growth['seed']}"


def _known_growth(record: RunRecord, folder: str | Path | None) -> GrowthSection:
    """What the run knows of the student's growth, or else what growth.json beside the weights holds."""
    path = Path(folder or "") / GROWTH_FILE
    if record.growth or folder is None or not path.is_file():
        return record.growth
    growth: GrowthSection = json.loads(path.read_text(encoding="utf-8"))
    return growth


def _objective(record: RunRecord) -> str | None:
    objective = record.objective
    if not objective:
        return None
    numbers = record.model.get("outcome") == "number"
    text = f"{objective['hard_weight']:g} x {'squared error' if numbers else 'cross-entropy'} of the labels"
    if record.teacher and objective["soft_weight"] > 0:
        scale = " x tau^2" if objective["soft_loss_scaling"] == "tau_squared" else ""
        to = "the teacher"
        if made_of := record.teacher.get("made_of"):
            to += f" ({made_of})"
        if weighting := record.teacher.get("weighting"):
            to = f"the mixture of its teachers (weights: {weighting})"
        if correction := objective.get("teacher_correction"):
            given = objective.get("teacher_correction_kwargs")
            to += f", corrected by `{correction}`{f' with {given}' if given else ''},"
        distance = "squared distance" if numbers else objective["soft_term"]
        tempered = "" if numbers else f" (temperature {objective['temperature']:g})"
        text += (
            f" + {objective['soft_weight']:g} x {distance} to {to}{scale}{tempered}; both weights follow the schedule "
        )
        text += f"`{objective['schedule']}`"
        text += f" with {objective['schedule_kwargs']}" if objective.get("schedule_kwargs") else ""
    if objective.get("hidden_term"):
        text += f" + {_hidden(objective)}"
    return f"{text}; text that a teacher makes: {made}" if (made := objective.get("proposals")) else text


def _hidden(objective: ObjectiveSection) -> str:
    """The term on hidden states."""
    pairs = ", ".join(f"{one} by {other}" for one, other in objective["hidden_layers"])
    given = objective.get("hidden_term_kwargs")
    text = (
        f"{objective['hidden_weight']:g} x `{objective['hidden_term']}`{f' with {given}' if given else ''} of hidden"
    )
    text += f" states, the student's layers {pairs}" if pairs else " states"
    given = objective.get("hidden_weight_schedule_kwargs")
    text += f"; its weight follows the schedule `{objective['hidden_weight_schedule']}`"
    return text + (f" with {given}" if given else "")


def _training(record: RunRecord) -> str | None:
    training = record.training
    if not training:
        return None
    text = f"{training['steps']:,} steps"
    text += f" of {training['examples_per_step']} examples" if training.get("examples_per_step") else ""
    text += f", {training['tokens']:,} tokens seen" if training.get("tokens") else ""
    text += " (any padding among them)" if training.get("tokens") and training.get("padding_counted") else ""
    if training.get("total"):
        text += f", {training['total']:.4g} s of training: {training['student']:.4g} s the student"
        text += f", {training['teacher']:.4g} s the teacher" if training.get("teacher") else ""
        text += f", {training['data']:.4g} s waiting for data"
        made = training.get("proposals")
        text += f"; {made:.4g} s in which models made text" if made else ""
    return f"{text}; seed {training['seed']}"


def _stage(entry: StageEntry) -> str:
    """A stage on the way to the model."""
    text = f"`{entry['name']}`: {entry['made'] or 'as before'}, {entry['parameters']:,} parameters; {entry['loss']}"
    text += f" to {_code(teacher)}" if (teacher := entry.get("teacher")) else ""
    text += f"; {entry['data']}"
    text += f", {entry['mask']:.0%} of the tokens masked" if entry.get("mask") else ""
    seconds = f", {entry['seconds']:.4g} s of training" if entry.get("seconds") else ""
    return f"{text}; {entry['steps']:,} steps{seconds}"


def _results(record: RunRecord) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, dict[str, float]]] = []
    for evaluated, entries in record.evaluations.items():
        last, where = entries[-1], f" on `{evaluated}`" if evaluated else ""
        for name, teacher in record.teacher.get("teachers", {}).items():
            if (own := last.get(f"eval_teacher_loss_{name}")) is not None:
                rows.append((f"the weak teacher {_code(teacher['name'])}{where}", _of_loss(own)))
        if (loss := last.get("eval_teacher_loss")) is not None:
            whole = "the mixture of its teachers" if "teachers" in record.teacher else "the weak teacher"
            # Of part of the rows the loss is that of the rows, and the accuracy would count the others as wrong.
            part = last.get("eval_teacher_rows")
            whole += "" if part is None else f", on the {part:.0%} of the rows that it knows"
            rest = _of(last, "eval_teacher_") if part is None else {}
            rows.append((f"{whole}{where}", {**_of_loss(loss), **rest}))
        rows.append((f"**this model**{where}", _of(last, "eval_")))
    if rows and record.baseline:
        rows.append(("the same without the teacher", record.baseline))
    return [(name, [_number(row.get(key)) for key in figures(record)]) for name, row in rows]


def _of_loss(loss: float) -> dict[str, float]:
    return {"loss": loss, "perplexity": math.exp(min(loss, 700))}


def _of(entry: dict[str, float], prefix: str) -> dict[str, float]:
    return {key: entry[prefix + key] for key in FIGURES if prefix + key in entry}


def verdict(record: RunRecord) -> str | None:
    """When the student's loss came below its teacher's; None where both were not measured on the same rows."""
    if "eval_teacher_loss" not in record.metrics or "eval_teacher_rows" in record.metrics:  # of other rows
        return None
    passed, main = record.overtook, next(iter(record.evaluations))
    whose = "the loss of its teachers' mixture" if "teachers" in record.teacher else "its teacher's loss"
    where = f" on `{main}`" if main else ""
    if passed is None:
        return f"It did not come below {whose}{where}."
    seconds = f" and {passed['seconds']:.4g} s" if "seconds" in passed else ""
    steps = "1 step" if passed["step"] == 1 else f"{passed['step']} steps"
    return f"It was below {whose}{where} after {steps}{seconds}, at the latest."


def _environment(record: RunRecord) -> str | None:
    environment = record.environment
    versions = ", ".join(f"{name} {number}" for name, number in environment.get("versions", {}).items())
    return f"{environment['hardware']}; Python {environment['python']}, {versions}" if environment else None


def _code(name: str) -> str:
    return f"[`{name}`](https://huggingface.co/{name})" if hub_id(name) else f"`{public_name(name)}`"


def _number(value: float | None) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and math.isfinite(value) else "-"


def template_path() -> Path:
    """The template: inside an installed package, at the top of the repository in a checkout."""
    inside = Path(__file__).parents[1] / _TEMPLATE
    return inside if inside.exists() else inside.parents[1] / _TEMPLATE
