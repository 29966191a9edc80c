"""`transformers.Trainer` with a weak teacher: how a step is computed, and what the run is set up of."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Never

import torch
from peft import PeftConfig
from torch import Tensor, nn
from transformers import DataCollator, EvalPrediction, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput

from ..argument_types import trainer_problems
from ..arguments import DistillationArguments
from ..errors import TeacherError, raise_all, require_known_arguments
from ..forward.calls import Batch, Outputs, with_loss
from ..forward.head import Sums
from ..forward.rows import Rows
from ..objective import Targets, Weights, distillation_terms
from ..objective.divergences import get_soft_term
from ..objective.logits import Logits
from ..publish.bookkeeping import Bookkeeping
from ..teachers.composed import TeacherSource
from .adaptive import AdaptiveSchedule
from .evaluation import Evaluation
from .health import TrainingHealth
from .meter import Stopwatch, TermMeter
from .publishing import Publishing
from .resume import Resuming, choose_checkpoint, other_arguments, warn_of_other_arguments
from .setup.check import Examples, Processor, Setup, check_setup
from .setup.students import StudentSource, adapted, loaded_student
from .setup.validation import frozen_problems, require_finite
from .teaching import Teaching

_STOCK = list(inspect.signature(Trainer).parameters)[2:]  # all but model and args
_OWN = ("model", "args", "teacher_model", "teacher_processing_class", "peft_config")


class DistillationTrainer(Publishing, Resuming, Evaluation, Teaching):
    """`Trainer` that adds a weak teacher's soft term to the loss (Lee et al., 2023, arXiv 2305.18239).

    Every argument of `Trainer` keeps its meaning and its position. The loss is the sum over all rows (positions with
    a label) of a step, however they are split over micro-batches and processes, divided once by their number.

    Args:
        teacher_model: Hub id, path, model, or any object with the protocol of `hf_dwt.teachers.Teacher`. None trains
            the same student on the hard term alone, on the same path.
        teacher_processing_class: the teacher's tokenizer, to be compared with `processing_class`; found by itself for
            a teacher given by id or path.
        args: `DistillationArguments`; plain `TrainingArguments` run with the defaults of the others.
        model: as of `Trainer`; or a Hub id or path, loaded by the Auto class of the teacher's task, else of the class
            that its config names. Its tokenizer is not loaded: give the one of your data as `processing_class`.
        peft_config: of the adapter that learns in place of the whole student, as `peft.get_peft_model` adds it, under
            `args.seed`. What is saved is the adapter.

    Raises:
        DistillationError: anything that can be known to be wrong before the first step; see `hf_dwt.errors`.

    Logs `hard_loss`, and with a teacher `soft_loss`, `hard_weight`, `soft_weight`, `agreement` (share of rows with the
    same most likely class) and `teacher_margin` (the student's hard term minus the teacher's), each the mean over the
    steps since the last log and over processes. Once the schedule has ended the teacher is not run, and these are not
    logged.

    Evaluation gives `eval_loss` (cross-entropy per row in nats, without label smoothing), `eval_perplexity`,
    `eval_accuracy`, and with a teacher `eval_soft_loss`, `eval_teacher_agreement`, `eval_teacher_loss` and
    `eval_teacher_accuracy`; of a regression the losses alone, which are squared errors. The random masks of an example
    are drawn from `args.seed` and the example alone, so that every evaluation of a set sees the same ones, in whatever
    batches, and training does not depend on how often it is evaluated.
    """

    # The loss that `compute_loss` returns is divided by the rows of the whole step already.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: StudentSource | None = None,
        args: TrainingArguments | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Examples | None = None,
        eval_dataset: Examples | Mapping[str, Examples] | None = None,
        processing_class: Processor | None = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        teacher_model: TeacherSource | None = None,
        teacher_processing_class: Processor | None = None,
        peft_config: PeftConfig | None = None,
        **newer: Never,
    ) -> None:
        # All that Trainer takes beside these two; `newer`, which no type checker lets through, is for later versions.
        stock = {name: value for name, value in locals().items() if name in _STOCK} | dict(newer)
        require_known_arguments(newer, [*_STOCK, *_OWN], type(self).__name__)
        own = (model, args, teacher_model, teacher_processing_class, peft_config)
        raise_all(trainer_problems({**stock, **dict(zip(_OWN, own, strict=True))}))
        stock["callbacks"] = None if callbacks is None else list(callbacks)
        args = DistillationArguments(output_dir="tmp_trainer") if args is None else args
        self.teacher_source = teacher_model
        self.options = DistillationArguments.of(args)
        model = loaded_student(model, teacher_model, self.options)
        check = partial(
            check_setup,
            teacher_source=teacher_model,
            args=args,
            options=self.options,
            tokenizer=processing_class,
            teacher_tokenizer=teacher_processing_class,
            collator=data_collator,
        )
        setup = None if model is None else check(model)
        self._adapted = partial(adapted, peft_config=peft_config, seed=args.seed)
        super().__init__(None if model is None else self._adapted(model), args, **stock)
        self._set_up(setup or check(self.model))

    def _set_up(self, setup: Setup) -> None:
        self.task = setup.task
        self.bookkeeping = Bookkeeping()
        self._set_up_resuming(self.begin)  # its callback comes before those that read what it sets
        self._set_up_teacher(setup.teacher, setup.hidden)
        # Let the Trainer count the rows of a whole step, by the same shift as the rows are picked here.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = self.task.shifts
        self._adaptive, self._health = AdaptiveSchedule(self._mean), TrainingHealth(self._mean)
        self.add_callback(self._adaptive)
        self.add_callback(self._health)
        self._read_settings()
        self._set_up_student()
        self._set_up_loaders()
        self._set_up_evaluation()
        self._set_up_publishing()
        self._set_up_interrupting()

    def begin(self) -> None:
        """What each start of the loop does: `train`, a restart at a smaller batch size, a trial of a search.

        Raises:
            DistillationError: a setting that distillation cannot run with, or a student that cannot learn.
        """
        raise_all(frozen_problems(self.model))
        raise_all(self.options.problems())
        if self.args.eval_strategy != "no":
            self.require_eval_examples()
        self._read_settings()

    def _read_settings(self) -> None:
        """Read the settings of the objective, and forget what a run before has left."""
        self._curve = self.options.schedule()
        self._soft_term, self._correct = get_soft_term(self.options.soft_term), self.options.correction()
        self._adaptive.reset()
        self.hidden.read()
        self._meter, self.teacher_clock = TermMeter(), Stopwatch(self.args.device)

    # ---- a step ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Outputs]:
        """A micro-batch's share of the step's loss: sums over its rows, divided by the rows of the step.

        Args:
            model: the student, wrapped as it must be called.
            inputs: the batch, with labels.
            return_outputs: also return the student's outputs, with the logits of all positions.
            num_items_in_batch: rows of the whole step; of this batch if None.

        Raises:
            DataError: no labels, or labels that the student has no class for.
            TeacherError: the teacher's logits are not finite.
        """
        if self._figures is not None:
            return self._evaluation_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = self._labelled(inputs)
        rows, classes = self._weighted_rows(inputs), [0]
        weights = self._weights(self.state.global_step) if model.training else Weights(hard=1.0, soft=0.0)
        targets = self._targets(inputs, rows, weights) if model.training else None
        every_position = return_outputs or self.compute_loss_func is not None  # their logits are of all positions

        def reduce(logits: Logits, outputs: Outputs | None) -> Sums:
            classes[0] = logits.shape[-1]
            users = None if outputs is None else self._users_loss(outputs, inputs["labels"], rows, num_items_in_batch)
            return self.hidden.added(self._terms(logits, rows, targets, weights, users), weights.hidden)

        with self.hidden.watching_student(self._row_logits(model), weights.hidden):
            outputs, terms = self._run_student(model, inputs, rows, reduce, every_position)
        share, counted = self._share(rows, num_items_in_batch)
        if model.training:
            self._let_teacher_learn(targets, terms, share)
            if targets is not None and self._checks_now and not torch.isfinite(terms["soft_loss"]):
                require_finite(targets, self.state.global_step)
            self._record(terms, share, counted, rows, classes[0])
            with self.bookkeeping("the number of tokens"):
                self.recorder.count(inputs, self.get_tp_size())
        loss = terms["loss"] * share
        return (loss, with_loss(outputs, loss, self.model)) if return_outputs else loss

    @property
    def _adapts(self) -> bool:
        """Whether the weights follow the teacher margin."""
        return self._curve is None and self.teacher is not None and self.options.soft_weight > 0

    def _weights(self, step: int) -> Weights:
        """The weights at a step: of its place in training, or of what checkpoints keep; so a resumed run goes on."""
        options, hidden = self.options, self.hidden.weight(self._progress(step))
        if self.teacher is None or options.soft_weight == 0:
            return Weights(options.hard_weight, 0.0, hidden)
        hard, soft = self._curve(self._progress(step)) if self._curve is not None else self._adaptive.at(step)
        return Weights(options.hard_weight * hard, options.soft_weight * soft, hidden)

    def _terms(
        self, logits: Logits, rows: Rows, targets: Targets | None, weights: Weights, hard: Tensor | None
    ) -> Sums:
        """The named sums over the rows; "loss" is the one to minimise."""
        return distillation_terms(
            logits,
            rows.labels,
            targets,
            weights,
            hard=hard,
            soft_term=self._soft_term,
            temperature=self.options.temperature,
            tau_squared=self.options.soft_loss_scaling == "tau_squared",
            label_smoothing=self.args.label_smoothing_factor if self.model.training else 0.0,
            progress=self._progress(self.state.global_step),
            row_weight=rows.hard,
        )

    def _record(self, terms: dict[str, Tensor], share: Tensor, counted: Tensor, rows: Rows, classes: int) -> None:
        """Keep a micro-batch's terms for the log, the check of the run's health and the adaptive schedule.

        Args:
            terms: sums over its rows.
            share: of one row in the step.
            counted: whether the step has rows.
            rows: of the micro-batch.
            classes: of a row, as the student has them.
        """
        with self.bookkeeping("the terms of the loss in the log"):
            self._meter.add(terms, share, self.state.global_step, counted, self.args.logging_nan_inf_filter)
        self._health.add(counted, terms["hard_loss"])
        if self._adapts and "teacher_margin" in terms:
            with_truth = terms.get("hard_rows", rows.labels.numel())
            known = math.log(classes) * with_truth - terms["hard_loss"]
            of_step = counted if rows.hard is None else terms["hard_rows"] * share
            self._adaptive.add(terms["teacher_margin"] * share, known * share, of_step, summed=rows.hard is not None)

    # ---- what is logged and kept ----

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As `Trainer.train`, from the whole checkpoint that was saved last for `resume_from_checkpoint=True`.

        "last" does the same, and starts from the beginning where there is none yet.

        Raises:
            ArgumentError: an evaluation has prepared the student, and its engine prepares it once.
            SystemExit: with code 0, once the cache is made, under `teacher_cache_only`; with code 143, once a
                checkpoint is saved, after SIGTERM under `save_on_interrupt`.
            KeyboardInterrupt: likewise after SIGINT (Ctrl-C).
        """
        if self.options.teacher_cache_only:
            self.build_teacher_cache()
            raise SystemExit(0)  # a script would go on to save, evaluate and push a student that has learnt nothing
        if self.model_init is None:
            raise_all(frozen_problems(self.model))
            self._prepare_anew()
        checkpoint = choose_checkpoint(resume_from_checkpoint, self.args)
        if checkpoint is not None:
            with self.bookkeeping("the comparison with the arguments of the checkpoint"):
                warn_of_other_arguments(checkpoint, self._run_record())
        with self._interruption.watched(checkpoint):
            result = super().train(checkpoint, trial, ignore_keys_for_eval)
        return result

    def other_arguments(self, checkpoint: str) -> list[str]:
        """Each argument that a checkpoint was saved under another value of than the run has, with both values."""
        return other_arguments(checkpoint, self._run_record())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms of the loss to what the Trainer logs of training steps."""
        if self.is_in_train and "loss" in logs:
            with self.bookkeeping("the terms of the loss in the log", TeacherError):
                logs.update(self._meter.drain(self.state.global_step, self._weights, self.accelerator))
        super().log(logs, start_time)
