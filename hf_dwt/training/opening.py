"""One line about the teacher before the first step: its loss on some of the training data, and what that means."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers import DataCollator, PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments

from ..arguments import DistillationArguments
from ..assess import judge
from ..assess.data import COUNTED, collated, spaced, special_ids
from ..assess.measure import counted_tokens, figures_of
from ..batches.examples import Examples, fetched
from ..batches.seeds import kept_random_state
from ..publish.bookkeeping import BookkeepingCallback
from ..tasks import Task
from ..teachers.frozen import FrozenTeacher

WHAT_COMPARES = "hard_loss compares over time; loss need not fall, for the weights of its terms move."
SAMPLES = 64
"""Examples that the teacher is run on: as many whatever the batch size, so that the line is the same."""


class PrintAssessment(BookkeepingCallback):
    """Prints one line on each teacher when training starts, and one on which loss compares where weights move.

    A teacher is run on a few examples, which costs about a step. Nothing is printed for a data set that is a stream,
    for a resumed run, for a run with soft_weight=0, and for a teacher that processes share: the first of them, which
    alone prints, cannot run it. `remove_callback` silences it.

    Args:
        teachers: loaded models, by name; "" is the name of a single one.
        task: theirs.
        options: of the run.
        collator: returns the data collator.
    """

    part = "the line on the teacher"

    def __init__(
        self,
        teachers: Mapping[str, FrozenTeacher],
        task: Task,
        options: DistillationArguments,
        collator: Callable[[], DataCollator],
    ) -> None:
        self._teachers, self._task, self._options, self._collator = teachers, task, options, collator

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        dataset = kwargs["train_dataloader"].dataset
        if not isinstance(dataset, Examples) or not state.is_world_process_zero:
            return
        if state.global_step or not self._options.soft_weight > 0:
            return
        for name, teacher in self._teachers.items():
            if not teacher.is_shared:
                with kept_random_state():
                    line = self.line(teacher, dataset, kwargs["model"], kwargs["processing_class"], args)
                    print(f"{name}: {line}" if name else line)
        if self._options.soft_weight_schedule != "constant":
            print(WHAT_COMPARES)

    def line(
        self,
        teacher: FrozenTeacher,
        dataset: Examples,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None,
        args: TrainingArguments,
    ) -> str:
        """The line, for the examples of a data set and the batch size and seed of the arguments."""
        task = self._task
        counted = list(fetched(dataset, spaced(len(dataset), COUNTED)))
        examples = [counted[place] for place in spaced(len(counted), SAMPLES)][:SAMPLES]
        size = args.per_device_train_batch_size
        batches = collated(examples, self._collator(), (teacher.model, model), size, args.seed)
        batches = [teacher.readable(batch) for batch in batches]
        with teacher.autocast():
            figures = figures_of(teacher.model, task, batches, args.device, teacher.row_logits)
        tokens = counted_tokens(counted, task, special_ids(tokenizer))
        return judge(task, batches, tokens, figures, {}).line()
