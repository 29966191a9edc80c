"""The model card, from facts of the run and model_card_template.md."""

import dataclasses
import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

_TEMPLATE = "model_card_template.md"
_TAGS = ("hf_dwt", "distillation", "weak-to-strong", "arxiv:2305.18239")
_FIGURES = {"eval_loss": "loss (nats)", "eval_perplexity": "perplexity", "eval_accuracy": "accuracy"}


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a run.

    model_id: where the model goes: a Hub id, or a folder.
    teacher: the teacher's id, path or class; teacher_hub_id: its id, if it came from the Hub.
    growth: how the student was initialised from a teacher, a sentence.
    settings: arguments that differ from their defaults.
    metrics: of the last evaluation, as the Trainer names them.
    """

    model_id: str
    task: str
    auto_class: str
    student_class: str
    student_parameters: int
    objective: str
    training: str
    teacher: str | None = None
    teacher_hub_id: str | None = None
    teacher_parameters: int = 0
    growth: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    language: str | None = None
    license: str | None = None
    tags: str | list[str] | None = None
    datasets: str | list[str] | None = None


def collect_facts(trainer: Any, **known: Any) -> CardFacts:
    """The facts of a `DistillationTrainer`'s run so far; `known` are fields that it cannot know."""
    student, knobs, state = trainer.model, trainer.knobs, trainer.state
    growth = getattr(student, "growth_report", None)
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
    objective = f"{knobs.hard_weight:g} x cross-entropy of the labels"
    if trainer.teacher is not None and knobs.soft_weight > 0:
        objective += (
            f" + {knobs.soft_weight:g} x {knobs.to_dict()['soft_term']} to the teacher (temperature "
            f"{knobs.temperature:g}), the weights moving by the schedule {knobs.to_dict()['soft_weight_schedule']}"
        )
    return CardFacts(
        model_id=trainer.hub_model_id or str(trainer.args.output_dir),
        task=trainer.task.name,
        auto_class=trainer.task.auto_class,
        student_class=type(student).__name__,
        student_parameters=student.num_parameters(),
        objective=objective,
        training=f"{state.global_step:,} steps of {trainer.get_total_train_batch_size(trainer.args)} examples",
        growth=f"init={growth.init!r} from {_name(growth.teacher)}" if growth is not None else None,
        settings=non_default_settings(trainer.args),
        metrics=evaluations[-1] if evaluations else {},
        **_teacher_facts(trainer),
        **known,
    )


def _teacher_facts(trainer: Any) -> dict[str, Any]:
    if trainer.teacher is None:
        return {}
    model, source = getattr(trainer.teacher, "model", None), trainer.teacher_source
    own_name = getattr(model, "name_or_path", "") or type(model or trainer.teacher).__name__
    from_hub = isinstance(source, str) and not os.path.exists(source)
    return {
        "teacher": _name(source if isinstance(source, str | os.PathLike) else own_name),
        "teacher_hub_id": source if from_hub else None,
        "teacher_parameters": sum(p.numel() for p in model.parameters()) if model is not None else 0,
    }


def _name(source: Any) -> str:
    """An id as it is; of a local path its last part: others have no use for the rest."""
    text = os.fspath(source)
    return os.path.basename(os.path.abspath(text)) if os.path.exists(text) else text


def model_card(facts: CardFacts) -> ModelCard:
    """The card, with metadata that the Hub accepts: ids of the Hub only, and nothing that is not known."""
    own_tags = [facts.tags] if isinstance(facts.tags, str) else facts.tags or []
    data = ModelCardData(
        language=facts.language,
        license=facts.license,
        library_name="transformers",
        pipeline_tag=facts.task,
        base_model=facts.teacher_hub_id,
        datasets=facts.datasets,
        tags=list(dict.fromkeys((*_TAGS, *own_tags))),
    )
    results = [(name, f"{facts.metrics[key]:.4g}") for key, name in _FIGURES.items() if key in facts.metrics]
    teacher_loss = facts.metrics.get("eval_teacher_loss")
    names = ("hf_dwt", "transformers", "torch", "datasets", "accelerate")
    return ModelCard.from_template(
        data,
        template_path=str(template_path()),
        model_name=facts.model_id.rstrip("/").split("/")[-1],
        model_id=facts.model_id,
        task=facts.task,
        auto_class=facts.auto_class,
        student_class=facts.student_class,
        student_parameters=f"{facts.student_parameters:,}",
        teacher=f"`{facts.teacher}`" if facts.teacher else None,
        teacher_parameters=f"{facts.teacher_parameters:,}",
        growth=facts.growth,
        objective=facts.objective,
        training=facts.training,
        settings=sorted(facts.settings.items()),
        results=results,
        teacher_loss=None if teacher_loss is None else f"{teacher_loss:.4g} nats",
        versions=", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)]),
    )


def template_path() -> Path:
    """The template: inside an installed package, at the top of the repository in a checkout."""
    inside = Path(__file__).parent / _TEMPLATE
    return inside if inside.exists() else inside.parents[1] / _TEMPLATE


def non_default_settings(args: Any) -> dict[str, Any]:
    """The fields of a dataclass of arguments that differ from a default instance's, without paths and tokens."""
    plain = args.to_dict()
    default = type(args)(output_dir=args.output_dir).to_dict()
    names = [f.name for f in dataclasses.fields(args) if f.name in plain]
    local = ("token", "_dir", "hub_", "push_to_hub", "run_name", "resume_from_checkpoint", "disable_tqdm")
    return {
        name: plain[name]
        for name in names
        if plain[name] != default.get(name) and not any(word in name for word in local)
    }
