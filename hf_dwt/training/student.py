"""From a batch to the student's logits at its rows: what training and evaluation share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from ..arguments import DistillationArguments
from ..errors import ArgumentError, DataError, DistillationError, raise_all
from ..forward.calls import Batch, Outputs, forward_arguments, with_decoder_inputs, without_cache
from ..forward.head import Reduce, Sums
from ..forward.own_loss import OwnLoss, own_loss
from ..forward.row_logits import RowLogits
from ..forward.rows import HARD, SOFT, Rows, counted_labels, select_rows, weighted_rows, with_labels
from ..forward.sharding import is_sharded
from ..objective.logits import Logits
from ..publish.bookkeeping import Bookkeeping
from ..tasks import IGNORED, Outcome, Task
from ..teachers import Teacher
from .setup.layouts import engine_problems
from .setup.misuse import require_labels_of_task, require_weights_in_batch

# Entries of a batch that belong to the loss, which is computed here and not by the model.
_OF_THE_LOSS = frozenset({"labels", "shift_labels", "num_items_in_batch", "skip_logits", HARD, SOFT})


class RunsStudent(Trainer):
    """The base of `DistillationTrainer` and its parts: their state, and the student's forward pass.

    Attributes:
        model: the student, without wrappers.
        options: the arguments of distillation.
        task: the student's.
        teacher: as it was given or loaded; None trains on the labels alone.
        bookkeeping: guards what training does not need.
    """

    model: nn.Module  # never None once the Trainer is made
    options: DistillationArguments
    task: Task
    teacher: Teacher | None
    bookkeeping: Bookkeeping
    _adapted: Callable[[nn.Module], nn.Module]  # adds the adapter of `peft_config`
    _signature_columns: Any  # a list of names, which the Trainer does not annotate

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """As `Trainer` does, with the adapter of `peft_config`."""
        return self._adapted(super().call_model_init(trial))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns or list[str]()
        # Keep what the teacher reads and the student does not, and the weights of rows.
        own = {HARD, SOFT} if self.teacher is None else {HARD, SOFT, *self.teacher.columns}
        self._signature_columns = columns + sorted(own - set(columns))

    def create_accelerator_and_postprocess(self) -> None:
        """As `Trainer` does.

        Raises:
            DistillationError: the engine cannot be distilled on, or nothing that it saves can be pushed.
        """
        super().create_accelerator_and_postprocess()
        raise_all(engine_problems(self.accelerator, self.model, self.args))

    def _set_up_student(self) -> None:
        self._student_columns = forward_arguments(self.model)
        self._student: RowLogits | None = None
        self._own_loss = OwnLoss()
        self._failed: list[Exception] = []

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        """As `Trainer` does, which counts labels: here of every task."""
        counted = [counted_labels(self.task, batch) for batch in batch_samples]
        count: Tensor | int | None = super()._get_num_items_in_batch(counted, device)
        return count

    def _labelled(self, inputs: Batch) -> Batch:
        """The batch as the loss reads it: with labels, and with the decoder's inputs as the student makes them.

        Its teacher then gets these too.
        """
        return with_decoder_inputs(self.model, self.task, with_labels(self.task, inputs))

    def _rows(self, inputs: Batch) -> Rows:
        if inputs.get("labels") is None:
            raise DataError(
                " and ".join(self.task.labels),
                None,
                f"are not among the entries of the batch, which are {', '.join(sorted(inputs))}: no position counts.",
                "Use a data collator that makes them, such as DataCollatorForLanguageModeling, or add the column.",
            )
        if inputs.get("shift_labels") is not None:
            return select_rows(inputs["shift_labels"], shifts=False)
        return select_rows(inputs["labels"], self.task.shifts, self.task.outcome)

    def _weighted_rows(self, inputs: Batch) -> Rows:
        """The rows with their weights, which count in training alone."""
        rows = self._rows(inputs)
        if self._checks_now:
            require_weights_in_batch(self.train_dataset, inputs)
        return weighted_rows(rows, inputs, self.task.shifts, self._checks_now)

    def _run_student(
        self, model: nn.Module, inputs: Batch, rows: Rows, reduce: Reduce, every_position: bool
    ) -> tuple[Outputs, Sums]:
        """The student's outputs, with the logits of every position if so wanted; and the sums of the rows' logits.

        In training what the model's own loss adds is among the sums.
        """
        own, student = self._student_inputs(inputs), self._row_logits(model)
        asks = model.training and self._own_loss.ask

        def checked(logits: Logits, outputs: Outputs | None) -> Sums:
            self._check_labels(inputs, rows.labels, logits.shape[-1])
            return reduce(logits, outputs)

        with self._first_error_of_engine():
            outputs, sums = student.reduced(
                model, own | {"labels": inputs["labels"]} if asks else own, rows, checked, every_position or asks
            )
        added = self._own_loss.added(outputs, rows) if model.training and any(self._own_loss) else None
        if added is not None:
            added = added * rows.positions.numel()
            sums = {**sums, "aux_loss": added, "loss": sums["loss"] + added}
        return outputs, sums

    def _row_logits(self, model: nn.Module) -> RowLogits:
        """How the student yields logits at rows; `model` is the student, wrapped as it must be called."""
        if self._student is None or self._student.model is not self.model:  # model_init makes a new one
            measures = self.compute_loss_func is None
            self._failed.clear()
            self._own_loss = own_loss(model, self.model, self.task, self._failed) if measures else OwnLoss()
            gather, defer = not self.args.torch_compile, self.options.loss_kernel != "plain"
            self._student = RowLogits(self.model, self.task, gather, defer, self._on_all_processes)
        return self._student

    @contextmanager
    def _first_error_of_engine(self) -> Iterator[None]:
        """Within it a sharded student that has never run raises what its engine found wrong at first.

        An engine sets itself up in the first forward pass, which is a trial. Whatever follows a failure is another
        error, of an engine that is set up by half.
        """
        try:
            yield
        except (DistillationError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if self._failed and is_sharded(self.model):
                raise self._failed[0] from error
            raise
        self._failed.clear()

    def _student_inputs(self, inputs: Batch) -> dict[str, object]:
        foreign = _OF_THE_LOSS.union(self.task.labels)
        if self.teacher is not None:
            foreign = foreign | (self.teacher.columns - self._student_columns)
        return {name: value for name, value in inputs.items() if name not in foreign} | without_cache(
            self._student_columns
        )

    def _check_labels(self, inputs: Batch, labels: Tensor, classes: int) -> None:
        if self._checks_now:
            _require_known(self.task, inputs["labels"], labels, classes)
        if self.is_in_train and self.state.global_step == 0:
            mask_id = getattr(self.processing_class, "mask_token_id", None)
            require_labels_of_task(self.task, inputs, self.data_collator, mask_id)

    @property
    def _checks_now(self) -> bool:
        """Whether to look into tensors: up to the first step, and wherever it costs no wait for the device."""
        return self.args.device.type == "cpu" or self.state.global_step == 0

    def _users_loss(
        self, outputs: Outputs, labels: Tensor, rows: Rows, num_items_in_batch: Tensor | int | None
    ) -> Tensor | None:
        """What `compute_loss_func` makes of a batch, as a sum over its rows; None without one."""
        if self.compute_loss_func is None:
            return None
        if rows.hard is not None:
            fix = "Drop it, or weigh the rows in compute_loss_func and leave the entry out."
            raise DataError(HARD, "an entry of the batch", "has no effect on compute_loss_func.", fix)
        # A mean over the step's rows, by the Trainer's contract.
        loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            fix = "Return one number: the sum over the rows, divided by num_items_in_batch."
            raise ArgumentError("compute_loss_func", self.compute_loss_func, f"returned {given}.", fix)
        return loss * (rows.positions.numel() if num_items_in_batch is None else num_items_in_batch)

    def _share(self, rows: Rows, num_items_in_batch: Tensor | int | None) -> tuple[Tensor, Tensor]:
        """The share of one row in the step's loss, and whether the step has rows.

        DistributedDataParallel averages over processes what was summed within each: the share undoes that where rows
        were counted over all of them.
        """
        processes = 1
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            processes = self.accelerator.num_processes // self.get_tp_size()
        own = rows.positions.numel() if num_items_in_batch is None else num_items_in_batch
        count = torch.as_tensor(own, device=rows.positions.device)
        return processes / count.clamp(min=1), count > 0

    def _on_all_processes(self, holds: bool) -> bool:
        return bool(self._mean(torch.tensor(float(holds), device=self.args.device)) == 1.0)

    def _mean(self, tensor: Tensor) -> Tensor:
        mean: Tensor = self.accelerator.reduce(tensor, reduction="mean")  # over processes
        return mean


def _require_known(task: Task, given: Tensor, labels: Tensor, classes: int) -> None:
    """Raise a DataError for labels that the student cannot learn.

    Args:
        task: its task.
        given: of the batch.
        labels: (n,) of its rows.
        classes: of the student.
    """
    if task.outcome is Outcome.NUMBER:
        if not torch.isfinite(labels).all():
            count = int((~torch.isfinite(labels)).sum())
            raise DataError("labels", f"{count} of {len(labels)}", "are no finite numbers.", "Drop these examples.")
        return
    if task.outcome is Outcome.LABEL:
        wrong = given[(given != 0) & (given != 1) & (given != IGNORED)]
        if wrong.numel():
            problem = "is neither 0 nor 1, and each label of the model holds or does not."
            fix = f"Give 0, 1, or {IGNORED} where it is not known whether a label holds."
            raise DataError("labels", wrong[0].item(), problem, fix)
        return
    if labels.numel() and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(
            "labels",
            [int(labels.min()), int(labels.max())],
            f"reach beyond the student's {classes} classes, 0 to {classes - 1}.",
            f"Mark positions that do not count with {IGNORED}, and check that tokenizer and model belong together.",
        )
