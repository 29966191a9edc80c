"""Pushing while training goes on: in the background, whole, never silently."""

import atexit
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Protocol

from accelerate.state import AcceleratorState
from huggingface_hub import CommitInfo, HfApi
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import ArgumentError, DistillationError, HubError, raise_all
from ..signatures import checks_arguments
from .bookkeeping import Bookkeeping, BookkeepingCallback
from .model_files import files_to_push
from .upload import Destination, access_problems, push_files
from .whole_saves import is_whole_on_the_first_process, save_problem

logger = logging.getLogger(__name__)

WHEN = ("every_save", "best", "end")
_PLACE = "_hf_dwt_push"  # names with an underscore are never pushed; this one must be nobody else's
_numbers = count()


class Saves(Protocol):
    """A model, a tokenizer or a processor."""

    def save_pretrained(self, save_directory: str) -> object: ...


@dataclass
class _Job:
    name: str
    folder: Path  # where the user finds it
    copy: Path  # what is pushed
    message: str
    log_failure: bool
    future: "Future[CommitInfo]" = field(default_factory=Future)


class Pusher:
    """Pushes saved models one after another, in the background thread of an `HfApi`.

    A process that ends waits for its pushes. A second interrupt ends it, and logs the command that finishes the push.

    Args:
        to: where.
        place: folder for links to what waits; on the disk of the saves.
        every: push all of them; otherwise one is left out, with a warning, if a newer one is ready before its turn.
    """

    def __init__(self, to: Destination, place: str | Path, every: bool = False) -> None:
        self.to, self.every, self.prepared = to, every, False
        self._api, self._bookkeeping = HfApi(), Bookkeeping()
        self._last: _Job | None = None
        self._queued: _Job | None = None  # the last one that was ready to be pushed
        self._place = Path(place) / _PLACE
        if self._place.is_dir():  # a process that was killed leaves its copies
            for left in self._place.iterdir():
                if not left.name.startswith(f"{os.getpid()}-"):
                    shutil.rmtree(left, ignore_errors=True)
        atexit.register(self._say_unfinished)

    def push(
        self,
        folder: str | Path,
        message: str,
        name: str,
        finish: Callable[[Path], None] | None = None,
        whole_as: str | None = None,
        log_failure: bool = True,
    ) -> "Future[CommitInfo]":
        """Queue a folder as it is now, and return at once.

        Args:
            folder: of a finished save; what happens to it later does not matter.
            message: of the commit.
            name: for the log, such as "step 100".
            finish: completes the copy, with a card for instance.
            whole_as: path in the repository for everything in the folder, the training's state too.
            log_failure: False for a caller that asks the future.

        Returns:
            a future: the commit, or the error; cancelled if a newer save took its place.
        """
        copy = self._place / f"{os.getpid()}-{next(_numbers)}"
        job = self._last = _Job(name, Path(folder), copy, message, log_failure)
        try:
            _link(files_to_push(job.folder), job.copy)
            if whole_as is not None:
                _link({str(p.relative_to(job.folder)): p for p in _files(job.folder)}, job.copy / whole_as)
            if finish is not None:
                finish(job.copy)
            job.future = self._api.run_as_future(self._work, job)
        except Exception as error:  # no room, no whole model: nothing that should end a training
            shutil.rmtree(job.copy, ignore_errors=True)
            job.future.set_exception(error)
            self._report(job, error)
            return job.future
        before, self._queued = self._queued, job
        if before is not None and not self.every and before.future.cancel():
            logger.warning("%s is not pushed on its own: %s was ready before its turn.", before.name, name)
            shutil.rmtree(before.copy, ignore_errors=True)
        return job.future

    def wait(self) -> str | None:
        """Wait for all pushes; a line on what is on the Hub and what is not, or None if nothing was pushed."""
        job = self._last
        if job is None:
            return None
        if self._queued is not None:  # the newest save may have failed at once, while an earlier one is pushed
            futures.wait([self._queued.future])
        if job.future.exception() is None:
            return f"On the Hub: {job.name}, {job.future.result()}"
        return f"Not on the Hub: {job.name}, whole in {job.folder}. To finish: {self.to.command(job.folder)}"

    def _say_unfinished(self) -> None:
        job = self._last
        if job is not None and not job.future.done():
            shutil.rmtree(job.copy, ignore_errors=True)
            logger.error("%s was not pushed to its end. To finish: %s", job.name, self.to.command(job.folder))

    def _work(self, job: _Job) -> CommitInfo:
        """One push, in the background; its failure is logged here, whatever it is."""
        try:
            return self._push(job)
        except Exception as error:
            with self._bookkeeping("the report of a push that failed"):
                self._report(job, error)
            raise
        finally:
            shutil.rmtree(job.copy, ignore_errors=True)

    def _push(self, job: _Job) -> CommitInfo:
        files = {path.relative_to(job.copy).as_posix(): path for path in _files(job.copy)}
        commit = push_files(files, self.to, job.message, job.folder, prepare=not self.prepared)
        self.prepared = True
        self.to = replace(self.to, repo_id=commit.repo_url.repo_id)
        if commit.pr_revision:  # what follows belongs to the same pull request
            self.to = replace(self.to, revision=commit.pr_revision, create_pr=False)
        return commit

    def _report(self, job: _Job, error: Exception) -> None:
        if not job.log_failure:
            return
        # A HubError names the command itself.
        fix = "" if isinstance(error, HubError) else f" Then run: {self.to.command(job.folder)}"
        problem = error if isinstance(error, DistillationError) else f"{type(error).__name__}: {error}."
        logger.error("Push of %s failed. %s%s", job.name, problem, fix)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _link(files: Mapping[str, Path], folder: Path) -> None:
    """Second names for files, so that they last whatever happens to the first; copies where that cannot be."""
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copy2(path, target)


@checks_arguments
class PushRun(BookkeepingCallback):
    """Pushes what a Trainer saves, while it trains on, and prints at the end what is on the Hub and what is not.

    Args:
        to: where, or the repository's id.
        when: "every_save", "best" (saves that are the best so far) or "end" (the model at the end of training).
        every: see `Pusher`.
        finish: completes what is pushed, with a card for instance; given the folder with its copy.
        checkpoint_as: path in the repository for the training's state, given the checkpoint's name; None for none.

    Raises:
        HubError: before the first step, for a repository one may not write to, or saves that hold no whole model.
    """

    part = "the push"

    def __init__(
        self,
        to: Destination | str,
        when: str = "every_save",
        every: bool = False,
        finish: Callable[[Path], None] | None = None,
        checkpoint_as: Callable[[str], str | None] = lambda name: None,
    ) -> None:
        if when not in WHEN:
            raise ArgumentError("when", when, "is unknown.", f"Use one of: {', '.join(WHEN)}.")
        self.to = Destination(to) if isinstance(to, str) else to
        self.when, self.every, self.finish, self.checkpoint_as = when, every, finish, checkpoint_as
        self.pusher: Pusher | None = None

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        self._require_whole_saves(model)
        if args.process_index == 0 and self.pusher is None:
            raise_all(access_problems(self.to.repo_id, self.to.token, "repo_id", "token"))
            self.pusher = Pusher(self.to, str(args.output_dir), self.every)

    def _require_whole_saves(self, model: nn.Module | None) -> None:
        engine = AcceleratorState()
        if self.when == "end" and not is_whole_on_the_first_process(engine, model):
            problem = "saves the model on the first process, which holds a part of it."
            raise HubError("when", "end", problem, "Call push_to_hub of a DistillationTrainer after training.")
        if self.when != "end" and (found := save_problem(engine, model)):
            raise found

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        best = self.when == "best" and state.best_global_step == state.global_step
        if self.pusher is not None and (best or self.when == "every_save"):
            name, step = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", f"step {state.global_step}"
            folder, message = Path(str(args.output_dir)) / name, f"Training in progress, {step}"
            self.pusher.push(folder, message, step, self.finish, self.checkpoint_as(name))

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Saves | None = None,
        processing_class: Saves | None = None,
        **kwargs: object,
    ) -> None:
        if self.pusher is None:
            return
        if self.when == "end":
            folder = str(args.output_dir)
            for part in (model, processing_class):
                if part is not None:
                    part.save_pretrained(folder)
            self.pusher.push(folder, "End of training", f"step {state.global_step}", self.finish)
        if line := self.pusher.wait():
            print(line, flush=True)
