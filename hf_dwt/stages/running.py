"""Stages run one after the other; what is finished is not run again."""

import gc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..errors import HubError
from ..publish.run_record import GROWTH_FILE, RunRecord, StageEntry, write_whole
from ..publish.whole_saves import save_problem
from ..training.resume import last_whole_checkpoint
from .heads import BodyOf
from .moments import GrownMoments, save_moments
from .planning import PlannedStage, Run
from .records import is_finished, write_record


def run_plan(stages: Sequence[PlannedStage], common: Run) -> PreTrainedModel:
    """Run the stages behind those that are finished, and load the student of the last one."""
    done = sum(is_finished(planned.folder) for planned in stages)  # in a row from the first: the plan has seen to it
    quiet = common.args.disable_tqdm or not PartialState().is_main_process
    with tqdm(total=len(stages), initial=done, desc="stages", unit="stage", disable=quiet) as bar:
        for planned in stages[done:]:
            bar.set_postfix_str(planned.folder.name)
            following = stages[planned.number : planned.number + 1]
            path = [_entry(one) for one in stages[: planned.number]]
            _train(planned, common, path, any(one.stage.optimizer == "grown" for one in following))
            gc.collect()  # a trainer and its engines refer to each other
            bar.update()
    last = stages[-1]
    trained: PreTrainedModel = type(last.student.after).from_pretrained(last.folder)
    return trained


def _train(planned: PlannedStage, common: Run, path: list[StageEntry], keeps_moments: bool) -> None:
    """One stage, from its start or from its last checkpoint, to a student that is saved.

    Args:
        planned: the stage.
        common: to all.
        path: the stages up to this one, for its record.
        keeps_moments: whether the next one goes on with Adam's.
    """
    callbacks = list(common.callbacks or ())
    if planned.stage.optimizer == "grown":
        callbacks.append(GrownMoments(Path(str(planned.student.source)), planned.student.growth))
    teacher = planned.teacher
    run = common.trainer_class(
        planned.student.make(planned.args.seed),
        planned.args,
        data_collator=planned.collator,
        train_dataset=planned.dataset,
        eval_dataset=planned.eval_dataset,
        processing_class=common.processing_class,
        callbacks=callbacks,
        teacher_model=teacher.model() if isinstance(teacher, BodyOf) else teacher,
        **common.more,
    )
    if problem := save_problem(run.accelerator.state, run.model):
        raise problem  # the next stage could not load it
    run.recorder.stages = path
    _record(planned, finished=False)
    # A checkpoint at the last step may have been saved without the student; from the one before all is the same.
    run.train(resume_from_checkpoint=last_whole_checkpoint(planned.folder, below=planned.stage.steps))
    run.save_model()
    _keep_growth(planned)
    if keeps_moments and PartialState().is_main_process:
        save_moments(planned.folder, run.model, run.optimizer)
    run.accelerator.wait_for_everyone()
    _record(planned, finished=True)
    run.accelerator.free_memory()


def _entry(planned: PlannedStage) -> StageEntry:
    """A stage as the records of those behind it have it; with its seconds, once it is over."""
    entry = planned.entry
    if is_finished(planned.folder):
        with suppress(HubError, LookupError):  # a folder without a record
            entry["seconds"] = RunRecord.load(planned.folder).training["total"]
    return entry


def _keep_growth(planned: PlannedStage) -> None:
    """Of a student that did not grow in this stage: how it was grown before, which decides what supervises what."""
    source = planned.student.source
    if isinstance(source, str | Path) and PartialState().is_main_process:
        before, now = Path(source) / GROWTH_FILE, planned.folder / GROWTH_FILE
        if before.is_file() and not now.is_file():
            write_whole(now, before.read_bytes())


def _record(planned: PlannedStage, finished: bool) -> None:
    state = PartialState()
    if state.is_main_process:
        write_record(planned.folder, planned.description, finished)
    state.wait_for_everyone()
