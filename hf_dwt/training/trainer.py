"""`transformers.Trainer` with a weak teacher. With evaluation.py and publishing.py all that knows it."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Never, TypeAlias

import datasets
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import (
    BaseImageProcessor,
    DataCollator,
    EvalPrediction,
    FeatureExtractionMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import TrainOutput

from ..argument_types import trainer_problems
from ..arguments import DistillationArguments
from ..data.seeds import TellsEpochs
from ..errors import ArgumentError, DataError, TeacherError, raise_all, require_known_arguments
from ..forward.inputs import forward_arguments, with_decoder_inputs, without_cache
from ..forward.own_loss import OwnLoss, own_loss
from ..forward.row_logits import RowLogits, called_for_logits, logits_at
from ..forward.rows import Rows, select_rows
from ..objective import Logits, Targets, Weights, at_least_fp32, distillation_terms, get_soft_term
from ..publish.bookkeeping import Bookkeeping
from ..tasks import plain_model
from ..teachers import FrozenTeacher, Teacher
from ..teachers.cache.build import UseCache
from .adaptive import LeadFade
from .evaluation import Evaluation
from .health import Watch
from .loaders import Loaders
from .meter import Stopwatch, TermMeter
from .misuse import require_labels_of_task
from .opening import SayWhetherItHelps
from .publishing import Publishing
from .resume import StartState, choose_checkpoint, warn_of_other_arguments
from .validation import Setup, check_setup, frozen_problems, require_finite, require_known_labels

# What the Trainer's arguments may be.
Examples: TypeAlias = Dataset[Any] | datasets.Dataset | datasets.IterableDataset | Sequence[Any]
Processor: TypeAlias = PreTrainedTokenizerBase | BaseImageProcessor | FeatureExtractionMixin | ProcessorMixin
_STOCK = list(inspect.signature(Trainer).parameters)[2:]  # all but model and args
_OWN = ("model", "args", "teacher_model", "teacher_processing_class")

# Entries of a batch that speak of the loss, which is computed here and not by the model.
_OF_THE_LOSS = frozenset({"labels", "shift_labels", "num_items_in_batch", "skip_logits"})


class DistillationTrainer(Publishing, Evaluation, Loaders, Trainer):
    """`Trainer` that adds a weak teacher's soft term to the loss (Lee et al., 2023, arXiv 2305.18239).

    Every argument of `Trainer` keeps its meaning and its position. The loss is the sum over all rows (positions with
    a label) of a step, however they are split over micro-batches and processes, divided once by their number.

    Args:
        teacher_model: Hub id, path, model, or any object with the protocol of `hf_dwt.teachers.Teacher`. None trains
            the same student on the hard term alone, on the same path.
        teacher_processing_class: the teacher's tokenizer, to be compared with `processing_class`; found by itself for
            a teacher given by id or path.
        args: `DistillationArguments`; plain `TrainingArguments` run with the defaults of the others.

    Raises:
        DistillationError: anything that can be known to be wrong before the first step; see `hf_dwt.errors`.

    Logs `hard_loss`, and with a teacher `soft_loss`, `hard_weight`, `soft_weight`, `agreement` (share of rows with the
    same most likely class) and `teacher_margin` (the student's hard term minus the teacher's), each the mean over the
    steps since the last log and over processes. Once the schedule has ended the teacher is not run any more, and what
    it says not logged.

    Evaluation gives `eval_loss` (cross-entropy per row in nats, without label smoothing), `eval_perplexity`,
    `eval_accuracy`, and with a teacher `eval_soft_loss`, `eval_teacher_agreement`, `eval_teacher_loss` and
    `eval_teacher_accuracy`. The random masks of an example are drawn from `args.seed` and the example alone, so that
    every evaluation of a set sees the same ones, in whatever batches, and training does not depend on how often it is
    evaluated.
    """

    # The loss that `compute_loss` returns is divided by the rows of the whole step already.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
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
        teacher_model: Any = None,
        teacher_processing_class: Processor | None = None,
        **newer: Never,
    ) -> None:
        # All that Trainer takes beside these two; `newer`, which no type checker lets through, is for later versions.
        stock = {name: value for name, value in locals().items() if name in _STOCK} | dict(newer)
        require_known_arguments(newer, [*_STOCK, *_OWN], type(self).__name__)
        own = (model, args, teacher_model, teacher_processing_class)
        raise_all(trainer_problems({**stock, **dict(zip(_OWN, own, strict=True))}))
        stock["callbacks"] = None if callbacks is None else list(callbacks)
        args = DistillationArguments(output_dir="tmp_trainer") if args is None else args
        self.teacher_source = teacher_model
        self.options = DistillationArguments.of(args)
        processors = processing_class, teacher_processing_class
        rest: tuple[Any, ...] = (teacher_model, args, self.options, *processors, data_collator)
        setup = None if model is None else check_setup(model, *rest)
        super().__init__(model, args, **stock)
        core: Any = self.model
        self._set_up(setup or check_setup(core, *rest))

    def _set_up(self, setup: Setup) -> None:
        self.task = setup.task
        self.bookkeeping = Bookkeeping()
        self.teacher: Teacher | None
        if isinstance(setup.teacher, nn.Module):
            placed = self.args.device, self.accelerator.autocast
            self.teacher = FrozenTeacher(setup.teacher, self.task, setup.shared_classes, *placed, known=setup.known)
            self.add_callback(SayWhetherItHelps(self))
        else:
            self.teacher = setup.teacher
        self.cached_teacher: Teacher | None = None  # what training hears in place of the teacher
        self.add_callback(StartState(self))  # before those that read it
        if self.teacher is not None and (self.options.teacher_cache or UseCache.only):
            self.add_callback(UseCache(self))
        # Let the Trainer count the rows of a whole step, by the same shift as the rows are picked here.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = self.task.shifts
        self._fade, self._watch = LeadFade(self._mean), Watch(self._mean)
        self.add_callback(self._fade)
        self.add_callback(self._watch)
        core: Any = self.model
        self._student_columns = forward_arguments(core)
        self._student: RowLogits | None = None
        self._own_loss = OwnLoss()
        self._read_settings()
        self.add_callback(TellsEpochs(lambda: getattr(self, "seeded_collator", None)))
        self._set_up_evaluation()
        self._set_up_publishing()

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
        self._schedule = self.options.schedule()
        self._soft_term = get_soft_term(self.options.soft_term)
        self._fade.reset()
        self._meter, self.teacher_clock = TermMeter(), Stopwatch(self.args.device)

    # ---- the way of a batch ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
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
        rows = self._rows(inputs)
        inputs = self._with_decoder_inputs(inputs)
        evaluating = self._figures is not None
        weights = self._weights(self.state.global_step) if model.training else Weights(hard=1.0, soft=0.0)
        listens = weights.soft > 0 or (model.training and self._follows and self._fade.listens)
        heard = self.teacher is not None and (evaluating or listens)
        with self.bookkeeping.timed(self.teacher_clock) if heard and model.training else nullcontext():
            speaker: Any = self.teacher if evaluating else self.cached_teacher or self.teacher
            targets = speaker.targets(inputs, rows) if heard else None
        # Whoever asks for the outputs wants every position, unless it is an evaluation that wants its loss alone.
        every_position = self.compute_loss_func is not None or (return_outputs and not self._rows_suffice)
        outputs, logits = self._outputs(model, inputs, rows, every_position)
        self._check_labels(inputs, rows.labels, logits.shape[-1])
        if evaluating:
            figures = self._add_figures(logits, rows, len(inputs["labels"]), targets)
        if evaluating and self.compute_loss_func is None:
            terms = {"loss": figures["nll"].sum()}
        else:
            terms = self._terms(outputs, logits, inputs["labels"], rows, targets, weights, num_items_in_batch)
        # The share of each row in the step; DDP then averages over processes what was summed within each.
        own = rows.positions.numel() if num_items_in_batch is None else num_items_in_batch
        count = torch.as_tensor(own, device=rows.positions.device)
        share, counted = self._processes(num_items_in_batch) / count.clamp(min=1), count > 0
        if model.training:
            if targets is not None and self._checks_now and not torch.isfinite(terms["soft_loss"]):
                require_finite(targets, self.state.global_step)
            with self.bookkeeping("the terms of the loss in the log"):
                self._meter.add(terms, share, self.state.global_step, counted, self.args.logging_nan_inf_filter)
            self._watch.add(counted, terms["hard_loss"])
            if self._follows and targets is not None:
                guess = rows.labels.numel() * math.log(logits.shape[-1])
                self._fade.add(terms["teacher_margin"] * share, (guess - terms["hard_loss"]) * share, counted)
            with self.bookkeeping("the number of tokens"):
                self.recorder.count(inputs)
        loss = terms["loss"] * share
        return (loss, self._with_loss(outputs, loss)) if return_outputs else loss

    def _with_loss(self, outputs: Any, loss: Tensor) -> Any:
        """The outputs as the student gives them with labels: the loss first, in a tuple if its config says so."""
        if not isinstance(outputs, Mapping):
            return (loss, *outputs)
        core: Any = plain_model(self.model)
        named = type(outputs)(**{**outputs, "loss": loss})
        return named if getattr(core.config, "return_dict", True) else tuple(named.values())

    def _rows(self, inputs: Mapping[str, Any]) -> Rows:
        if inputs.get("labels") is None:
            raise DataError(
                "labels",
                None,
                f"are not among the entries of the batch, which are {', '.join(sorted(inputs))}: no position counts.",
                "Use a data collator that makes them, such as DataCollatorForLanguageModeling, or add the column.",
            )
        if inputs.get("shift_labels") is not None:
            return select_rows(inputs["shift_labels"], shifts=False)
        return select_rows(inputs["labels"], shifts=self.task.shifts)

    def _check_labels(self, inputs: Mapping[str, Any], labels: Tensor, classes: int) -> None:
        if self._checks_now:
            require_known_labels(labels, classes)
        if self.is_in_train and self.state.global_step == 0:
            mask_id = getattr(self.processing_class, "mask_token_id", None)
            require_labels_of_task(self.task, inputs, self.data_collator, mask_id)

    def _with_decoder_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """As the student makes them: its teacher hears the same."""
        core: Any = self.model
        return with_decoder_inputs(core, self.task, inputs)

    @property
    def _follows(self) -> bool:
        """Whether the weights follow the teacher's lead."""
        return self._schedule is None and self.teacher is not None and self.options.soft_weight > 0

    def _weights(self, step: int) -> Weights:
        """The weights at a step: of its place in training, or of what checkpoints keep; so a resumed run goes on."""
        options = self.options
        if self.teacher is None or options.soft_weight == 0:
            return Weights(options.hard_weight, 0.0)
        progress = min(1.0, step / max(1, self.state.max_steps))
        hard, soft = self._schedule(progress) if self._schedule is not None else self._fade.at(step)
        return Weights(options.hard_weight * hard, options.soft_weight * soft)

    def _outputs(
        self, model: nn.Module, inputs: Mapping[str, Any], rows: Rows, every_position: bool
    ) -> tuple[Any, Logits]:
        """The student's outputs, with the logits of every position if so wanted; and the logits of the rows."""
        own = self._student_inputs(inputs)
        core: Any = self.model
        if self._student is None or self._student.model is not core:  # model_init makes a new one
            self._own_loss = OwnLoss() if self.compute_loss_func is not None else own_loss(model, core, self.task)
            gather, defer = not self.args.torch_compile, self.options.loss_kernel != "plain"
            self._student = RowLogits(core, self.task, gather, defer)
        if model.training and self._own_loss.ask:
            own["labels"] = inputs["labels"]
        if every_position or "labels" in own:
            with called_for_logits(core):
                outputs = model(**own)
            return outputs, logits_at(outputs, rows)
        return self._student.outputs(model, own, rows)

    def _student_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        foreign = (
            _OF_THE_LOSS if self.teacher is None else _OF_THE_LOSS | (self.teacher.columns - self._student_columns)
        )
        own = {name: value for name, value in inputs.items() if name not in foreign}
        return own | without_cache(self.model)  # type: ignore[arg-type]

    def _terms(
        self,
        outputs: Any,
        logits: Logits,
        labels: Tensor,
        rows: Rows,
        targets: Targets | None,
        weights: Weights,
        num_items_in_batch: Tensor | int | None,
    ) -> dict[str, Tensor]:
        core: Any = self.model
        hard = None
        if self.compute_loss_func is not None:  # a mean over the step's rows, by the Trainer's contract
            hard = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
            if not isinstance(hard, Tensor) or hard.numel() != 1:
                given = f"a tensor of shape {tuple(hard.shape)}" if isinstance(hard, Tensor) else repr(hard)
                fix = "Return one number: the sum over the rows, divided by num_items_in_batch."
                raise ArgumentError("compute_loss_func", self.compute_loss_func, f"returned {given}.", fix)
            hard = hard * (rows.positions.numel() if num_items_in_batch is None else num_items_in_batch)
        terms = distillation_terms(
            logits,
            rows.labels,
            targets,
            weights,
            hard=hard,
            soft_term=self._soft_term,
            temperature=self.options.temperature,
            tau_squared=self.options.soft_loss_scaling == "tau_squared",
            label_smoothing=self.args.label_smoothing_factor if core.training else 0.0,
        )
        balance = self._balance(outputs, logits, rows)
        if balance is not None:
            terms["aux_loss"] = balance * rows.positions.numel()
            terms["loss"] = terms["loss"] + terms["aux_loss"]
        return terms

    def _balance(self, outputs: Any, logits: Logits, rows: Rows) -> Tensor | None:
        """What a mixture of experts adds to its own loss, a mean over the rows, if its config says so."""
        core: Any = self.model
        if not core.training or not isinstance(outputs, Mapping) or not rows.labels.numel():
            return None
        if self._own_loss.ask:
            return outputs["loss"] - F.cross_entropy(at_least_fp32(logits[:]), rows.labels)
        balance = outputs.get("aux_loss") if self._own_loss.factor else None
        return None if balance is None else self._own_loss.factor * balance

    def _mean(self, tensor: Tensor) -> Tensor:
        return self.accelerator.reduce(tensor, reduction="mean")  # over processes

    def _processes(self, num_items_in_batch: Tensor | int | None) -> int:
        """The factor that undoes DDP's mean where rows were counted over all processes."""
        if num_items_in_batch is None or not self.args.average_tokens_across_devices:
            return 1
        return self.accelerator.num_processes // self.get_tp_size()

    @property
    def _checks_now(self) -> bool:
        """Whether to look into tensors: up to the first step, and wherever it costs no wait for the device."""
        return self.args.device.type == "cpu" or self.state.global_step == 0

    # ---- what is logged and kept ----

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As `Trainer.train`; `resume_from_checkpoint=True` takes the whole checkpoint that was saved last."""
        if self.model_init is None:
            raise_all(frozen_problems(self.model))
        checkpoint = choose_checkpoint(resume_from_checkpoint, self.args)
        if checkpoint is not None:
            with self.bookkeeping("the comparison with the arguments of the checkpoint"):
                warn_of_other_arguments(checkpoint, self._run_record())
        return super().train(checkpoint, trial, ignore_keys_for_eval)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms of the loss to what the Trainer logs of training steps."""
        if self.is_in_train and "loss" in logs:
            with self.bookkeeping("the terms of the loss in the log", TeacherError):
                logs.update(self._meter.drain(self.state.global_step, self._weights, self.accelerator))
        super().log(logs, start_time)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if self.teacher is not None:  # keep what the teacher reads and the student does not
            self._signature_columns = columns + sorted(self.teacher.columns - set(columns))
