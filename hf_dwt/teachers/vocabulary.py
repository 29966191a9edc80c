"""Whether token ids and classes mean the same to student and teacher, and which of them the teacher does not know."""

import logging
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedTokenizerBase

from ..errors import DistillationError, VocabularyError
from ..tasks import Outcome, Task, plain_model
from .frozen import KnownTokens

logger = logging.getLogger(__name__)

_CLASSES = {Outcome.CHOICE: 0, Outcome.LABEL: 2, Outcome.NUMBER: 1}


class SharedVocabulary(NamedTuple):
    """What the token ids of student and teacher have in common.

    classes: how many of the first ids mean the same to both.
    known: what the teacher knows where the student's tokenizer has more tokens, or None.
    problems: why they cannot be compared, or mean something else.
    """

    classes: int
    known: KnownTokens | None = None
    problems: tuple[DistillationError, ...] = ()


def vocabulary_size(model: nn.Module) -> int:
    """The number of token ids a model has rows for."""
    config = plain_model(model).config
    return int(config.get_text_config().vocab_size)


def class_count(model: nn.Module, task: Task) -> int:
    """C, the number of classes of a row, as a model's logits at the rows have them; 0 where batches differ in it."""
    if (known := _CLASSES.get(task.outcome)) is not None:
        return known
    labels = plain_model(model).config.num_labels  # never None, though a model may have no head for them
    return vocabulary_size(model) if task.vocabulary else labels or 0


def shared_vocabulary(
    student: nn.Module,
    teacher: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> SharedVocabulary:
    """Compare two models' token ids by their tokenizers. One may have tokens after all those of the other.

    Rows beyond the tokens of both are padding. Tokens that the student's tokenizer has added are left to the labels.
    """
    sizes = vocabulary_size(student), vocabulary_size(teacher)
    if not (hasattr(tokenizer, "get_vocab") and hasattr(teacher_tokenizer, "get_vocab")):
        return _without_tokenizers(teacher, sizes, "processing_class" if tokenizer is None else "")
    own, other = tokenizer.get_vocab(), teacher_tokenizer.get_vocab()  # type: ignore[union-attr]
    common = max((i for token, i in own.items() if other.get(token) == i), default=-1)
    added, gone = ({i: t for t, i in one.items() - two.items()} for one, two in ((own, other), (other, own)))
    if min({**added, **gone}, default=common + 1) <= common or added.keys() & gone.keys():
        return SharedVocabulary(0, problems=(_another(teacher_tokenizer, added, gone),))
    if max(own.values(), default=-1) >= sizes[0]:
        problem = f"has ids up to {max(own.values())}, beyond the {sizes[0]} that the student has rows for."
        fix = "Resize the student: model.resize_token_embeddings(len(tokenizer))."
        return SharedVocabulary(
            0, problems=(VocabularyError("processing_class", type(tokenizer).__name__, problem, fix),)
        )
    count = min((sizes[1], *added, *gone))
    unknown = {i: token for token, i in own.items() if i >= count}
    shared = min(sizes[0], count)
    return _with_unknown(shared, unknown, teacher_tokenizer) if unknown else SharedVocabulary(shared)


def _without_tokenizers(teacher: nn.Module, sizes: tuple[int, int], missing: str) -> SharedVocabulary:
    missing = missing or "teacher_processing_class"
    if sizes[0] == sizes[1]:
        logger.warning(
            "Whether token ids mean the same to the student and to the teacher %r is not checked: there are no two "
            "tokenizers to compare. Give %s.",
            getattr(plain_model(teacher), "name_or_path", "") or type(teacher).__name__,
            missing,
        )
        return SharedVocabulary(sizes[0])
    problem = f"has {sizes[1]} token ids, the student {sizes[0]}, and nothing shows that they mean the same."
    fix = (
        "Give processing_class and teacher_processing_class, the teacher's own: rows beyond their tokens are padding, "
        "and tokens that the student's has added are left to the labels."
    )
    return SharedVocabulary(0, problems=(VocabularyError("teacher_model", type(teacher).__name__, problem, fix),))


def _another(tokenizer: object, added: dict[int, str], gone: dict[int, str]) -> VocabularyError:
    token_id, token = min({**gone, **added}.items())
    return VocabularyError(
        "teacher_processing_class",
        type(tokenizer).__name__,
        f"is another tokenizer than the student's ({len(added) + len(gone)} entries differ, the first being "
        f"{token!r} with id {token_id}): ids would be taught under wrong names.",
        "Use one tokenizer for both, to which the student's may add tokens; or have the teacher read the texts in its "
        "own tokens: teacher_model=OtherTokenizer(teacher), of hf_dwt.teachers.",
    )


def _with_unknown(shared: int, unknown: dict[int, str], tokenizer: object) -> SharedVocabulary:
    first = min(unknown)
    names = ("unk_token", "mask_token", "pad_token", "eos_token")
    kept = (name for name in names if (i := getattr(tokenizer, f"{name}_id", None)) is not None and i < shared)
    name = next(kept, None)
    if name is None:
        problem = f"does not know {unknown[first]!r} with id {first}, and has no token to read in its place."
        fix = "Set its unk_token (or mask_token, pad_token, eos_token), and give it as teacher_processing_class."
        return SharedVocabulary(
            0, problems=(VocabularyError("teacher_processing_class", type(tokenizer).__name__, problem, fix),)
        )
    logger.warning(
        "The teacher does not know %d tokens of processing_class, the first being %r with id %d: it reads %r in their "
        "place, and rows with such a label learn from the label alone.",
        len(unknown),
        unknown[first],
        first,
        getattr(tokenizer, name),
    )
    return SharedVocabulary(shared, KnownTokens(shared, getattr(tokenizer, f"{name}_id")))


def label_problems(student: nn.Module, teacher: nn.Module) -> list[DistillationError]:
    """Classes that do not mean the same to both models."""
    own, other = (dict(plain_model(model).config.id2label) for model in (student, teacher))  # type: ignore[arg-type]
    if own == other:
        return []
    return [
        VocabularyError(
            "teacher_model.config.id2label",
            other,
            f"names other classes than the student's {own}.",
            "Use a teacher trained for the same labels, or set the student's id2label and label2id to the teacher's.",
        )
    ]
