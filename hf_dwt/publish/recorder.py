"""Recording a run as it goes."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import HubError, TaskError
from ..signatures import checks_arguments
from ..tasks import find_task, plain_model
from .bookkeeping import BookkeepingCallback
from .run_record import RunRecord, describe_dataset, environment, non_default_settings


@checks_arguments
class RecordRun(BookkeepingCallback):
    """Keeps the record of a run, and writes it as `run.json` beside every checkpoint and the final weights.

    Args:
        more: what a callback cannot see, by section of `RunRecord`; called each time the record is written.

    Attributes:
        baseline: fill it with loss, perplexity and accuracy of the same model without the teacher, for the card.
    """

    part = "the record of the run (run.json)"

    def __init__(self, more: Callable[[], dict[str, Any]] = dict) -> None:
        self.baseline: dict[str, float] = {}
        self._more, self._model, self._datasets = more, None, list[dict[str, Any]]()
        self._seconds, self._waited, self._mark = 0.0, 0.0, 0.0  # of training; of those, for data; since when
        self._spent: dict[int, float] = {}
        self._tokens: Any = 0
        self._all_counted = False  # whether padding is counted in some batch
        self._before, self._finished = dict[str, Any](), False

    def run_record(self, args: Any, state: Any) -> RunRecord:
        """All that is known by now; what cannot be found out is left out."""

        def part(name: str, make: Callable[[], Any], default: Any) -> Any:
            return self.bookkeeping.get(f"{name!r} in run.json", make, default)

        more = part("what the trainer adds", self._more, {})
        training = self._training(args, state) | more.pop("training", {})
        if "teacher" in training:
            training["teacher"] = round(training["teacher"] + self._before.get("teacher", 0.0), 3)
        training["student"] = round(training["total"] - training["data"] - training.get("teacher", 0.0), 3)
        return RunRecord(
            model={**part("model", lambda: _describe_model(self._model), {}), **more.pop("model", {})},
            training=training,
            settings=part("settings", lambda: non_default_settings(args), {}),
            curve=part("curve", lambda: [self._timed(entry) for entry in state.log_history], []),
            datasets=self._datasets,
            environment=part("environment", environment, {}),
            baseline=self.baseline,
            **more,
        )

    def _training(self, args: Any, state: Any) -> dict[str, Any]:
        return {
            "steps": state.global_step,
            "epochs": round(state.epoch or 0.0, 4),
            "tokens": state.num_input_tokens_seen or int(self._tokens) * args.world_size or None,
            "padding_counted": args.include_num_input_tokens_seen == "all"
            if state.num_input_tokens_seen
            else self._all_counted,
            "processes": args.world_size,
            "seed": args.seed,
            "data_seed": args.data_seed,
            "total": round(self._seconds, 3),
            "data": round(self._waited, 3),
        }

    def count(self, batch: Mapping[str, Any]) -> None:
        """Count the tokens of a batch on this process: those that its `attention_mask` keeps, or all without one."""
        ids, mask = batch.get("input_ids"), batch.get("attention_mask")
        if ids is None:
            return
        if mask is None or mask.shape != ids.shape:
            mask, self._all_counted = torch.ones_like(ids), True
        self._tokens = self._tokens + mask.sum()  # on the device: to read it at each step would be to wait for it

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._model = kwargs.get("model", self._model)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._model = kwargs.get("model", self._model)
        self._finished = False
        dataset = getattr(kwargs.get("train_dataloader"), "dataset", None)
        self._datasets = self.bookkeeping.get("'datasets' in run.json", lambda: describe_dataset(dataset), [])
        self._seconds, self._waited, self._spent, self._before = 0.0, 0.0, {}, {}
        self._tokens, self._all_counted = 0, False
        if state.global_step:
            self._take_up(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        self._mark = time.perf_counter()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._waited += self._pass()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._pass()

    # What happens between two steps apart from waiting for data is no training: the clock starts again after it.

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._spent[state.global_step] = round(self._seconds, 3)
        self._mark = time.perf_counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._mark = time.perf_counter()
        if self._finished:  # the last word on the model that was trained
            self.save(args, state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self.run_record(args, state).save(folder)
        self._mark = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._finished = True
        self.save(args, state)

    def save(self, args: Any, state: Any) -> None:
        """Write `run.json` into `output_dir`, as after training and after every evaluation that follows it."""
        if state.is_world_process_zero:
            self.run_record(args, state).save(args.output_dir)

    def _pass(self) -> float:
        now = time.perf_counter()
        passed, self._mark = now - self._mark, now
        self._seconds += passed
        return passed

    def _timed(self, entry: dict[str, Any]) -> dict[str, float]:
        numbers = {key: v for key, v in entry.items() if isinstance(v, int | float) and math.isfinite(v)}
        seconds = self._spent.get(entry.get("step", -1))  # a callback may have added an entry of its own
        return numbers if seconds is None else {**numbers, "seconds": seconds}

    def _take_up(self, checkpoint: Path) -> None:
        """Go on from the seconds of the run that is resumed."""
        try:
            before = RunRecord.load(checkpoint)
        except HubError:
            return
        self._before = before.training
        self._seconds, self._waited = self._before.get("total", 0.0), self._before.get("data", 0.0)
        self._tokens = (self._before.get("tokens") or 0) // self._before.get("processes", 1)
        # A run of an older version counted it, and did not say so.
        self._all_counted = self._before.get("padding_counted", self._tokens > 0)
        self._spent = {int(entry["step"]): entry["seconds"] for entry in before.curve if "seconds" in entry}


def _describe_model(model: Any) -> dict[str, Any]:
    if model is None:
        return {}
    plain: Any = plain_model(model)
    described = {"class": type(plain).__name__, "parameters": sum(p.numel() for p in model.parameters())}
    try:
        task = find_task(model)
        described |= {"task": task.name, "auto_class": task.auto_class}
    except TaskError:  # a model of another task, or of no library
        pass
    return described
