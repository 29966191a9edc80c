"""What a run has come to, in about five lines when training ends."""

import math
import shlex
from pathlib import Path

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..errors import HubError
from ..signatures import checks_arguments
from .bookkeeping import BookkeepingCallback
from .card import verdict
from .model_files import files_to_push
from .recorder import RecordRun
from .run_record import RunRecord


def summary(record: RunRecord, output_dir: str, checkpoint: str | None, step: int, pushes: bool = False) -> list[str]:
    """The lines: losses, when the student overtook its teacher, where it lies, how to load it and how to push it.

    Args:
        record: of the run.
        output_dir: where `save_model` writes.
        checkpoint: that holds the model as it is now, whole; None if there is none.
        step: of the model as it is now.
        pushes: whether the run pushes it.
    """
    folder = checkpoint or output_dir
    lines = [_losses(record, step), verdict(record)]
    save = f"trainer.save_model() writes it to {output_dir}."
    lines.append(f"It lies in {checkpoint}." if checkpoint else f"It is not saved as it is now: {save}")
    if auto_class := record.model.get("auto_class"):
        needs = " (transformers and peft)" if "adapter" in record.model else ""
        lines.append(f'To load it: {auto_class}.from_pretrained("{folder}"){needs}')
    if not pushes:
        lines.append(f"To push it: hf-dwt push {shlex.quote(folder)} OWNER/NAME")
    return [line for line in lines if line]


def _losses(record: RunRecord, step: int) -> str | None:
    """The student's loss and its teacher's in the last evaluation of the model as it is now, or before it."""
    if not record.evaluations:
        logged = [entry["hard_loss"] for entry in record.curve if "hard_loss" in entry]
        text = "The student's loss was {:.4g} on the last training batches; no held-out data was evaluated."
        return text.format(logged[-1]) if logged else None
    name, entries = next(iter(record.evaluations.items()))
    last = [entry for entry in entries if entry.get("step", 0) <= step][-1:] or entries[-1:]
    where = f" on {name!r}" if name else ""
    text = f"The student's held-out loss{where} is {last[0].get('eval_loss', math.nan):.4g} at step {last[0]['step']}"
    if (loss := last[0].get("eval_teacher_loss")) is not None:
        whose = "that of its teachers' mixture" if "teachers" in record.teacher else "its teacher's"
        part = last[0].get("eval_teacher_rows")
        text += f", {whose} {loss:.4g}" + ("" if part is None else f" on the {part:.0%} of the rows that it knows")
    return f"{text}."


@checks_arguments
class SummarizeRun(BookkeepingCallback):
    """Prints what a `RecordRun` has recorded in about five lines when training ends.

    Nothing is printed on other processes than the first, in the trials of a search, and where transformers logs errors
    alone (`transformers.logging.set_verbosity_error()`). `remove_callback` silences it.
    """

    part = "the summary of the run"

    def __init__(self, record: RecordRun) -> None:
        self._record = record

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        quiet = logging.get_verbosity() >= logging.ERROR or state.is_hyper_param_search
        if quiet or not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir))
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        step = state.global_step if best is None else state.best_global_step or 0
        checkpoint = Path(best or folder / f"{PREFIX_CHECKPOINT_DIR}-{step}")
        record = self._record.run_record(args, state)
        whole = str(checkpoint) if _holds_a_model(checkpoint) else None
        print("\n".join(summary(record, str(folder), whole, step, args.push_to_hub)), flush=True)


def _holds_a_model(folder: Path) -> bool:
    try:
        return bool(files_to_push(folder))
    except HubError:
        return False
