"""The model card, from the record of a run and model_card_template.md."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..parts import PAPER, Part, Reference
from .bookkeeping import Bookkeeping
from .describe import hub_id, public_name
from .run_record import GROWTH_FILE, GrowthSection, RunRecord, write_whole

CARD_FILE = "README.md"
KEEP = ("<!-- keep -->", "<!-- /keep -->")
"""What stands between these in a card is the user's, and survives every rewriting."""

_TEMPLATE = "model_card_template.md"
_TAGS = ("hf_dwt", "distillation", "weak-to-strong", f"arxiv:{PAPER}")
_FIGURES = {"loss": "loss (nats)", "perplexity": "perplexity", "accuracy": "accuracy"}
# As their authors and peft's pages spell what peft names in capitals.
_ADAPTERS = {"LORA": "LoRA", "ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr", "VERA": "VeRA", "DORA": "DoRA"}
_GENERATE = """inputs = tokenizer("In the beginning", return_tensors="pt")
print(tokenizer.batch_decode(model.generate(inputs["input_ids"], max_new_tokens=20)))"""
# task -> lines that run the model, once it and its tokenizer are loaded
_USE = {
    "fill-mask": """inputs = tokenizer(f"A {tokenizer.mask_token} of text.", return_tensors="pt")
print(tokenizer.batch_decode(model(**inputs).logits.argmax(-1)))""",
    "text-generation": _GENERATE,
    "text2text-generation": _GENERATE,
    "text-classification": """inputs = tokenizer("Some text.", return_tensors="pt")
print(model.config.id2label[int(model(**inputs).logits.argmax())])""",
    "token-classification": """inputs = tokenizer("Some text.", return_tensors="pt")
print([model.config.id2label[int(label)] for label in model(**inputs).logits[0].argmax(-1)])""",
}


def write_card(record: RunRecord, folder: str | Path, bookkeeping: Bookkeeping | None = None) -> None:
    """Write README.md into the folder of a saved model; what the user wrote in the one that is there stays.

    That is what stands between the markers `KEEP`, and license, language and further tags in the metadata. Sections
    that fail are left out; `bookkeeping` has warned of some before.
    """
    path = Path(folder) / CARD_FILE
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    write_whole(path, str(model_card(record, folder, old, bookkeeping)))


def model_card(
    record: RunRecord, folder: str | Path | None = None, old: str = "", bookkeeping: Bookkeeping | None = None
) -> ModelCard:
    """The card, with metadata that the Hub accepts: ids of the Hub only, and nothing that is not known.

    Args:
        record: of the run.
        folder: where pictures and `growth.json` lie; its name stands for a repository's id that is not known.
        old: the text of the card that it replaces.
        bookkeeping: of the run, which warns of each section that fails once.
    """
    model_id = record.asked.get("model_id") or public_name(folder or "model")
    name = record.asked.get("model_name") or model_id.rstrip("/").split("/")[-1]
    values: dict[str, Any] = {"model_name": name, "model_id": model_id, "record": record, "keep": _kept(old)}
    sections: dict[str, Callable[[], Any]] = {
        "summary": lambda: _summary(record),
        "growth": lambda: _growth(record, folder),
        "objective": lambda: _objective(record),
        "training": lambda: _training(record),
        "results": lambda: _results(record),
        "figures": lambda: list(_figures(record).values()),
        "use": lambda: _USE.get(record.model.get("task", "")),
        "verdict": lambda: _verdict(record),
        "tokenizer": lambda: folder is None or (Path(folder) / "tokenizer_config.json").is_file(),
        "picture": lambda: folder is not None and (Path(folder) / "curves.png").is_file(),
        "environment": lambda: _environment(record),
        "parts": lambda: _parts(record, folder),
    }
    bookkeeping = bookkeeping or Bookkeeping()
    for section, make in sections.items():
        values[section] = bookkeeping.get(f"the card's section {section!r}", make, None)
    values |= {"number": _number, "settings": sorted(record.settings.items())}
    made = bookkeeping.get("the card's section 'metadata'", lambda: _metadata(record, name, _old_data(old)), None)
    data = made or ModelCardData(tags=list(_TAGS))
    return ModelCard.from_template(data, template_path=str(template_path()), **values)


# ---- metadata ----


def _metadata(record: RunRecord, name: str, old: dict[str, Any]) -> ModelCardData:
    asked, model = record.asked, record.model
    sources: list[Any] = [model.get("base_model")] if "adapter" in model else []
    sources += [] if "adapter" in model else [record.teacher.get("hub_id"), record.growth.get("hub_id")]
    known = [str(entry["id"]) for entry in record.datasets if entry.get("id")]
    data = ModelCardData(
        language=asked.get("language") or old.get("language"),
        license=asked.get("license") or old.get("license") or record.teacher.get("license"),
        library_name="peft" if "adapter" in model else "transformers",
        pipeline_tag=model.get("task"),
        base_model=[name for name in dict.fromkeys(map(hub_id, sources)) if name] or None,
        datasets=_listed(asked.get("datasets")) or known or None,
        tags=list(dict.fromkeys((*_TAGS, *_listed(asked.get("tags")), *_listed(old.get("tags"))))),
    )
    results = _eval_results(record)
    if results:
        data.model_name, data.eval_results = name, results
    return data


def _eval_results(record: RunRecord) -> list[EvalResult]:
    task = record.model.get("task") or "other"
    dataset = record.datasets[0] if record.datasets else None
    return [
        EvalResult(
            task_type=task,
            metric_type=key,
            metric_name=label,
            metric_value=round(value, 6),
            dataset_type=(dataset and dataset["id"]) or "held-out",
            dataset_name=(dataset and dataset["name"]) or "held-out data",
            dataset_split=evaluated or None,
        )
        for evaluated, entries in record.evaluations.items()
        for key, label in _figures(record).items()
        if math.isfinite(value := entries[-1].get(f"eval_{key}", math.nan))
    ]


def _figures(record: RunRecord) -> dict[str, str]:
    """Figure -> title, of those that say something of the task: exp(loss) is a perplexity of tokens alone."""
    without = {"perplexity"} if record.model.get("task", "").endswith("-classification") else set()
    return {key: title for key, title in _FIGURES.items() if key not in without}


def _listed(values: Any) -> list[str]:
    return [values] if isinstance(values, str) else list(values or [])


def _old_data(text: str) -> dict[str, Any]:
    head = re.match(r"---\s*\n(.*?)\n---\s*\n", text, re.DOTALL)
    try:
        data = yaml.safe_load(head[1]) if head else {}
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


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
        what = f"A {_ADAPTERS.get(model['adapter'], model['adapter'])} adapter"
        size = f" for {_code(model['base_model'])}"
    if not teacher:
        return f"{what}{size}, trained with hf_dwt."
    weak = f", a model of {teacher['parameters']:,} parameters" if teacher.get("parameters") else ""
    weak += (
        f" ({teacher['parameters'] / model['parameters']:.0%} of this one's)" if weak and size[4:5].isdigit() else ""
    )
    how = "trained with hf_dwt by Distillation from Weak Teacher: it learned from text and from"
    return f"{what}{size}, {how} {_code(teacher['name'])}{weak}."


def _growth(record: RunRecord, folder: str | Path | None) -> str | None:
    growth = _known_growth(record, folder)
    if not growth:
        return None
    text = f"`init={growth['init']!r}` from {_code(public_name(growth['teacher']))}"
    total = growth["copied"] + growth["fresh"]
    share = f": {growth['copied'] / total:.0%} of its {total:,} numbers are the teacher's" if total else ""
    return f"{text}{share}, seed {growth['seed']}"


def _known_growth(record: RunRecord, folder: str | Path | None) -> GrowthSection:
    """What the run knows of the student's growth, or else the file of it beside the weights."""
    path = Path(folder or "") / GROWTH_FILE
    if record.growth or folder is None or not path.is_file():
        return record.growth
    growth: GrowthSection = json.loads(path.read_text(encoding="utf-8"))
    return growth


def _parts(record: RunRecord, folder: str | Path | None) -> list[tuple[str, str, str | None]]:
    """(part, title, number of the paper or None) of all whose ideas the run is made of, beside the paper's."""
    references = _references(record.objective) if record.teacher else []
    parts = [(one.what, one.title, one.arxiv) for one in references if one.arxiv != PAPER]
    grown = _known_growth(record, folder).get("references", [])
    return [*parts, *((one["what"], one["title"], one["arxiv"]) for one in grown)]


def _references(objective: Mapping[str, object]) -> list[Reference]:
    """Of the parts that an objective names."""
    from ..objective import SOFT_TERMS
    from ..objective.scaling import SCALINGS
    from ..schedules import choices

    known: dict[str, Mapping[str, Part[..., Any]]] = {
        "schedule": choices(),
        "soft_term": SOFT_TERMS,
        "soft_loss_scaling": SCALINGS,
    }
    chosen = (parts.get(str(objective.get(field))) for field, parts in known.items())
    return [reference for part in chosen if part is not None for reference in part.references]


def _objective(record: RunRecord) -> str | None:
    said = record.objective
    if not said:
        return None
    text = f"{said['hard_weight']:g} x cross-entropy of the labels"
    if record.teacher and said["soft_weight"] > 0:
        scale = " x tau^2" if said["soft_loss_scaling"] == "tau_squared" else ""
        text += f" + {said['soft_weight']:g} x {said['soft_term']} to the teacher{scale} (temperature "
        text += f"{said['temperature']:g}), the weights moving by the schedule `{said['schedule']}`"
        text += f" with {said['schedule_kwargs']}" if said.get("schedule_kwargs") else ""
    return text


def _training(record: RunRecord) -> str | None:
    said = record.training
    if not said:
        return None
    text = f"{said['steps']:,} steps"
    text += f" of {said['examples_per_step']} examples" if said.get("examples_per_step") else ""
    text += f", {said['tokens']:,} tokens seen" if said.get("tokens") else ""
    text += " (any padding among them)" if said.get("tokens") and said.get("padding_counted") else ""
    if said.get("total"):
        text += f", {said['total']:.4g} s of training: {said['student']:.4g} s the student"
        text += f", {said['teacher']:.4g} s the teacher" if said.get("teacher") else ""
        text += f", {said['data']:.4g} s waiting for data"
    return f"{text}; seed {said['seed']}"


def _results(record: RunRecord) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, dict[str, float]]] = []
    for evaluated, entries in record.evaluations.items():
        last, where = entries[-1], f" on `{evaluated}`" if evaluated else ""
        if (loss := last.get("eval_teacher_loss")) is not None:
            teacher = {"loss": loss, "perplexity": math.exp(min(loss, 700))}
            rows.append((f"the weak teacher{where}", {**teacher, **_of(last, "eval_teacher_")}))
        rows.append((f"**this model**{where}", _of(last, "eval_")))
    if rows and record.baseline:
        rows.append(("the same without the teacher", record.baseline))
    return [(name, [_number(row.get(key)) for key in _figures(record)]) for name, row in rows]


def _of(entry: dict[str, float], prefix: str) -> dict[str, float]:
    return {key: entry[prefix + key] for key in _FIGURES if prefix + key in entry}


def _verdict(record: RunRecord) -> str | None:
    if "eval_teacher_loss" not in record.metrics:
        return None
    passed, main = record.overtook, next(iter(record.evaluations))
    where = f" on `{main}`" if main else ""
    if passed is None:
        return f"It did not come below its teacher's loss{where}."
    seconds = f" and {passed['seconds']:.4g} s" if "seconds" in passed else ""
    return f"It was below its teacher's loss{where} after {passed['step']} steps{seconds}, at the latest."


def _environment(record: RunRecord) -> str | None:
    said = record.environment
    versions = ", ".join(f"{name} {number}" for name, number in said.get("versions", {}).items())
    return f"{said['hardware']}; Python {said['python']}, {versions}" if said else None


def _code(name: Any) -> str:
    return f"[`{name}`](https://huggingface.co/{name})" if hub_id(name) else f"`{public_name(name)}`"


def _number(value: float | None) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and math.isfinite(value) else "-"


def template_path() -> Path:
    """The template: inside an installed package, at the top of the repository in a checkout."""
    inside = Path(__file__).parents[1] / _TEMPLATE
    return inside if inside.exists() else inside.parents[1] / _TEMPLATE
