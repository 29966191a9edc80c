"""Evaluation by rows: figures that depend neither on the size of batches nor on the number of processes."""

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import EvalLoopOutput, default_compute_objective

from ..data.seeds import fixed_randomness
from ..forward.rows import Rows
from ..objective import Logits, SoftTerm, Targets
from .figures import example_figures
from .health import Watch

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object  # a mixin: the Trainer comes from the class that it is mixed into

logger = logging.getLogger(__name__)


class Evaluation(Trainer):
    """The part of `DistillationTrainer` that evaluates: `compute_loss` hands it the logits of each batch."""

    options: Any
    _soft_term: SoftTerm
    _student_inputs: Any
    _watch: Watch

    def _set_up_evaluation(self) -> None:
        self._figures: list[dict[str, Tensor]] | None = None  # a list while an evaluation runs
        self._rows_suffice = False
        self._own_figures: set[str] = set()  # names of figures that no compute_metrics gave
        self._without_rows: set[str] = set()  # prefixes of sets that were warned of

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, float]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As `Trainer.hyperparameter_search`; the default objective is the one that `Trainer` has.

        That is `eval_loss`, or the sum of what `compute_metrics` returns. The figures that are added here are no part
        of it: the default of transformers would add up perplexity and accuracy.
        """

        def objective(metrics: dict[str, float]) -> float:
            return default_compute_objective({k: v for k, v in metrics.items() if k not in self._own_figures})

        return super().hyperparameter_search(hp_space, compute_objective or objective, *args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`, with figures that count rows instead of batches."""
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
        if figures:
            from ..metrics import metrics_of

            metrics: Any = output.metrics
            columns = {name: torch.cat([batch[name] for batch in figures]).numpy() for name in figures[0]}
            for name, value in metrics_of(columns).items():
                key = f"{metric_key_prefix}_{name}"
                if key not in metrics:
                    self._own_figures.add(key)
                # What the user's compute_metrics says under the same name stands. The loss is this one, and not a
                # mean over batches, unless the user has a loss of their own.
                ours = name == "loss" and self.compute_loss_func is None
                metrics[key] = value if ours else metrics.get(key, value)
            if columns["rows"].any():
                self._warn_of_divergence(f"{metric_key_prefix}_loss", metrics[f"{metric_key_prefix}_loss"])
        return output

    def _warn_of_divergence(self, name: str, loss: float) -> None:
        if not math.isfinite(loss) and not self._watch.diverged:
            self._watch.diverged = True
            where = f"at step {self.state.global_step}: {name} is {loss}"
            logger.warning("The student has diverged %s. Training goes on; a lower learning_rate may help.", where)

    def _warn_without_rows(self, figures: list[dict[str, Tensor]], output: EvalLoopOutput, prefix: str) -> None:
        """Log, once for each set, that there is no loss: what is chosen or stopped by it would be so by nothing."""
        has_loss = any(bool(batch["rows"].any()) for batch in figures) or (
            not figures and f"{prefix}_loss" in (output.metrics or {})
        )
        if not has_loss and prefix not in self._without_rows:
            self._without_rows.add(prefix)
            logger.warning("No position of eval_dataset has a label, so there is no %s_loss. Give labels.", prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """As `Trainer.prediction_step`; the logits of all positions are made only if someone asks for them."""
        around, self._rows_suffice = self._rows_suffice, prediction_loss_only
        try:
            if inputs.get("labels") is None:
                inputs = self._student_inputs(inputs)
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        finally:
            self._rows_suffice = around

    @torch.no_grad()
    def _add_figures(self, logits: Logits, rows: Rows, examples: int, targets: Targets | None) -> dict[str, Tensor]:
        figures = example_figures(logits, rows, examples, targets, self._soft_term, self.options.temperature)
        # gather_for_metrics drops the examples that were repeated to fill the last batch of each process
        gathered = self.accelerator.gather_for_metrics(figures)
        self._figures.append({name: value.cpu() for name, value in gathered.items()})  # type: ignore[union-attr]
        return figures
