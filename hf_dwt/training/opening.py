"""One line about the teacher before the first step: its loss on some of the training data, and what that means."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import DataCollator, PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments

from ..arguments import DistillationArguments
from ..assess import judge
from ..assess.data import COUNTED, collated, spaced, special_ids
from ..assess.measure import counted_tokens, figures_of
from ..data.examples import Examples, fetched
from ..data.seeds import kept_random_state
from ..publish.bookkeeping import BookkeepingCallback
from ..tasks import Task
from ..teachers.frozen import FrozenTeacher

SAMPLES = 64
"""Examples that the teacher is run on: as many whatever the batch size, so that the line is the same."""


class PrintAssessment(BookkeepingCallback):
    """Prints one line on the teacher when training starts.

    The teacher is run on a few examples, which costs about a step. Nothing is printed for a data set that is a stream,
    for a resumed run, for a run with soft_weight=0, and for a teacher that processes share: the first of them, which
    alone prints, cannot run it. `remove_callback` silences it.

    Args:
        teacher: a loaded model.
        task: its task.
        options: of the run.
        collator: returns the data collator.
        name: of the teacher, where there are several.
    """

    part = "the line on the teacher"

    def __init__(
        self,
        teacher: FrozenTeacher,
        task: Task,
        options: DistillationArguments,
        collator: Callable[[], DataCollator],
        name: str = "",
    ) -> None:
        self._name = name
        self._teacher, self._task, self._options, self._collator = teacher, task, options, collator

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        dataset = kwargs["train_dataloader"].dataset
        if not isinstance(dataset, Examples) or self._teacher.is_shared:
            return
        if state.is_world_process_zero and not state.global_step and self._options.soft_weight > 0:
            with kept_random_state():
                line = self.line(dataset, kwargs["model"], kwargs["processing_class"], args)
                print(f"{self._name}: {line}" if self._name else line)

    def line(
        self, dataset: Examples, model: nn.Module, tokenizer: PreTrainedTokenizerBase | None, args: TrainingArguments
    ) -> str:
        """The line, for the examples of a data set and the batch size and seed of the arguments."""
        teacher, task = self._teacher, self._task
        counted = list(fetched(dataset, spaced(len(dataset), COUNTED)))
        examples = [counted[place] for place in spaced(len(counted), SAMPLES)][:SAMPLES]
        size = args.per_device_train_batch_size
        batches = collated(examples, self._collator(), (teacher.model, model), size, args.seed)
        batches = [teacher.readable(batch) for batch in batches]
        with teacher.autocast():
            figures = figures_of(teacher.model, task, batches, args.device, teacher.row_logits)
        tokens = counted_tokens(counted, task, special_ids(tokenizer))
        return judge(task, batches, tokens, figures, {}).line()
