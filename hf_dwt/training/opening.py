"""What the trainer says of its teacher before the first step."""

from typing import Any

from ..assess import judge
from ..assess.data import COUNTED, collated, spaced, special_ids
from ..assess.measure import counted_tokens, figures_of
from ..data.seeds import kept_random_state
from ..publish.bookkeeping import BookkeepingCallback
from ..teachers import FrozenTeacher
from ..teachers.cache.keys import fetched

SAMPLES = 64
"""Examples that the teacher is run on: as many whatever the batch size, so that the line says the same."""


class SayWhetherItHelps(BookkeepingCallback):
    """Prints one line when training starts: the teacher's loss on some of the training data, and what that means.

    The teacher is run on a few examples, which costs about a step. Says nothing of a stream, of a teacher that is no
    model, of a resumed run, and of a teacher that the run does not listen to. `remove_callback` silences it.

    Args:
        trainer: with a teacher and its task.
    """

    part = "the line on the teacher"

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, teacher, dataset = self._trainer, self._trainer.teacher, self._trainer.train_dataset
        if not isinstance(teacher, FrozenTeacher) or trainer.options.soft_weight == 0:
            return
        countable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        if not (countable and state.is_world_process_zero) or state.global_step:
            return
        with kept_random_state():
            print(self._line(teacher, dataset))

    def _line(self, teacher: FrozenTeacher, dataset: Any) -> str:
        trainer = self._trainer
        counted = list(fetched(dataset, spaced(len(dataset), COUNTED)))
        size = trainer.args.per_device_train_batch_size
        examples = [counted[place] for place in spaced(len(counted), SAMPLES)][:SAMPLES]
        batches = collated(examples, trainer.data_collator, (teacher.model, trainer.model), size, trainer.args.seed)
        batches = [teacher.readable(batch) for batch in batches]
        with trainer.accelerator.autocast():
            figures = figures_of(teacher.model, trainer.task, batches, trainer.args.device, teacher.row_logits)
        tokens = counted_tokens(counted, trainer.task, special_ids(trainer.processing_class))
        return judge(trainer.task, batches, tokens, figures, {}).line()
