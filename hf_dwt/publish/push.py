"""Pushing while training goes on: in the background, whole, never silently."""

import atexit
import logging
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import ArgumentError, DistillationError, HubError, raise_all
from ..signatures import checks_arguments
from .bookkeeping import BookkeepingCallback
from .upload import Destination, access_problems, files_to_push, push_files

logger = logging.getLogger(__name__)

WHEN = ("every_save", "best", "end")
_PLACE = "_hf_dwt_push"  # names with an underscore are never pushed; this one must be nobody else's
_numbers = count()


@dataclass
class _Job:
    name: str
    folder: Path  # where the user finds it
    copy: Path  # what is pushed
    message: str
    log_failure: bool
    done: "Future[CommitInfo | None]" = field(default_factory=Future)


class Pusher:
    """Pushes saved models one after another, in a thread of its own.

    Args:
        to: where.
        place: folder for links to what waits; on the disk of the saves.
        every: push all of them; otherwise one that is overtaken by a newer one while it waits is left out, and said.
    """

    def __init__(self, to: Destination, place: str | Path, every: bool = False) -> None:
        self.to, self.every = to, every
        self.prepared, self._running = False, False
        self._waiting: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._last: _Job | None = None
        self._thread: threading.Thread | None = None
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
    ) -> "Future[CommitInfo | None]":
        """Queue a folder as it is now, and return at once.

        Args:
            folder: of a finished save; what happens to it later does not matter.
            message: of the commit.
            name: for the log, such as "step 100".
            finish: completes the copy, with a card for instance.
            whole_as: path in the repository at which everything in the folder goes along, the training's state too.
            log_failure: False for a caller that asks the future.

        Returns:
            a future: the commit, None if a newer save took its place, or the HubError.
        """
        copy = self._place / f"{os.getpid()}-{next(_numbers)}"
        job = _Job(name, Path(folder), copy, message, log_failure)
        try:
            _link(files_to_push(job.folder), job.copy)
            if whole_as is not None:
                _link({p.name: p for p in job.folder.iterdir() if p.is_file()}, job.copy / whole_as)
            if finish is not None:
                finish(job.copy)
        except Exception as error:  # no room, no whole model: nothing that should end a training
            self._fail(job, error)
            self._last = job
            return job.done
        with self._lock:
            overtaken = [] if self.every else list(self._waiting)
            if not self.every:
                self._waiting.clear()
            self._waiting.append(job)
            if not self._running:
                self._running = True
                self._thread = threading.Thread(target=self._work, name="hf_dwt-push", daemon=True)
                self._thread.start()
        self._last = job
        for old in overtaken:
            logger.warning("%s is not pushed on its own: %s was ready before its turn.", old.name, name)
            self._end(old, None)
        return job.done

    def wait(self) -> str | None:
        """Wait for all pushes; a line on what is on the Hub and what is not, or None if nothing was pushed."""
        last = self._last
        if last is None:
            return None
        if self._thread is not None:
            self._thread.join()  # not the future alone: nothing would ever end it if the thread died
        error = last.done.exception(timeout=0)
        if error is None:
            return f"On the Hub: {last.name}, {last.done.result()}"
        return f"Not on the Hub: {last.name}, whole in {last.folder}. To finish: {self.to.command(last.folder)}"

    def _say_unfinished(self) -> None:
        job = self._last
        if job is not None and not job.done.done():
            shutil.rmtree(job.copy, ignore_errors=True)
            logger.error("%s was not pushed to its end. To finish: %s", job.name, self.to.command(job.folder))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return
                job = self._waiting.popleft()
            try:
                self._push(job)
            except Exception as error:  # whatever it is, the thread goes on, and nobody waits for ever
                logger.error("Push of %s failed: %s: %s", job.name, type(error).__name__, error)
                if not job.done.done():
                    job.done.set_exception(error)

    def _push(self, job: _Job) -> None:
        try:
            files = {path.relative_to(job.copy).as_posix(): path for path in _files(job.copy)}
            commit = push_files(files, self.to, job.message, job.folder, prepare=not self.prepared)
        except Exception as error:
            self._fail(job, error)
            return
        self.prepared = True
        self.to = replace(self.to, repo_id=commit.repo_url.repo_id)
        if commit.pr_revision:  # what follows belongs to the same pull request
            self.to = replace(self.to, revision=commit.pr_revision, create_pr=False)
        self._end(job, commit)

    def _fail(self, job: _Job, error: Exception) -> None:
        to_do = "" if isinstance(error, HubError) else f" Then run: {self.to.command(job.folder)}"
        said = error if isinstance(error, DistillationError) else f"{type(error).__name__}: {error}."
        if job.log_failure:
            logger.error("Push of %s failed. %s%s", job.name, said, to_do)
        shutil.rmtree(job.copy, ignore_errors=True)
        job.done.set_exception(error)

    def _end(self, job: _Job, commit: CommitInfo | None) -> None:
        shutil.rmtree(job.copy, ignore_errors=True)
        job.done.set_result(commit)


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
    """Pushes what a Trainer saves, without holding it up, and says at the end what is on the Hub and what is not.

    Args:
        to: where, or the repository's id.
        when: "every_save", "best" (saves that are the best so far) or "end" (the model at the end of training).
        every: see `Pusher`.
        finish: completes what is pushed, with a card for instance; given the folder with its copy.
        checkpoint_as: path in the repository for the training's state, given the checkpoint's name; None for none.

    Raises:
        HubError: before the first step, for a repository one may not write to.
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
            raise ArgumentError("when", when, "is no time to push.", f"Use one of: {', '.join(WHEN)}.")
        self.to = Destination(to) if isinstance(to, str) else to
        self.when, self.every, self.finish, self.checkpoint_as = when, every, finish, checkpoint_as
        self.pusher: Pusher | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index == 0 and self.pusher is None:
            raise_all(access_problems(self.to.repo_id, self.to.token))
            self.pusher = Pusher(self.to, args.output_dir, self.every)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best = self.when == "best" and state.best_global_step == state.global_step
        if self.pusher is not None and (best or self.when == "every_save"):
            name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            message, step = f"Training in progress, step {state.global_step}", f"step {state.global_step}"
            self.pusher.push(Path(args.output_dir) / name, message, step, self.finish, self.checkpoint_as(name))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.pusher is None:
            return
        if self.when == "end":
            for part in (kwargs["model"], kwargs.get("processing_class")):
                if part is not None:
                    part.save_pretrained(args.output_dir)
            self.pusher.push(args.output_dir, "End of training", f"step {state.global_step}", self.finish)
        if line := self.pusher.wait():
            print(line, flush=True)
