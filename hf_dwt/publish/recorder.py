"""Recording a run while it trains."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import HubError
from ..signatures import checks_arguments
from ..tasks import plain_model
from .bookkeeping import BookkeepingCallback
from .describe import (
    describe_dataset,
    describe_environment,
    describe_model,
    non_default_settings,
    parameter_count,
)
from .run_record import DatasetEntry, EnvironmentSection, ModelSection, RunRecord, StageEntry, TrainingSection


@checks_arguments
class RecordRun(BookkeepingCallback):
    """Keeps the record of a run, and writes it as `run.json` beside every checkpoint and the final weights.

    Args:
        more: returns what a callback cannot see, by section of `RunRecord`; called each time the record is written.

    Attributes:
        baseline: fill it with loss, perplexity and accuracy of the same model without the teacher, for the card.
        stages: fill it with the stages up to this run, where it is one of several.
    """

    part = "the record of the run (run.json)"

    def __init__(self, more: Callable[[], dict[str, Any]] = dict) -> None:
        self.baseline: dict[str, float] = {}
        self.stages: list[StageEntry] = []
        self._more = more
        self._model: nn.Module | None = None
        self._parameters: int | None = None  # its number of them
        self._datasets: list[DatasetEntry] = []
        self._seconds, self._waited = 0.0, 0.0  # of training; those among them of waiting for data
        self._mark = 0.0  # up to when they are counted
        self._seconds_at: dict[int, float] = {}  # step -> seconds of training up to its log
        self._tokens: int | Tensor = 0  # of this process
        self._tokens_before, self._sharing = 0, 1  # of the run that is resumed; processes that share a batch
        self._padding_counted = False
        self._before = TrainingSection()  # of the run that is resumed
        self._finished = False

    def run_record(self, args: TrainingArguments, state: TrainerState) -> RunRecord:
        """All that is known by now; what cannot be found out is left out."""
        get = self.bookkeeping.get
        more = get("what the trainer adds in run.json", self._more, {})
        training = self._training(args, state) | more.pop("training", {})
        spent: tuple[Literal["teacher", "proposals"], ...] = ("teacher", "proposals")
        for name in spent:
            if name in training:
                training[name] = round(training[name] + self._before.get(name, 0.0), 3)
        training["student"] = round(training["total"] - training["data"] - training.get("teacher", 0.0), 3)
        return RunRecord(
            model=get("'model' in run.json", self._describe, ModelSection()) | more.pop("model", {}),
            training=training,
            settings=get("'settings' in run.json", lambda: non_default_settings(args), {}),
            curve=get("'curve' in run.json", lambda: [self._timed(entry) for entry in state.log_history], []),
            datasets=self._datasets,
            environment=get("'environment' in run.json", describe_environment, EnvironmentSection()),
            baseline=self.baseline,
            stages=self.stages,
            **more,
        )

    def _describe(self) -> ModelSection:
        known: ModelSection = {} if self._parameters is None else {"parameters": self._parameters}
        return describe_model(self._model) | known

    def _see(self, model: nn.Module | None) -> None:
        """Take note of the model; what engines do not show of it is known from before they had it."""
        if model is None:
            return
        same = self._model is not None and plain_model(self._model) is plain_model(model)
        count = parameter_count(model)
        self._parameters = self._parameters if count is None and same else count
        self._model = model

    def _training(self, args: TrainingArguments, state: TrainerState) -> TrainingSection:
        """Tokens are the Trainer's own count where it counts them, which `include_num_input_tokens_seen` asks for."""
        seen = state.num_input_tokens_seen
        padding = args.include_num_input_tokens_seen == "all" if seen else self._padding_counted
        return {
            "steps": state.global_step,
            "epochs": round(state.epoch or 0.0, 4),
            "tokens": seen or self._tokens_before + int(self._tokens) * args.world_size // self._sharing or None,
            "padding_counted": padding,
            "processes": args.world_size,
            "seed": args.seed,
            "data_seed": args.data_seed,
            "total": round(self._seconds, 3),
            "data": round(self._waited, 3),
        }

    def count(self, batch: Mapping[str, Any], sharing: int = 1) -> None:
        """Count the tokens of a batch on this process: those that its `attention_mask` keeps, or all without one.

        sharing: how many processes have the same batch, as in tensor parallelism.
        """
        self._sharing = sharing
        ids, mask = batch.get("input_ids"), batch.get("attention_mask")
        if ids is None:
            return
        if mask is None or mask.shape != ids.shape:
            mask, self._padding_counted = torch.ones_like(ids), True
        self._tokens = self._tokens + mask.sum()  # stays on the device: to read it would wait for the device

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        self._see(model)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        train_dataloader: DataLoader[Any] | None = None,
        **kwargs: object,
    ) -> None:
        self._see(model)
        self._finished = False
        dataset = getattr(train_dataloader, "dataset", None)
        self._datasets = self.bookkeeping.get("'datasets' in run.json", lambda: describe_dataset(dataset), [])
        self._seconds, self._waited, self._seconds_at, self._before = 0.0, 0.0, {}, TrainingSection()
        self._tokens, self._tokens_before, self._padding_counted = 0, 0, False
        if state.global_step:
            self._resume_from(Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        self._mark = time.perf_counter()

    def on_step_begin(self, *args: object, **kwargs: object) -> None:
        self._waited += self._pass()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self._pass()

    # What happens between two steps apart from waiting for data is no training: the clock starts again after it.

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        self._seconds_at[state.global_step] = round(self._seconds, 3)
        self._mark = time.perf_counter()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._mark = time.perf_counter()
        if self._finished:  # an evaluation of the model that was trained belongs to its record
            self.save(args, state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self.run_record(args, state).save(folder)
        self._mark = time.perf_counter()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._finished = True
        self.save(args, state)

    def save(self, args: TrainingArguments, state: TrainerState) -> None:
        """Write `run.json` into `output_dir`, as after training and after every evaluation that follows it."""
        if state.is_world_process_zero:
            self.run_record(args, state).save(str(args.output_dir))

    def _pass(self) -> float:
        """Count the seconds since the mark, set it to now, and return them."""
        now = time.perf_counter()
        passed, self._mark = now - self._mark, now
        self._seconds += passed
        return passed

    def _timed(self, entry: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of a logged entry, with the seconds of training up to it."""
        numbers = {key: v for key, v in entry.items() if isinstance(v, int | float) and math.isfinite(v)}
        seconds = self._seconds_at.get(entry.get("step", -1))  # a callback may have added an entry of its own
        return numbers if seconds is None else {**numbers, "seconds": seconds}

    def _resume_from(self, checkpoint: Path) -> None:
        """Go on from the seconds and tokens of the run that is resumed."""
        try:
            record = RunRecord.load(checkpoint)
        except HubError:
            return
        before = self._before = record.training
        self._seconds, self._waited = before.get("total", 0.0), before.get("data", 0.0)
        self._tokens_before = before.get("tokens") or 0
        self._padding_counted = before.get("padding_counted", False)
        self._seconds_at = {int(entry["step"]): entry["seconds"] for entry in record.curve if "seconds" in entry}
