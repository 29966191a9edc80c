"""Does this teacher help? Measured on the user's own data before training, and answered from the study."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..batches.collation import default_collator
from ..batches.examples import Examples
from ..batches.seeds import Collator
from ..engines import gathered
from ..forward.rows import select_rows
from ..tasks import Task
from ..teachers.loading import TeacherSource, load_teacher, load_teacher_tokenizer
from .arguments import check
from .assessment import Assessment, Figures
from .data import collated, examples_of, spaced, special_ids, task_of
from .evidence import advice
from .measure import counted_tokens, figures_of, unigram_loss


def assess_teacher(
    teacher: TeacherSource,
    dataset: Examples,
    *,
    student: nn.Module | Mapping[str, int] | None = None,
    data_collator: Collator | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    samples: int = 256,
    batch_size: int = 16,
    seed: int = 0,
    device: str | torch.device | None = None,
    **from_pretrained_kwargs: Any,
) -> Assessment:
    """Whether a weak teacher helps on this data, and with which arguments: in a minute, before training.

    Args:
        teacher: Hub id, path or model.
        dataset: examples as the trainer gets them (map-style), or texts: strings, or a column "text".
        student: the model to be trained, or the sizes to grow one to, such as {"hidden_size": 512}: then a student
            from scratch and one grown with `init="auto"` are measured.
        data_collator: as the trainer's; by default that of the task.
        processing_class: the tokenizer; by default the teacher's.
        samples: about how many examples are used, evenly spaced over the data.
        batch_size: examples of a batch.
        seed: of the masks.
        device: where to run; by default a GPU if there is one.
        **from_pretrained_kwargs: how to load the teacher: revision, dtype, token, ...

    Raises:
        DistillationError: a teacher that cannot be loaded or has no head, or data without text or labels.
    """
    given = {name: value for name, value in locals().items() if name != "from_pretrained_kwargs"}
    check(given, from_pretrained_kwargs)
    task = task_of(teacher, from_pretrained_kwargs)
    model = load_teacher(teacher, task, from_pretrained_kwargs)
    tokenizer = processing_class or load_teacher_tokenizer(teacher, from_pretrained_kwargs)
    counted = examples_of(dataset, tokenizer, model, task)
    examples = [counted[place] for place in spaced(len(counted), samples)]
    collator = data_collator or default_collator(task, tokenizer)
    models: dict[str, nn.Module] = {"teacher": model, **_students(student, teacher, from_pretrained_kwargs, seed)}
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    batches = collated(examples, collator, models.values(), batch_size, seed)
    figures: dict[str, Figures] = {}
    for name, measured in models.items():
        before = next(measured.parameters()).device
        figures[name] = figures_of(measured.to(device), task, batches, device)
        measured.to(before)
    return judge(task, batches, counted_tokens(counted, task, special_ids(tokenizer)), figures.pop("teacher"), figures)


def judge(
    task: Task, batches: list[dict[str, Tensor]], counted: Tensor, teacher: Figures, students: dict[str, Figures]
) -> Assessment:
    """The verdict on a teacher.

    Args:
        task: of the teacher.
        batches: on which its figures were measured.
        counted: the (n,) tokens or classes whose frequencies it must beat; if there are none, those of the labels.
        teacher: the teacher's figures.
        students: those of students before training, by how they start.
    """
    labels = torch.cat([select_rows(batch["labels"], task.shifts).labels for batch in batches]).cpu()
    unigram = unigram_loss(counted if len(counted) else labels, labels)
    examples = sum(len(batch["labels"]) for batch in batches)
    found = Assessment(task.name, examples, len(labels), unigram, teacher, students)
    found.verdict, found.suggestion, found.evidence = advice(found.explained)
    return found


def _students(
    student: nn.Module | Mapping[str, Any] | None, teacher: Any, loading: Mapping[str, Any], seed: int
) -> dict[str, nn.Module]:
    if student is None:
        return {}
    if isinstance(student, nn.Module):
        return {"as given": gathered(student)}
    from ..growth.api import from_weak_teacher

    made = {"from scratch": "random", "grown": "auto"}
    return {
        name: from_weak_teacher(teacher, init=init, seed=seed, **student, **loading) for name, init in made.items()
    }


__all__ = ["Assessment", "Figures", "assess_teacher", "judge"]
