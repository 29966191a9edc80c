"""What is wrong with text that a teacher is to make, before any is made."""

from typing import Any

from torch import nn

from ..batches.proposing import ProposingCollator
from ..errors import ArgumentError, DataError, DistillationError, TeacherError, VocabularyError, unknown_name
from ..kinds import FUNCTION, SOURCE, Bounds, Kind, number, whole
from ..tasks import Task, find_task, model_class
from ..teachers.vocabulary import vocabulary_size

CHOICES = ("disagreement", "random")
LABELS = ("teacher", "words")
MASKED, CAUSAL = "AutoModelForMaskedLM", "AutoModelForCausalLM"

KEYWORDS = Kind(lambda value: isinstance(value, dict), "is {given}, not a dict.", "Give a dict.")
_KINDS = {
    "collator": FUNCTION._replace(fix="Give a data collator, such as DataCollatorForLanguageModeling(tokenizer)."),
    "teacher": SOURCE,
    "share": number(Bounds(0, 1), "is no share of the examples."),
    "spans": number(Bounds(0, 1, above=True), "is no share of an example's tokens."),
    "temperature": number(Bounds(above=True), "cannot divide logits."),
    "candidates": whole(Bounds(1), "is no number of candidates."),
    "init_kwargs": KEYWORDS.or_none(),
}


def argument_problems(given: dict[str, Any]) -> list[DistillationError]:
    """What is wrong with the arguments of `TeacherProposals` by themselves."""
    problems = [kind.error(name, given[name]) for name, kind in _KINDS.items() if not kind.is_right(given[name])]
    for name, known in (("choose", CHOICES), ("labels", LABELS)):
        if given[name] not in known:
            problems.append(unknown_name(name, given[name], known))
    if given["choose"] == "disagreement" and given["candidates"] == 1:
        problem = "leaves nothing to choose among."
        problems.append(ArgumentError("candidates", 1, problem, "Give 2 or more, or choose='random'."))
    if isinstance(given["collator"], ProposingCollator):
        problem = "makes text of its own, which this one would overwrite."
        problems.append(
            ArgumentError("collator", type(given["collator"]).__name__, problem, "Give its plain collator.")
        )
    if not hasattr(given["tokenizer"], "all_special_ids"):
        fix = "Give that of the data: tokenizer=tokenizer."
        shown = type(given["tokenizer"]).__name__
        problems.append(ArgumentError("tokenizer", shown, "shows no special tokens, which are left alone.", fix))
    return problems


def teacher_problems(
    teacher: nn.Module, task: Task, collator: object, tokenizer: Any, own_tokenizer: Any
) -> list[DistillationError]:
    """Why a teacher cannot write for that collator.

    Args:
        teacher: loaded.
        task: its task.
        collator: of the user.
        tokenizer: of the data.
        own_tokenizer: as it was saved with the teacher, or None.
    """
    name, problems = model_class(teacher).__name__, list[DistillationError]()
    masks = getattr(collator, "mlm", None)
    if masks and task.auto_class == CAUSAL:
        problem = "continues a text, and cannot fill the masks that the collator makes."
        problems.append(TeacherError("teacher", name, problem, "Give a masked language model."))
    if masks is False and task.auto_class == MASKED:
        problem = "fills masks, and cannot continue a text; the collator makes none."
        problems.append(TeacherError("teacher", name, problem, "Give a causal language model, or mlm=True."))
    if task.auto_class == MASKED and getattr(tokenizer, "mask_token_id", None) is None:
        problem = "has no mask, so nothing can be left open for the teacher to fill."
        problems.append(VocabularyError("tokenizer", type(tokenizer).__name__, problem, "Set its mask_token."))
    if task.auto_class == CAUSAL and not hasattr(teacher, "generate"):
        problem = "has no `generate`, by which it would continue a text."
        problems.append(TeacherError("teacher", name, problem, "Give a causal model of transformers."))
    size, most = vocabulary_size(teacher), max(tokenizer.get_vocab().values(), default=0)
    if most >= size:
        problem = f"has ids up to {most}, and the teacher knows {size}."
        fix = "Give a teacher of the same tokenizer."
        problems.append(VocabularyError("tokenizer", type(tokenizer).__name__, problem, fix))
    if hasattr(own_tokenizer, "get_vocab") and (other := _difference(tokenizer, own_tokenizer)):
        problem = f"is another one than the student's: {other}. Words would be drawn under wrong names."
        fix = "Give a teacher of the same tokenizer."
        problems.append(VocabularyError("teacher's tokenizer", type(own_tokenizer).__name__, problem, fix))
    return problems


def student_problems(
    student: nn.Module, task: Task, teacher: nn.Module, tokenizer: Any, of_run: Any
) -> list[DistillationError]:
    """Why the text of a teacher is none for that student; `of_run` is the trainer's tokenizer, or None."""
    own, problems = find_task(teacher, "teacher"), list[DistillationError]()
    if own is not task:
        does = "fills masks" if own.auto_class == MASKED else "continues a text"
        problem = f"{does}, which is no training for a student of {task.name}."
        fix = f"Give TeacherProposals a model of the student's task, {task.name}."
        problems.append(TeacherError("data_collator.teacher", model_class(teacher).__name__, problem, fix))
    if hasattr(of_run, "get_vocab") and (other := _difference(of_run, tokenizer)):
        problem = f"is another tokenizer than that of data_collator: {other}."
        problems.append(VocabularyError("processing_class", type(of_run).__name__, problem, "Use one for both."))
    if (most := max(tokenizer.get_vocab().values(), default=0)) >= (size := vocabulary_size(student)):
        problem, fix = f"has ids up to {most}, and the student knows {size}.", "Resize the student to len(tokenizer)."
        problems.append(VocabularyError("data_collator.tokenizer", type(tokenizer).__name__, problem, fix))
    return problems


def token_ids(feature: Any, number: int) -> list[int]:
    """Of an example before collating.

    Raises:
        DataError: it has none.
    """
    try:
        return [int(one) for one in feature["input_ids"]]
    except (TypeError, KeyError, ValueError, IndexError) as error:
        names = ", ".join(sorted(feature)) if isinstance(feature, dict) else type(feature).__name__
        problem = f"are not in example {number} of a batch, which has {names}."
        fix = "Tokenize the examples, and let data_collator pad them."
        raise DataError("input_ids", None, problem, fix) from error


def _difference(one: Any, other: Any) -> str:
    """The first token that two tokenizers number differently; empty for none."""
    own, others = one.get_vocab(), other.get_vocab()
    wrong = sorted((i, token) for token, i in own.items() if others.get(token, i) != i)
    return f"{wrong[0][1]!r} is {wrong[0][0]} here and {others[wrong[0][1]]} there" if wrong else ""
