"""The figures of a model on batches, and those of token frequencies alone."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DataError
from ..forward.calls import forward_arguments, model_inputs
from ..forward.row_logits import RowLogits
from ..forward.rows import Rows, select_rows
from ..modes import evaluation_mode
from ..objective.chunked import chunks
from ..objective.logits import Logits, at_least_fp32, cast
from ..tasks import IGNORED, Task
from .assessment import Figures

BINS = 15  # of the calibration error, as usual since Guo et al., 2017 (arXiv 1706.04599)


def unigram_loss(tokens: Tensor, labels: Tensor) -> float:
    """Cross-entropy in nats of (n,) labels under how often each token occurs, the label itself left out.

    Counting the label itself would make rare tokens look likely: a text in which each occurs once would cost log N.
    """
    size = int(max(tokens.max(), labels.max())) + 1 if len(labels) else 1
    counts = torch.bincount(tokens, minlength=size).double() + 0.5
    others = (counts[labels] - 1.0).clamp(min=0.5)
    return float((counts.sum() - 1.0).log() - others.log().mean())


@torch.no_grad()
def figures_of(
    model: nn.Module,
    task: Task,
    batches: list[dict[str, Tensor]],
    device: str | torch.device = "cpu",
    row_logits: RowLogits | None = None,
) -> Figures:
    """A model's figures on batches; its mode is as before afterwards.

    Args:
        row_logits: of the model, where they exist: its last layer is then not tried again.

    Raises:
        DataError: no position of any batch has a label.
    """
    columns, logits_of = forward_arguments(model), row_logits or RowLogits(model, task)
    found: list[Tensor] = []
    with evaluation_mode(model):
        for batch in batches:
            placed = {name: value.to(device) for name, value in batch.items()}
            rows = select_rows(placed["labels"], task.shifts)
            if len(rows.labels):
                inputs = model_inputs(model, task, placed, columns)
                found += _row_figures(logits_of(model, inputs, rows), rows)
    if not found:
        raise DataError(
            "dataset", len(batches), "has no position with a label.", "Give text, or examples with labels."
        )
    nll, confidence, right = torch.cat(found).double().T
    return Figures(float(nll.mean()), float(right.mean()), calibration_error(confidence, right))


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error of (n,) confidences and (n,) hits, over bins of equal width (arXiv 1706.04599)."""
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, bins, (confidence - right).double())
    return float(gaps.abs().sum() / len(right))


def _row_figures(logits: Logits, rows: Rows) -> Iterator[Tensor]:
    """(m, 3) for each chunk of m rows: loss, probability of the most likely class, whether that is right."""
    logits = cast(logits)
    for part in chunks(logits):
        log_probs = at_least_fp32(logits[part]).log_softmax(-1)
        labels = rows.labels[part]
        if labels.max() >= log_probs.shape[-1]:
            raise DataError(
                "labels",
                int(labels.max()),
                f"is beyond the {log_probs.shape[-1]} classes of the model.",
                "Check that tokenizer and model belong together.",
            )
        most, likely = log_probs.max(-1)
        nll = -log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)
        yield torch.stack([nll, most.exp(), (likely == labels).to(nll.dtype)], 1).cpu()


def counted_tokens(examples: Sequence[object], task: Task, special: frozenset[int]) -> Tensor:
    """The tokens (or classes) whose frequencies count, of examples before collating; none if they do not show any.

    Args:
        special: ids that are never predicted, and so not counted, in a masked LM.
    """
    masked = task.auto_class == "AutoModelForMaskedLM"
    names = ("input_ids",) if masked or task.shifts else ("labels", "label", "label_ids")
    shown = (one[name] for one in examples if isinstance(one, Mapping) for name in names if name in one)
    parts = [np.asarray(values).reshape(-1) for values in shown]
    tokens = torch.from_numpy(np.concatenate(parts).astype(np.int64)) if parts else torch.zeros(0, dtype=torch.int64)
    unwanted = [IGNORED, *(special if masked else ())]
    return tokens[~torch.isin(tokens, torch.tensor(unwanted))]
