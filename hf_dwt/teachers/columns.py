"""A teacher that ran elsewhere: what it predicted stands in columns of the data set."""

import logging
from copy import copy

import torch
from torch import Tensor

from ..batches.columns import ColumnCollator, TopKColumns, log_probs_of
from ..batches.seeds import Collator
from ..errors import DataError, TeacherError, unknown_name
from ..forward.calls import Batch
from ..forward.rows import Rows
from ..objective import Targets
from ..objective.sparse import TopK
from .composed import Shown

logger = logging.getLogger(__name__)

LABEL, POSITION = "label", "position"
ALIGNMENTS = (LABEL, POSITION)


class ColumnTeacher(Shown):
    """Reads a few classes of a teacher's distributions, and their log-probabilities, from columns of the data set.

    So a teacher that is served, or far too large, teaches without being run: `teacher_model=ColumnTeacher(...)`. An
    example has in each column one list for each of its tokens; the lists may differ in length, and None stands for no
    entry. Causal and masked language models have such teachers; the student's tokenizer must be the teacher's.

    All other classes count as one, with the probability that is left over (`hf_dwt.objective.sparse.TopK`): the soft
    term is forward KL at temperature 1, and a lower bound of that of the whole distribution. A row without an entry
    has no soft term. Of a label that is not among the ids no more is known than that it is in the rest:
    `teacher_margin` then compares the rest of both models, and an evaluation with such labels has no
    `eval_teacher_loss`. Probabilities that sum to a little over 1, as bf16 rounds, are divided by their sum.

    Args:
        ids: the column of classes. The order of an entry does not matter.
        logprobs: the column of their natural log-probabilities, at temperature 1. Below -1000 an entry does not count.
        mask: a column of the same form, 0 where an entry does not count (axolotl's `target_mask`); or None.
        aligned: which token the entry of token i is about, in a causal LM. "label": token i itself, given those before
            it, as in vLLM's `prompt_logprobs`, whose first entry is None, and which add the token itself to the k most
            likely (vllm/v1/engine/logprobs.py). "position": token i + 1, which is predicted at position i, as in
            axolotl's `target_token_ids` and `target_logprobs` (axolotl/integrations/kd/README.md, Target alignment).
            In a masked LM both are the same: the entry of token i is what the teacher had in its place, under the mask
            that it saw. So it is right for masks that are fixed in the data set alone.
        name: of the model that made the columns, such as its id on the Hub, for run.json and the model card.

    Raises:
        TeacherError: names that are none, or an unknown alignment.
    """

    def __init__(
        self,
        ids: str = "teacher_ids",
        logprobs: str = "teacher_logprobs",
        *,
        mask: str | None = None,
        aligned: str = LABEL,
        name: str | None = None,
    ) -> None:
        if aligned not in ALIGNMENTS:
            raise unknown_name("aligned", aligned, ALIGNMENTS, error=TeacherError)
        for argument, value in {"ids": ids, "logprobs": logprobs, "mask": mask or "mask"}.items():
            if not isinstance(value, str) or not value:
                raise TeacherError(argument, value, "is no name of a column.", "Give one, such as 'teacher_ids'.")
            if value in ("input_ids", "attention_mask", "labels"):
                raise TeacherError(argument, value, "is read by the student.", "Give the column another name.")
        if len({ids, logprobs, mask}) < 3:
            raise TeacherError("logprobs", logprobs, "names a column twice.", "Give a column for each.")
        self.ids, self.logprobs, self.mask, self.aligned, self.name = ids, logprobs, mask, aligned, name
        self.classes, self.shifts = 0, True  # of the student, which `of_student` sets
        self.columns = self._read.names
        self._compared = False

    @property
    def _read(self) -> TopKColumns:
        ahead = self.shifts and self.aligned == LABEL
        return TopKColumns(self.ids, self.logprobs, self.mask, ahead, self.classes)

    def of_student(self, classes: int, shifts: bool) -> "ColumnTeacher":
        """The same columns, read for a student of that many classes, which predicts the next token or not."""
        own = copy(self)
        own.classes, own.shifts = classes, shifts
        return own

    def collating(self, collator: Collator) -> Collator:
        """That collator, beside whose batches the columns are laid."""
        return ColumnCollator(collator, self._read)

    def is_in(self, batch: Batch) -> bool:
        """Whether the batch has columns; an evaluation of a data set without them has no figures of the teacher."""
        return self.ids in batch

    def _compare_alignments(self, batch: Batch) -> None:
        """Warn where the tokens of a batch are among the ids far more often if they are aligned the other way."""
        tokens = batch.get("input_ids")
        if not isinstance(tokens, Tensor):
            return
        there = ~log_probs_of(batch, self.logprobs).isneginf()
        other, wrong_by = (POSITION, 2) if self.aligned == LABEL else (LABEL, 0)
        own, others = (_share_among(batch[self.ids], there, tokens, ahead) for ahead in (1, wrong_by))
        if others > 0.5 and own < others / 2:
            logger.warning(
                "%s holds %.0f %% of the tokens with aligned=%r and %.0f %% with aligned=%r: is the latter meant?",
                self.ids,
                100 * own,
                self.aligned,
                100 * others,
                other,
            )

    @torch.no_grad()
    def targets(self, batch: Batch, rows: Rows) -> Targets:
        """The targets of n rows, of which a row without an entry has the weight 0; see `Targets`.

        Raises:
            DataError: the batch has no columns.
        """
        if not self.is_in(batch):
            problem = f"is no column of the training data, whose batches have {', '.join(sorted(batch))}."
            fix = "Add it, or name the columns: ColumnTeacher(ids=..., logprobs=...)."
            raise DataError(self.ids, None, problem, fix)
        if self.shifts and not self._compared:
            self._compared = True
            self._compare_alignments(batch)
        ids, log_probs = rows.take(batch[self.ids]), rows.take(log_probs_of(batch, self.logprobs))
        there = ~log_probs.isneginf()
        rest = (1.0 - log_probs.exp().sum(-1)).clamp(min=0.0)
        rest = rest.masked_fill(there.sum(-1) == self.classes, 0.0)
        is_label = (ids == rows.labels.unsqueeze(1)) & there
        truth = log_probs.masked_fill(~is_label, -torch.inf).amax(-1)
        return Targets(TopK(ids, self.classes, truth, log_probs, rest), row_weight=there[:, 0].to(log_probs.dtype))


def _share_among(ids: Tensor, there: Tensor, tokens: Tensor, ahead: int) -> float:
    """Of the positions with an entry, how many have the token that many positions ahead among the ids (B, L, k)."""
    length = ids.shape[1] - ahead
    ids, there = ids[:, :length], there[:, :length]
    found = ((ids == tokens[:, ahead:].unsqueeze(2)) & there).any(2).sum()
    return float(found / there.any(2).sum().clamp(min=1))
