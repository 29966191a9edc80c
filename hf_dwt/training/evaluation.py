"""Evaluation by rows: figures that depend neither on the size of batches nor on the number of processes."""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import BestRun, EvalLoopOutput, default_compute_objective

from ..batches.seeds import fixed_randomness
from ..errors import ArgumentError
from ..forward.calls import Batch, Outputs, with_loss
from ..forward.head import Sums
from ..forward.sharding import reshard
from ..objective.logits import Logits
from ..objective.terms import SoftTerm
from ..teachers.columns import ColumnTeacher
from .figures import example_figures
from .health import TrainingHealth
from .student import RunsStudent

logger = logging.getLogger(__name__)


class Evaluation(RunsStudent):
    """The part of `DistillationTrainer` that evaluates.

    The Trainer's `evaluation_loop` calls `prediction_step` for each batch, and that calls `compute_loss`, which hands
    over to `_evaluation_loss` while an evaluation runs.
    """

    _soft_term: SoftTerm
    _health: TrainingHealth

    def _set_up_evaluation(self) -> None:
        self._figures: list[dict[str, Tensor]] | None = None  # of each batch; a list while an evaluation runs
        self._prepared_by_evaluation = False  # the student, before training prepared it
        self._loss_suffices = False  # whether the logits of the batch are not wanted
        self._own_figures: set[str] = set()  # names of figures that no compute_metrics gave
        self._without_rows: set[str] = set()  # prefixes of sets that were warned of

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, float]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> BestRun | list[BestRun]:
        """As `Trainer.hyperparameter_search`; the default objective is the one that `Trainer` has.

        That is `eval_loss`, or the sum of what `compute_metrics` returns. The figures that are added here are no part
        of it: the default of transformers would add up perplexity and accuracy.
        """

        def objective(metrics: dict[str, float]) -> float:
            return default_compute_objective({k: v for k, v in metrics.items() if k not in self._own_figures})

        return super().hyperparameter_search(hp_space, compute_objective or objective, *args, **kwargs)

    @property
    def _is_prepared(self) -> bool:
        """Whether accelerate has the student under its engine: training or an evaluation was begun."""
        return self.model_wrapped is not self.model or vars(self.model).get("_is_accelerate_prepared", False)

    def _require_evaluable(self) -> None:
        """Raise an ArgumentError for an evaluation that an engine cannot make before training."""
        if self._is_prepared:
            return
        fix = "Evaluate after train(), set eval_on_start=True, or evaluate in one process without the engine."
        deepspeed = self.accelerator.state.deepspeed_plugin
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.fsdp_version == 2:
            problem = "shards a model together with its optimizer, and there is none before train()."
            raise ArgumentError("fsdp_config.version", 2, problem, fix)
        if deepspeed is not None and deepspeed.zero_stage < 3:
            problem = "has DeepSpeed evaluate after train() alone, which stage 3 does not need."
            raise ArgumentError("deepspeed.zero_optimization.stage", deepspeed.zero_stage, problem, fix)

    def _prepare_anew(self) -> None:
        """Let training prepare the student itself, where an evaluation has done it before: only training wraps it.

        accelerate leaves its mark on the model then, and would take it for wrapped: under DistributedDataParallel no
        gradient would be averaged, and each process would train a model of its own.

        Raises:
            ArgumentError: the engine prepares a model once.
        """
        reshard(self.model)  # whole after an evaluation, which is not what an optimizer must hold
        if not self._prepared_by_evaluation:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            problem = "has prepared the student without an optimizer, and the engine does not prepare it again."
            fix = "Make a new trainer for train(), or set eval_on_start=True in place of the evaluation."
            raise ArgumentError("evaluate", "before train()", problem, fix)
        self._prepared_by_evaluation, self.model_wrapped = False, self.model
        if vars(self.model).pop("_is_accelerate_prepared", False):
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # it is wrapped in autocast again

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`, with figures that count rows instead of batches.

        Raises:
            ArgumentError: FSDP 2, or DeepSpeed ZeRO below stage 3, before training has begun.
        """
        self._require_evaluable()
        self._prepared_by_evaluation |= not self._is_prepared and not self.is_in_train
        around, self._figures = self._figures, []  # compute_metrics may evaluate or predict
        try:
            with fixed_randomness(self.args.seed + self.args.process_index):
                output = super().evaluation_loop(
                    dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
                )
            figures = self._figures
        finally:
            self._figures = around
        if description == "Evaluation":
            self._warn_without_rows(figures, output, metric_key_prefix)
        if figures and output.metrics is not None:
            self._add_metrics(output.metrics, figures, metric_key_prefix)
        return output

    def _add_metrics(self, metrics: dict[str, float], figures: list[dict[str, Tensor]], prefix: str) -> None:
        """Add what the figures of all batches give to the metrics that the Trainer has."""
        from ..metrics import metrics_of

        columns = {name: torch.cat([batch[name] for batch in figures]).numpy() for name in figures[0]}
        for name, value in metrics_of(columns).items():
            key = f"{prefix}_{name}"
            if key not in metrics:
                self._own_figures.add(key)
            # A metric of the same name that the user's compute_metrics gives stays. The loss is this one, and not a
            # mean over batches, unless the user has a loss of their own.
            ours = name == "loss" and self.compute_loss_func is None
            metrics[key] = value if ours else metrics.get(key, value)
        if columns["rows"].any():
            self._warn_of_divergence(f"{prefix}_loss", metrics[f"{prefix}_loss"])

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """As `Trainer.prediction_step`; the logits of all positions are made only if someone asks for them."""
        around, self._loss_suffices = self._loss_suffices, prediction_loss_only
        try:
            if any(inputs.get(name) is None for name in self.task.labels):
                inputs = self._student_inputs(inputs)
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        finally:
            self._loss_suffices = around

    def _evaluation_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool, num_items_in_batch: Tensor | int | None
    ) -> Tensor | tuple[Tensor, Outputs]:
        """The loss of a batch, a mean over its rows, and the outputs if so wanted; its figures are kept."""
        inputs = self._labelled(inputs)
        rows = self._rows(inputs)
        teacher = self.teacher
        if isinstance(teacher, ColumnTeacher) and not teacher.is_in(inputs):
            teacher = None  # what it predicted is known of other data
        targets = None if teacher is None else teacher.targets(inputs, rows)
        every_position = self.compute_loss_func is not None or (return_outputs and not self._loss_suffices)
        examples, temperature = len(inputs["labels"]), self.options.temperature

        @torch.no_grad()
        def reduce(logits: Logits, _outputs: Outputs | None) -> Sums:
            return example_figures(logits, rows, examples, targets, self._soft_term, temperature)

        outputs, figures = self._run_student(model, inputs, rows, reduce, every_position)
        self._keep(figures)
        total = self._users_loss(outputs, inputs["labels"], rows, num_items_in_batch)
        loss = (figures["nll"].sum() if total is None else total) * self._share(rows, num_items_in_batch)[0]
        return (loss, with_loss(outputs, loss, self.model)) if return_outputs else loss

    def _keep(self, figures: dict[str, Tensor]) -> None:
        if (copies := self.get_tp_size()) > 1:
            gathered = self._gather_once(figures, copies)
        else:  # without the examples that were repeated to fill the last batch of each process
            gathered = self.accelerator.gather_for_metrics(figures)
        if self._figures is not None:
            self._figures.append({name: value.cpu() for name, value in gathered.items()})

    def _gather_once(self, figures: dict[str, Tensor], copies: int) -> dict[str, Tensor]:
        """As `gather_for_metrics`, which takes the same figures of all `copies` processes of a group for several."""
        state, groups = self.accelerator.gradient_state, self.accelerator.num_processes // copies
        last = state.remainder if state.end_of_dataloader and state.remainder > 0 else None
        gathered = self.accelerator.gather(figures)
        return {name: value.view(groups, copies, -1)[:, 0].flatten()[:last] for name, value in gathered.items()}

    def _warn_of_divergence(self, name: str, loss: float) -> None:
        if not math.isfinite(loss) and not self._health.diverged:
            self._health.diverged = True
            where = f"at step {self.state.global_step}: {name} is {loss}"
            logger.warning("The student has diverged %s. Training goes on; a lower learning_rate may help.", where)

    def _warn_without_rows(self, figures: list[dict[str, Tensor]], output: EvalLoopOutput, prefix: str) -> None:
        """Log, once for each set, that it has no loss, by which a best model or an early stop might be chosen."""
        has_loss = any(bool(batch["rows"].any()) for batch in figures) or (
            not figures and f"{prefix}_loss" in (output.metrics or {})
        )
        if not has_loss and prefix not in self._without_rows:
            self._without_rows.add(prefix)
            logger.warning("No position of eval_dataset has a label, so there is no %s_loss. Give labels.", prefix)
