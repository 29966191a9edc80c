"""What a run leaves behind: saves that are whole, the run record, the card, and pushes that lose nothing."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.trainer_utils import HubStrategy

from ..callbacks import DrawRun, PushRun, RecordRun, SummarizeRun
from ..errors import HubError
from ..publish.card import CARD_FILE, may_write_card, write_card
from ..publish.describe import inherited_license, public_name
from ..publish.plot import draw
from ..publish.push import Pusher
from ..publish.run_record import GROWTH_FILE, RunRecord, write_whole
from ..publish.upload import Destination, prepare
from ..publish.whole_saves import save_problem
from ..tasks import plain_model
from ..teachers.composed import TeacherSource, single_sources
from ..teachers.frozen import FrozenTeacher
from .hidden import HiddenSupervision
from .meter import Stopwatch
from .proposing import ServeProposals
from .record import Section, growth_section, objective_section, spent_seconds, teacher_section
from .staging import replaced_at_the_end
from .student import RunsStudent

logger = logging.getLogger(__name__)


class Publishing(RunsStudent):
    """The part of `DistillationTrainer` that saves, records, describes and pushes."""

    teacher_source: TeacherSource | None
    frozen_teachers: dict[str, FrozenTeacher]
    hidden: HiddenSupervision
    teacher_clock: Stopwatch
    proposals: ServeProposals
    hub_model_id: Any  # a str, which the Trainer does not annotate

    def _set_up_publishing(self) -> None:
        self.recorder = RecordRun(self._sections)
        self._asked: dict[str, object] = {}
        self._licenses: dict[str, str | None] = {}
        self.recorder.on_init_end(self.args, self.state, self.control, model=self.model)  # before an engine has it
        self.add_callback(self.recorder)
        self.add_callback(DrawRun(self.recorder, lambda: self.callback_handler.callbacks))
        self.add_callback(SummarizeRun(self.recorder))
        if self.args.push_to_hub and self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            self._find_licenses()
            pushing = PushRun(self._pusher.to, finish=self._add_card, checkpoint_as=self._checkpoint_on_the_hub)
            pushing.pusher = self._pusher
            self.add_callback(pushing)

    # ---- saving ----

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As `Trainer._save`, but a save that breaks off leaves the one before it, and no token is written."""
        folder = Path(output_dir or str(self.args.output_dir))
        with self._without_tokens():
            if not self.args.should_save:
                super()._save(str(folder), state_dict)
                return
            with self.bookkeeping("the teacher's license"):
                self._find_licenses(again=False)
            with replaced_at_the_end(folder, self.bookkeeping) as staging:
                super()._save(str(staging), state_dict)
                with self.bookkeeping("what is known of the run, beside the weights"):
                    self._save_records(staging)
            with self.bookkeeping("the card beside the weights"):
                self._save_card(folder)

    @contextmanager
    def _without_tokens(self) -> Iterator[None]:
        """In the block the arguments are a copy without tokens: they are saved, and pushed, as they are."""
        args = self.args
        self.args = copy(args)
        for name in [name for name in vars(args) if name.endswith("_token")]:
            setattr(self.args, name, None)
        try:
            yield
        finally:
            self.args = args

    def _save_records(self, folder: Path) -> None:
        with self.bookkeeping("run.json"):
            self._run_record().save(folder)
        with self.bookkeeping("growth.json"):
            self._save_growth(folder)

    def _save_growth(self, folder: Path) -> None:
        report = getattr(plain_model(self.model), "growth_report", None)
        if report is not None:
            base = public_name(report.base_model) if report.base_model else ""
            content = {**report.to_dict(), "teacher": public_name(report.teacher), "base_model": base}
            write_whole(folder / GROWTH_FILE, json.dumps(content, indent=1) + "\n")

    def _run_record(self) -> RunRecord:
        self.recorder.on_init_end(self.args, self.state, self.control, model=self.model)
        return self.recorder.run_record(self.args, self.state)

    def _sections(self) -> dict[str, Section]:
        """What a callback cannot see of the run, by section of the run record."""
        given = self.options.teacher_model_init_kwargs
        revision, has_teacher = given.get("revision") if isinstance(given, dict) else None, self.teacher is not None
        sections: dict[str, Callable[[], Section]] = {
            "teacher": lambda: teacher_section(self.teacher_source, self.frozen_teachers, revision, self._licenses),
            "growth": lambda: growth_section(self.model),
            "objective": lambda: objective_section(self.options, has_teacher, self.hidden.layers, self.proposals.own),
            "training": self._training_section,
            "asked": lambda: {**({"model_id": self.hub_model_id} if self.hub_model_id else {}), **self._asked},
        }
        return {
            name: self.bookkeeping.get(f"the trainer's part of {name!r} in run.json", make, {})
            for name, make in sections.items()
        }

    def _training_section(self) -> Section:
        spent = spent_seconds(self.teacher_clock if self.teacher is not None else None, self.proposals.own)
        return {"examples_per_step": self.get_total_train_batch_size(self.args), **spent}

    # ---- the card ----

    def _find_licenses(self, again: bool = True) -> None:
        """Of each teacher whose license is not known yet; or that was not looked for yet, which may ask the Hub."""
        if self.teacher_source is not None:
            for name, source in single_sources(self.teacher_source):
                if name not in self._licenses or (again and self._licenses[name] is None):
                    self._licenses[name] = inherited_license(source)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write the card to `output_dir`, with what the run record holds and its picture.

        A README.md that is there and is none of ours stays, with a warning.

        Arguments as `Trainer.create_model_card`, except that `finetuned_from`, `tasks`, `dataset` and `dataset_args`
        are not read: the run record has their content.
        """
        if not self.is_world_process_zero():
            return
        given = {"language": language, "license": license, "tags": tags, "model_name": model_name}
        self._asked |= {name: value for name, value in {**given, "datasets": dataset_tags}.items() if value}
        self._find_licenses()
        with self.bookkeeping("the card"):
            folder, record = str(self.args.output_dir), self._run_record()
            with self.bookkeeping("run.json"):
                record.save(folder)
            with self.bookkeeping("the card's picture"):
                draw(record, folder)
            if not may_write_card(folder):
                kept = "%s/%s is none of our cards, and stays as it is. `hf-dwt card` replaces it."
                logger.warning(kept, folder, CARD_FILE)
                return
            write_card(record, folder, self.bookkeeping)

    def _save_card(self, folder: Path) -> None:
        if may_write_card(folder):
            write_card(self._run_record(), folder, self.bookkeeping)

    def _add_card(self, folder: Path) -> None:
        with self.bookkeeping("the card of a push"):
            self._write_card(folder)

    def _write_card(self, folder: Path) -> None:
        # What the user wrote in the card of the run goes along.
        present = Path(str(self.args.output_dir)) / CARD_FILE
        if present.is_file():
            write_whole(folder / CARD_FILE, present.read_bytes())
        self._save_card(folder)

    # ---- the Hub ----

    def _checkpoint_on_the_hub(self, name: str) -> str | None:
        """Where a checkpoint goes with all of the training's state, by `hub_strategy`."""
        return {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: name}.get(
            HubStrategy(self.args.hub_strategy)
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As `Trainer.init_hf_repo`; a Hub that cannot be reached now is asked again at each push.

        Raises:
            HubError: the Hub refused.
        """
        if not self.is_world_process_zero():
            return
        args = self.args
        to = Destination(
            repo_id=args.hub_model_id or Path(str(args.output_dir)).absolute().name,
            revision=args.hub_revision,
            private=args.hub_private_repo if private is None else private,
            token=token or args.hub_token,
        )
        reached = True
        try:
            to = replace(to, repo_id=prepare(to))
        except HubError as error:
            if not error.transient:
                raise
            logger.warning("%s Training goes on: the first push tries again.", error)
            reached = False
        self.hub_model_id, self.push_in_progress = to.repo_id, None
        self._pusher = Pusher(to, str(args.output_dir), every=args.hub_always_push)
        self._pusher.prepared = reached

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`; where that pushes, a push that fails is logged and does not raise.

        Where it saves parts of the model alone, it logs how to get the whole one.
        """
        super().save_model(output_dir, _internal_call=True)
        if not _internal_call and (problem := save_problem(self.accelerator.state, self.model)):
            logger.warning("save_model wrote no whole model. %s", problem)
        if self.args.push_to_hub and not _internal_call:
            try:
                self.push_to_hub(commit_message="Model save")
            except HubError as error:
                logger.error("Push failed. %s", error)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Save the model, write its card, and push both with everything that belongs to them in one commit.

        Args:
            create_pr: open a pull request instead of writing to the branch.
            commit_message, blocking, token, revision, private, **kwargs: as `Trainer.push_to_hub`.

        Returns:
            the commit, or a future of it if not `blocking`; None on other processes than the first.

        Raises:
            HubError: the model is saved, but not on the Hub; the error names the fix.
        """
        if problem := save_problem(self.accelerator.state, self.model):
            raise problem  # what lies in the folder is of an earlier save
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        own_tags = [*_listed(kwargs.pop("tags", None)), *(getattr(self.model, "model_tags", None) or [])]
        self.create_model_card(tags=own_tags, **kwargs)
        pusher = self._pusher
        given: dict[str, Any] = {"token": token, "revision": revision, "create_pr": create_pr}
        if changes := {name: value for name, value in given.items() if value}:
            pusher.to, pusher.prepared = replace(pusher.to, **changes), False
        message, name = commit_message or "End of training", f"step {self.state.global_step}"
        future = pusher.push(str(self.args.output_dir), message, name, log_failure=not blocking)
        return future.result() if blocking else future

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Wait for what other processes write; the callback `PushRun` pushes, once run.json is in the checkpoint."""
        self.accelerator.wait_for_everyone()


def _listed(values: str | Iterable[str] | None) -> list[str]:
    return [values] if isinstance(values, str) else list(values or [])
