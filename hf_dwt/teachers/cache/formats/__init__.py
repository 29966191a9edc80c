"""Cache formats: what a teacher cache stores of each row, one file and one line here each."""

from collections.abc import Iterable

from ....errors import CacheError
from ....objective import Targets
from ....objective.logits import LinearLogits
from ....parts import help_text, registry
from .hidden import HIDDEN
from .logits import LOGITS
from .record import CacheFormat, Codec
from .sampled import SAMPLED
from .top_k import TOP_K

FORMATS = registry(HIDDEN, TOP_K, SAMPLED, LOGITS)
AUTO = "auto"
"""The name of the smallest unbiased format that fits the teacher."""


def format_names(*, every_divergence: bool = False) -> list[str]:
    """What `teacher_cache_form` may be, "auto" last; or what it may be with a soft term other than forward KL."""
    formats = [each for each in FORMATS.values() if each.vocabulary]
    whole = all(each.every_divergence for each in formats if each.unbiased)  # those of "auto"
    names = [each.name for each in formats if each.every_divergence or not every_divergence]
    return names if every_divergence and not whole else [*names, AUTO]


def format_help() -> str:
    """The clauses of the help of `teacher_cache_form`."""
    formats = {name: each for name, each in FORMATS.items() if each.vocabulary}
    return f"{help_text(formats)}, {AUTO} (the smallest of {', '.join(_automatic(formats.values()))})"


def _automatic(formats: Iterable[CacheFormat]) -> list[str]:
    """Names of the formats that "auto" chooses among."""
    return [each.name for each in formats if each.unbiased]


def choose_format(
    name: str, vocabulary: bool, sample: Targets, k: int, temperature: float
) -> tuple[CacheFormat, Codec]:
    """The format of that name for a teacher, and its codec.

    Args:
        name: a name of `FORMATS`; or "auto", the unbiased format with the fewest bytes a row.
        vocabulary: whether the classes are a vocabulary; the few of a classification are stored as they are.
        sample: targets of the teacher, for their kind and shape.
        k: classes stored by the sparse formats.
        temperature: at which those are stored.

    Raises:
        CacheError: the format needs a teacher with a linear head, and this one has none.
    """
    linear = isinstance(sample.logits, LinearLogits)
    formats = [each for each in FORMATS.values() if each.vocabulary == vocabulary]
    fitting = [each for each in formats if linear or not each.linear_head]
    if vocabulary and name != AUTO:
        fitting = [each for each in fitting if each.name == name]
        if not fitting:
            others = " or ".join(repr(each.name) for each in formats if not each.linear_head)
            raise CacheError(
                "teacher_cache_form",
                name,
                "needs a teacher whose logits are a linear map of its last hidden states, which this one's are not.",
                f"Use teacher_cache_form={others}.",
            )
    else:
        fitting = [each for each in fitting if each.unbiased]
    made = [(each, each(sample, k, temperature)) for each in fitting]
    return min(made, key=lambda pair: pair[1].bytes_per_row)


__all__ = ["AUTO", "FORMATS", "CacheFormat", "Codec", "choose_format", "format_help", "format_names"]
