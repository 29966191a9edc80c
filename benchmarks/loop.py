"""Contenders in turns: each runs its own Trainer's loop, and one at a time holds the baton."""

import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.autograd import profiler
from transformers import PrinterCallback, TrainerCallback

from .contenders import CONTENDERS, Contender
from .sizes import Size, collator, examples, models

LOGGING_STEPS = 10


class Turns(TrainerCallback):
    """Lets a Trainer that runs in a thread of its own go on for some steps, and waits in between.

    A turn is timed from the end of one step to the end of a later one, so it holds all that the loop does: fetching
    and collating the batch, both models, the backward pass, clipping, the optimiser and logging.
    """

    def __init__(self) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._left = 0
        self._stops = False
        self._profile: Any = None
        self._began = self._ended = 0.0  # of what is profiled: starting and reading a profile takes its time
        self.error: BaseException | None = None
        self.trainer: Any = None
        self._thread: threading.Thread | None = None

    def start(self, trainer: Any) -> None:
        """Up to the first step, which is not made before a turn is given."""
        self.trainer = trainer
        trainer.add_callback(self)
        trainer.remove_callback(PrinterCallback)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def take(self, steps: int) -> float:
        """Seconds of one step, the mean over a turn of `steps`."""
        self._left = steps
        synchronize()
        began = time.perf_counter()
        self._go.release()
        self._wait()
        return (time.perf_counter() - began) / steps

    def peak(self) -> int:
        """Bytes at the peak of one step above what stood before it: above weights, optimiser state and the teacher.

        On a CPU every allocation and release is counted; on a GPU the allocator keeps the peak.
        """
        if torch.cuda.is_available():
            return peak_on_gpu(lambda: self.take(1))
        self._profile = profile = allocations()
        self.take(1)
        return peak_of(profile)

    def profiled(self, steps: int) -> tuple[Any, float]:
        """The operators of some steps, with their shapes, and the seconds of these steps."""
        self._profile = profile = profiler.profile(record_shapes=True, use_kineto=True)
        self.take(steps)
        return profile.function_events, self._ended - self._began

    def stop(self) -> None:
        self._stops = True
        if self._thread is not None and self._thread.is_alive():
            self._go.release()
            self._thread.join()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._rest()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._left -= 1
        if self._left == 0:
            synchronize()
            self._ended = time.perf_counter()
            if self._profile is not None:
                self._profile.__exit__(None, None, None)
                self._profile = None
            self._rest()
        control.should_training_stop = self._stops

    def _rest(self) -> None:
        self._done.release()
        self._go.acquire()
        if self._profile is not None:  # it sees the thread that enters it
            self._profile.__enter__()
            self._began = time.perf_counter()

    def _wait(self) -> None:
        self._done.acquire()
        if self.error is not None:
            raise RuntimeError(f"{type(self.error).__name__}: {self.error}") from self.error

    def _run(self) -> None:
        try:
            self.trainer.train()
        except BaseException as error:
            self.error = error
        finally:
            self._done.release()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_on_gpu(call: Callable[[], object]) -> int:
    """Bytes at the peak of a call above what stood before it, by the allocator's count."""
    synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    synchronize()
    return torch.cuda.max_memory_allocated() - before


def allocations() -> Any:
    """A profile of every allocation and release on a CPU; `peak_of` reads it once it has ended."""
    return profiler.profile(profile_memory=True, use_kineto=True)


def peak_of(profile: Any) -> int:
    """Bytes at the peak of what was profiled above what stood before it."""
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes), default=0)


@contextmanager
def contest(
    size: Size, names: list[str], precision: dict[str, Any], contenders: Mapping[str, Contender] = CONTENDERS
) -> Iterator[tuple[dict[str, Turns], dict[str, str]]]:
    """The contenders, ready at their first step, and why the others are not.

    They share one student and one optimiser, so that many fit into memory; what a step costs does not depend on what
    the weights are. Data, order and masks are the same for all.
    """
    student, teacher = models(size)
    keywords: dict[str, Any] = {"train_dataset": examples(size, 64 * size.tokens[0])}
    torch.nn.Module.to(student, "cuda" if torch.cuda.is_available() else "cpu")
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)  # the Trainer's default
    turns: dict[str, Turns] = {}
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as out:
        args = {
            "output_dir": out,
            "per_device_train_batch_size": size.tokens[0],
            "max_steps": 100_000,
            "logging_steps": LOGGING_STEPS,
            "learning_rate": 1e-5,
            "lr_scheduler_type": "constant",
            "train_sampling_strategy": "sequential",
            "save_strategy": "no",
            "disable_tqdm": True,
            "report_to": "none",
            **precision,
        }
        try:
            for name in names:
                turn = Turns()
                try:
                    build = contenders[name][1]
                    parts = {"data_collator": collator(size), "optimizers": (optimizer, None), **keywords}
                    trainer = build(student, teacher, args, **parts)
                    turn.start(trainer)
                    turn.take(1)  # the first step allocates, tries and compiles
                    turns[name] = turn
                except Exception as error:
                    absent[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                    turn.stop()
            yield turns, absent
        finally:
            for turn in turns.values():
                turn.stop()


class Taking(Protocol):
    """What takes turns."""

    def take(self, steps: int) -> float:
        """Seconds of one step, the mean over a turn of `steps`."""


def interleave(turns: Mapping[str, Taking], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of a step of each contender in each round: A B C, A B C, ..., every other round backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        for name in list(turns)[:: -1 if number % 2 else 1]:
            seconds[name].append(turns[name].take(steps))
    return seconds


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
