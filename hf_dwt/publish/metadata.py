"""The metadata of a model card, which the Hub reads."""

import math

from huggingface_hub import CardData, EvalResult, ModelCardData

from ..parts import PAPER
from .describe import hub_id
from .run_record import RunRecord

TAGS = ("hf_dwt", "distillation", "weak-to-strong", f"arxiv:{PAPER}")
FIGURES = {"loss": "loss (nats)", "perplexity": "perplexity", "accuracy": "accuracy"}
_OF_TOKENS = ("fill-mask", "text-generation", "text2text-generation")


def metadata(record: RunRecord, name: str, old: CardData) -> ModelCardData:
    """What the Hub reads; `old` is that of the card before, whose license, language and tags stay."""
    asked, model = record.asked, record.model
    teachers = [record.teacher, *record.teacher.get("teachers", {}).values()]
    sources = [*(one.get("hub_id") for one in teachers), record.growth.get("hub_id")]
    if "adapter" in model:
        sources = [model.get("base_model")]
    known = [found for entry in record.datasets if (found := entry.get("id"))]
    data = ModelCardData(
        language=asked.get("language") or old.get("language"),
        license=asked.get("license") or old.get("license") or record.teacher.get("license"),
        library_name="peft" if "adapter" in model else "transformers",
        pipeline_tag=model.get("task"),
        base_model=[name for name in dict.fromkeys(map(hub_id, sources)) if name] or None,
        datasets=_listed(asked.get("datasets")) or known or None,
        tags=list(dict.fromkeys((*TAGS, *_listed(asked.get("tags")), *_listed(old.get("tags"))))),
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
        for key, label in figures(record).items()
        if math.isfinite(value := entries[-1].get(f"eval_{key}", math.nan))
    ]


def figures(record: RunRecord) -> dict[str, str]:
    """Figure -> title, of those that say something of the task: exp(loss) is a perplexity of tokens alone."""
    if record.model.get("outcome") == "number":
        return {"loss": "mean squared error"}
    without = set() if record.model.get("task", _OF_TOKENS[0]) in _OF_TOKENS else {"perplexity"}
    return {key: title for key, title in FIGURES.items() if key not in without}


def _listed(values: str | list[str] | None) -> list[str]:
    return [values] if isinstance(values, str) else list(values or [])
