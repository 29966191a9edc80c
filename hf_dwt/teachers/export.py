"""What a teacher predicts, written into columns of a data set: what `ColumnTeacher` reads."""

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import torch
from torch import Tensor, nn

from ..errors import DataError, TeacherError
from ..forward.rows import Rows, select_rows
from ..kinds import COUNT
from ..objective.chunked import chunks
from ..objective.logits import LinearLogits, at_least_fp32
from ..tasks import IGNORED, TASKS, Task, find_task
from .columns import LABEL, ColumnTeacher
from .frozen import FrozenTeacher
from .loading import load_teacher, shown_task
from .vocabulary import vocabulary_size

NAMES = ("text-generation", "fill-mask")
CAUSAL = next(task for task in TASKS if task.name == NAMES[0])


class _Entries(NamedTuple):
    """Of n rows: (n, k) classes and log-probabilities, (n,) those of the labels, and whether these are among them."""

    ids: Tensor
    log_probs: Tensor
    truth: Tensor
    has_label: Tensor


def export_columns(
    dataset: datasets.Dataset,
    teacher: str | os.PathLike[str] | nn.Module,
    k: int = 50,
    *,
    ids: str = "teacher_ids",
    logprobs: str = "teacher_logprobs",
    aligned: str = LABEL,
    add_label: bool = True,
    dtype: str = "float32",
    batch_size: int = 8,
) -> datasets.Dataset:
    """The data set with two more columns: each token's k most likely classes, and their log-probabilities.

    Args:
        dataset: with `input_ids`, and `attention_mask` and `token_type_ids` where the teacher reads them. For a masked
            LM also `labels`, which show the masks: what a teacher predicts depends on them, so they must be fixed.
        teacher: Hub id, path or model: a causal or masked LM of the student's tokenizer.
        k: classes of a token.
        ids: name of the column of classes, for `ColumnTeacher`, which reads both.
        logprobs: name of the column of log-probabilities.
        aligned: which token an entry is of, as `ColumnTeacher` has it.
        add_label: add the token itself where it is not among the k, as vLLM does: then `teacher_margin` and
            `eval_teacher_loss` are exact. Without it, columns hold what `teacher_cache_form="top_k"` keeps.
        dtype: "float32", or "float16" as that cache has it.
        batch_size: examples that the teacher takes at a time.

    Raises:
        DataError: a data set without tokens, or with a column of these names.
        TeacherError: it cannot be loaded, is no language model, or arguments that are none.
    """
    names = ColumnTeacher(ids, logprobs, aligned=aligned)
    for argument, value in (("k", k), ("batch_size", batch_size)):
        if not COUNT.is_right(value):
            raise COUNT.error(argument, value, error=TeacherError)
    if dtype not in ("float32", "float16"):
        raise TeacherError("dtype", dtype, "is no type of a column.", "Use 'float32' or 'float16'.")
    _require_tokens(dataset, (ids, logprobs))
    # What shows no task cannot be loaded, mostly: loading it says why.
    task = find_task(teacher, "teacher") if isinstance(teacher, nn.Module) else shown_task(teacher) or CAUSAL
    if task.name not in NAMES:
        shown = type(teacher).__name__ if isinstance(teacher, nn.Module) else teacher
        raise TeacherError("teacher", shown, "is no causal or masked language model.", "Give one, its id or path.")
    if not task.shifts and "labels" not in dataset.column_names:
        problem = "are no column, so nothing shows which tokens are masked."
        raise DataError("labels", None, problem, "Mask the data once, with labels, and train on these masks.")
    model = load_teacher(teacher, task)
    if not isinstance(teacher, nn.Module) and torch.cuda.is_available():
        model = model.to("cuda")
    exporter = _Exporter(model, task, k, names, add_label)
    features = dataset.features.copy()
    for name, kind in ((ids, "int32"), (logprobs, dtype)):
        features[name] = datasets.Sequence(datasets.Sequence(datasets.Value(kind)))
    return dataset.map(
        exporter,
        batched=True,
        batch_size=batch_size,
        features=features,
        new_fingerprint=uuid.uuid4().hex,  # to hash the model would take as long as to run it
        desc="Running the teacher",
    )


def _require_tokens(dataset: object, new: Sequence[str]) -> None:
    """Raise a DataError for what is no data set with tokens, or has the new columns already."""
    if not isinstance(dataset, datasets.Dataset):
        fix = "Give a datasets.Dataset: Dataset.from_list(examples)."
        raise DataError("dataset", type(dataset).__name__, "cannot be given columns.", fix)
    if "input_ids" not in dataset.column_names:
        problem = f"is no column of the data set, which has {', '.join(dataset.column_names)}."
        raise DataError("input_ids", None, problem, "Tokenize it as for training.")
    for name in new:
        if name in dataset.column_names:
            raise DataError(name, "a column", "is there already.", "Remove it, or export under another name.")


class _Exporter:
    """From a batch of examples to their two columns."""

    def __init__(self, model: nn.Module, task: Task, k: int, names: ColumnTeacher, add_label: bool) -> None:
        self._classes = vocabulary_size(model)
        self._teacher, self._task = FrozenTeacher(model, task, self._classes), task
        self._k, self._names, self._add_label = k, names, add_label
        self._device = next(model.parameters()).device

    def __call__(self, examples: Mapping[str, list[Any]]) -> dict[str, list[list[list[Any]]]]:
        batch = {
            name: _padded(examples[name], self._device)
            for name in ("input_ids", "attention_mask", "token_type_ids")
            if name in examples
        }
        lengths = torch.tensor([len(one) for one in examples["input_ids"]], device=self._device)
        there = torch.arange(batch["input_ids"].shape[1], device=self._device) < lengths.unsqueeze(1)
        batch.setdefault("attention_mask", there.long())
        if int(batch["input_ids"].max()) >= self._classes:
            problem = f"has an id beyond the {self._classes} that the teacher has rows for."
            fix = "Tokenize the data with the teacher's tokenizer."
            raise DataError("input_ids", int(batch["input_ids"].max()), problem, fix)
        kept = there & (batch["attention_mask"] != 0)
        labels = batch["input_ids"] if self._task.shifts else _padded(examples["labels"], self._device, IGNORED)
        rows = select_rows(labels.masked_fill(~kept, IGNORED), self._task.shifts)
        ids: list[list[list[int]]] = [[[] for _ in one] for one in examples["input_ids"]]
        values: list[list[list[float]]] = [[[] for _ in one] for one in examples["input_ids"]]
        ahead = self._task.shifts and self._names.aligned == LABEL
        found = self._entries(batch, rows)
        places = (rows.positions % rows.length + int(ahead)).tolist()
        for row, (example, place) in enumerate(zip(rows.examples.tolist(), places, strict=True)):
            ids[example][place] = found.ids[row].tolist()
            values[example][place] = found.log_probs[row].tolist()
            if self._add_label and not found.has_label[row]:
                ids[example][place].append(int(rows.labels[row]))
                values[example][place].append(float(found.truth[row]))
        return {self._names.ids: ids, self._names.logprobs: values}

    @torch.no_grad()
    def _entries(self, batch: Mapping[str, Tensor], rows: Rows) -> _Entries:
        """What the teacher predicts at the rows, on the CPU; its logits exist chunk by chunk."""
        logits = self._teacher.targets(batch, rows).logits
        assert isinstance(logits, Tensor | LinearLogits)  # of a model
        parts = []
        for part in chunks(logits):
            labels = rows.labels[part].unsqueeze(1)
            log_probs = torch.log_softmax(at_least_fp32(logits[part]), -1)
            top = log_probs.topk(min(self._k, self._classes))
            truth = log_probs.gather(1, labels).squeeze(1)
            parts.append((top.indices, top.values, truth, (top.indices == labels).any(1)))
        return _Entries(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))


def _padded(rows: Sequence[Sequence[int]], device: torch.device, filler: int = 0) -> Tensor:
    """(B, L) lists of different lengths, padded on the right."""
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=device)
