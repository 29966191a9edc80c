"""`attribute`: which training examples taught a model the answers that it gives."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import IterableDataset
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..batches.examples import Examples
from ..errors import ArgumentError, DataError, DistillationError, raise_all
from ..forward.calls import forward_arguments
from ..forward.example_rows import Batches
from ..forward.sharding import is_sharded
from ..kinds import is_number
from ..tasks import Task, require_classes
from ..teachers.vocabulary import class_count, vocabulary_size
from ..training.trainer import DistillationTrainer
from .all_parameters import parameter_scores
from .checkpoints import Checkpoints, Source, base_model, checkpoint_problems, folders_of, models_of
from .head import head_scores
from .result import Attribution

FORMS = {"head": head_scores, "all": parameter_scores}
"""Which gradients: see `attribute`."""
DENOISE = ("mean", None)
EXAMPLES = "Give a list of examples or a datasets.Dataset."


def attribute(
    trainer: DistillationTrainer,
    queries: Examples,
    *,
    checkpoints: Checkpoints = None,
    base: Source | None = None,
    rows: str = "head",
    debias: float = 0.0,
    denoise: str | None = "mean",
) -> Attribution:
    """Scores of each training example for each query: how much learning the one makes the other more likely.

    The score of an example and a query is the dot product of the gradients of their losses, which are sums of the
    hard term over their rows (TracIn, Pruthi et al., 2020, arXiv 2002.08484, without its learning rates; without the
    inverse Hessian of influence functions). With several checkpoints and a model from before training,

        score = mean over checkpoints of score at the checkpoint - debias * score at base

    after "Debias and Denoise Attribution" (Wu et al., 2024, arXiv 2410.01285), of which only the structure is known
    here: the equal weights of checkpoints, and the sign and the size of `debias`, are ours. `debias` is 0 unless it is
    given, so that nothing is subtracted; see the documentation for what subtracting does.

    No model is changed. Dropout is off, and random masks belong to `trainer.args.seed` and the example alone, so that
    scores depend neither on the size of batches nor on the order of examples. Each process of a distributed run
    computes all of them.

    Args:
        trainer: of the run; its model, training set, data collator and arguments are read.
        queries: examples with the answers to be explained as labels, right or wrong ones. Where an example has as many
            `labels` as `input_ids` these are taken as they are; else the collator makes them, as in training.
        checkpoints: the output_dir of the run, for all `checkpoint-*` in it; one of these; a list of folders; or None
            for the model as it is now.
        base: the model as it was before training, or its folder; needed for `debias`.
        rows: "head": gradients of the last layer's weight, which needs no backward pass; "all": of all parameters that
            the trainer trains, a backward pass for each example, and for any model.
        debias: factor of the score at `base`, of either sign.
        denoise: "mean" over checkpoints, or None for the last one alone.

    Raises:
        ArgumentError: values that are none, a folder without a checkpoint, or with that of another run.
        DataError: queries or training examples without labels or that make no batch, or a training set without a
            length.
        TaskError: `rows="head"` of a model without a linear head, or a task without exclusive classes.
    """
    folders = _checked(trainer, queries, checkpoints, base, rows, debias, denoise)
    model: nn.Module = trainer.model
    before = None if base is None else base_model(base, model, trainer.task)
    size = 1 if rows == "all" else trainer.args.per_device_eval_batch_size
    train = _batches(trainer, trainer.train_dataset, "train_dataset", size)
    asked = _batches(trainer, queries, "queries", size)
    _require_rows(asked, model, trainer.task)
    trained = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    found = np.zeros((train.count, asked.count))
    for one, weight in _weighted(folders, model, before, trainer.task, debias):
        with tqdm(desc="Attributing", unit=" examples", disable=trainer.args.disable_tqdm) as bar:
            found += weight * FORMS[rows](one, trainer.task, train, asked, trained, bar.update)
    if not np.isfinite(found).all():
        fix = "Look for NaN in the model: its run may have diverged."
        raise DataError("checkpoints", checkpoints, "give scores that are not finite.", fix)
    return Attribution(found.astype(np.float32), train.counts)


def _checked(
    trainer: object, queries: object, checkpoints: Any, base: object, rows: object, debias: object, denoise: object
) -> list[Any]:
    """The folders of checkpoints, once all that can be known to be wrong is not.

    Raises:
        DistillationError: several at once as `SetupError`.
    """
    if not isinstance(trainer, DistillationTrainer):
        raise ArgumentError("trainer", type(trainer).__name__, "is no DistillationTrainer.", "Give that of the run.")
    problems: list[DistillationError] = []

    def wrong(name: str, value: object, problem: str, fix: str) -> None:
        problems.append(ArgumentError(name, value, problem, fix))

    if not isinstance(rows, str) or rows not in FORMS:
        wrong("rows", rows, "is no form of attribution.", f"Use {' or '.join(map(repr, FORMS))}.")
    if denoise not in DENOISE:
        wrong("denoise", denoise, "is no way to join checkpoints.", "Use 'mean', or None for the last one alone.")
    if not is_number(debias) or not math.isfinite(debias):
        wrong("debias", debias, "is no factor.", "Give a finite number of either sign; 0 subtracts nothing.")
    elif debias and base is None:
        wrong("debias", debias, "has nothing to be a factor of without base.", "Give base, or debias=0.")
    elif base is not None and not debias:
        wrong("base", type(base).__name__, "has no effect with debias=0.", "Give debias, or no base.")
    if base is not None and not isinstance(base, str | os.PathLike | nn.Module):
        wrong("base", type(base).__name__, "is no model.", "Give a model or its folder.")
    if is_sharded(trainer.model):
        wrong("trainer", type(trainer.model).__name__, "has a model in parts.", "Run this in one process, unsharded.")
    problems += [found for name in ("queries", "train_dataset") for found in _data_problems(name, trainer, queries)]
    folders: list[Any] = []
    try:
        require_classes(trainer.task, "trainer", type(trainer.model).__name__)
        folders = folders_of(checkpoints)
        problems += checkpoint_problems(folders, trainer.model, trainer.other_arguments)
    except DistillationError as error:
        problems.append(error)
    raise_all(problems)
    return folders if denoise is not None else folders[-1:]


def _data_problems(name: str, trainer: DistillationTrainer, queries: object) -> Iterator[DistillationError]:
    given: Any = queries if name == "queries" else trainer.train_dataset
    if isinstance(given, Mapping):
        yield DataError(name, type(given).__name__, "is one example, or columns of many.", EXAMPLES)
    elif isinstance(given, IterableDataset | str) or not isinstance(given, Examples):
        yield DataError(name, type(given).__name__, "has no examples that can be picked.", EXAMPLES)
    elif not len(given):
        yield DataError(name, type(given).__name__, "has no examples.", EXAMPLES)


def _batches(trainer: DistillationTrainer, dataset: Any, argument: str, size: int) -> Batches:
    args = trainer.args
    kept = forward_arguments(trainer.model) | {"labels", "label", "label_ids"} if args.remove_unused_columns else None
    own: dict[str, Any] = {"argument": argument, "labelled": argument == "queries"}
    return Batches(dataset, trainer.data_collator, trainer.task, kept, size, args.seed, **own)


def _require_rows(queries: Batches, model: nn.Module, task: Task) -> None:
    """Raise a DataError for queries without a labelled position, or with an answer or a token that no model knows."""
    missing: list[int] = []
    classes = class_count(model, task)
    for part in queries.on(next(model.parameters()).device):
        ids, labels = part.batch.get("input_ids"), part.rows.labels
        known = [("labels", labels, classes)]
        known += [("input_ids", ids, vocabulary_size(model))] if isinstance(ids, Tensor) else []
        for name, values, size in known:
            if values.numel() and not (values.min() >= 0 and values.max() < size):
                found = [int(values.min()), int(values.max())]
                problem = f"have {name} from {found[0]} to {found[1]}, and the model knows 0 to {size - 1}."
                fix = "Check that tokenizer and model belong together."
                raise DataError("queries", f"{queries.count} examples", problem, fix)
        there = set(part.rows.examples.tolist())
        missing += [index for number, index in enumerate(part.indices) if number not in there]
    if missing:
        problem = f"have no labelled position at {sorted(missing)[:8]}: nothing there is to be explained."
        fix = "Give each query labels, one for each token, -100 where a token is no answer."
        raise DataError("queries", f"{queries.count} examples", problem, fix)


def _weighted(
    folders: Sequence[Any], model: nn.Module, base: nn.Module | None, task: Task, debias: float
) -> Iterator[tuple[nn.Module, float]]:
    """Each model and the factor of its scores."""
    share = 1.0 / max(1, len(folders))
    yield from ((one, share) for one in models_of(folders, model, task))
    if base is not None:
        yield base, -debias
