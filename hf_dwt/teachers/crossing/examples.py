"""One example of a batch in the tokens of two tokenizers."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ...errors import DataError
from ...forward.calls import Batch
from ...tasks import IGNORED, Task
from .reading import Chunk, Reader, Reading

_OTHER_LAYOUTS = ("inputs_embeds", "position_ids", "shift_labels")


@dataclass(frozen=True)
class Example:
    """An example as the student has it, without padding.

    places: of its tokens in the row of the batch.
    given: the tokens that the student reads.
    text: the same before any was masked.
    types: of each, what `token_type_ids` have.
    labelled: which are masked, or were to be; none but for a masked language model.
    """

    places: list[int]
    given: list[int]
    text: list[int]
    types: list[int]
    labelled: list[bool]

    def read(self, reader: Reader) -> "Crossed":
        """In the teacher's tokens."""
        reading = reader.read(self.text, self.types)
        return Crossed(self, reading, list(reading.chunks()), reader.shared)


@dataclass(frozen=True)
class Crossed:
    """An example in the tokens of both.

    example: in the student's.
    reading: in the teacher's, nothing masked.
    chunks: the parts of the text that are whole tokens of both.
    shared: token of the student's -> the same of the teacher's.
    """

    example: Example
    reading: Reading
    chunks: list[Chunk]
    shared: dict[int, int]

    def ids(self, mask_id: int | None, most: int | None) -> list[int]:
        """The tokens that the teacher reads, at most `most`.

        Parts of the text are masked wholly where the student is to predict a token of them, so that the teacher does
        not see it. One token in the place of one is what the student sees there: that a mask stands there, another
        token, or the token itself.
        """
        ids = list(self.reading.ids)
        for own, other in self.chunks:
            if any(self.example.labelled[i] for i in own) and mask_id is not None:
                alone = len(own) == len(other) == 1
                seen = self.shared.get(self.example.given[own[0]], mask_id) if alone else mask_id
                ids[other[0] : other[-1] + 1] = [seen] * len(other)
        return ids[:most]

    def pairs(self, task: Task) -> Iterator[tuple[int, int]]:
        """(place in the student's row, place in the teacher's) of the positions at which both predict the same.

        For a language model that is one token which is the same text in both; for a classifier of tokens, the first
        one of a part of the text.
        """
        back, places = int(task.shifts), self.example.places
        for own, other in self.chunks:
            i, j = own[0] - back, other[0] - back
            if i < 0 or j < 0 or places[own[0]] != places[i] + back:
                continue
            alone = len(own) == len(other) == 1
            same = alone and self.shared.get(self.example.text[own[0]]) == self.reading.ids[other[0]]
            if same or not task.vocabulary:
                yield places[i], j


def examples_of(batch: Batch, task: Task) -> list[Example]:
    """The examples of a batch.

    Raises:
        DataError: the batch has no token ids, or several examples in a row.
    """
    ids = batch.get("input_ids")
    other = next((name for name in _OTHER_LAYOUTS if batch.get(name) is not None), None)
    if not isinstance(ids, Tensor) or other is not None:
        problem = "has no input_ids" if other is None else f"has {other}"
        fix = "Use a data collator that pads, and give input_ids, attention_mask and labels."
        raise DataError(
            "data_collator", sorted(batch), f"{problem}: a teacher of another tokenizer reads one example a row.", fix
        )
    rows = ids.tolist()
    mask, kinds = batch.get("attention_mask"), batch.get("token_type_ids")
    masks = [[1] * len(row) for row in rows] if mask is None else mask.tolist()
    types = [[0] * len(row) for row in rows] if kinds is None else kinds.tolist()
    masked = task.vocabulary and not task.shifts
    labels = batch["labels"].tolist() if masked else [[IGNORED] * len(row) for row in rows]
    found = []
    for row, kept, kind, wanted in zip(rows, masks, types, labels, strict=True):
        places = [place for place, one in enumerate(kept) if one]
        text = [row[place] if wanted[place] == IGNORED else wanted[place] for place in places]
        found.append(
            Example(
                places,
                [row[place] for place in places],
                text,
                [kind[place] for place in places],
                [wanted[place] != IGNORED for place in places],
            )
        )
    return found
