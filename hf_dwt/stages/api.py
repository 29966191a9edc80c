"""What a caller uses: `plan_stages`, and `run_stages`, which runs the plan at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import DataCollator, PreTrainedModel, TrainerCallback, TrainingArguments

from ..arguments import DistillationArguments
from ..errors import raise_all
from ..signatures import takes_arguments_of
from ..teachers.composed import TeacherSource
from ..training.setup.check import Examples, Processor
from ..training.trainer import DistillationTrainer
from .checks import run_problems
from .heads import BodyOf
from .planning import PlannedStage, Run, make_plan
from .running import run_plan
from .stage import Stage
from .students import Source
from .table import table


@dataclass(frozen=True)
class StagePlan:
    """Stages that were checked: `print(plan)` shows them as a table, `run` runs them.

    Args:
        stages: in their order.
        common: what they have in common.
    """

    stages: Sequence[PlannedStage]
    common: Run = field(repr=False)

    def __str__(self) -> str:
        return table([planned.row for planned in self.stages])

    def run(self) -> PreTrainedModel:
        """Run what is not finished; see `run_stages`."""
        return run_plan(self.stages, self.common)


def plan_stages(
    stages: Sequence[Stage],
    student: Source | None = None,
    *,
    teacher: TeacherSource | BodyOf | None = None,
    args: TrainingArguments | None = None,
    train_dataset: Examples | None = None,
    eval_dataset: Examples | Mapping[str, Examples] | None = None,
    processing_class: Processor | None = None,
    data_collator: DataCollator | None = None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
    trainer_class: type[DistillationTrainer] = DistillationTrainer,
    **trainer_arguments: Any,
) -> StagePlan:
    """What `run_stages` does with the same arguments, which is `plan_stages(...).run()`. No weight is read.

    Returns:
        the plan: `print(plan)` shows each stage with its student's size, teacher, data, loss and steps.

    Raises:
        DistillationError: whatever is wrong with any of the stages and can be known now, the argument named as in
            "stages[1].grow"; several at once as a `SetupError`.
    """
    raise_all(run_problems(stages, args, trainer_class, trainer_arguments))
    common = Run(
        student=student,
        teacher=teacher,
        args=DistillationArguments.of(DistillationArguments("tmp_trainer") if args is None else args),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processing_class,
        data_collator=data_collator,
        callbacks=callbacks,
        trainer_class=trainer_class,
        more=trainer_arguments,
    )
    return StagePlan(make_plan(stages, common), common)


@takes_arguments_of(plan_stages)
def run_stages(*args: Any, **kwargs: Any) -> PreTrainedModel:
    """Run stages one after the other, each a `DistillationTrainer` of its own on the student of the one before.

    Each stage has the folder `args.output_dir/1-name`, with its checkpoints, its student as `save_model` writes it,
    and `stage.json`. Called again with the same arguments, it goes on where it was: a finished stage is not run
    again, one that was broken off goes on at its last whole checkpoint, or starts again without one; the result is
    the same, bit for bit where the trainer resumes so. A stage loads the student of the one before from its folder.

    Args:
        stages: of `Stage`. Those that are finished may be followed by new ones.
        student: model, id or path that the first stage trains, after its `grow`; a model stays as it is. None grows
            it from the teacher of the first stage.
        teacher: of the stages that have none of their own.
        args: of all stages; `output_dir` is the folder of all, `max_steps` is the stages'. Where they push, they push
            the last stage.
        train_dataset: of the stages that have no `dataset` of their own.
        eval_dataset: of the same stages, where they have none of their own.
        processing_class: of all stages, as of `DistillationTrainer`.
        data_collator: of the stages that have neither one of their own nor `mask`.
        callbacks: of all stages; an object among them is the same in each.
        trainer_class: derives from `DistillationTrainer`.
        **trainer_arguments: further arguments of it.

    Returns:
        the student of the last stage, on the CPU in evaluation mode.

    Raises:
        DistillationError: whatever can be known to be wrong with any stage, before the first step of the first; and
            what a stage's own trainer raises before its first step.
    """
    return plan_stages(*args, **kwargs).run()
