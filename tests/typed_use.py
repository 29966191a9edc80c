"""What a type checker makes of a user's code. Nothing runs this: `make quality` lets mypy read it.

Each ignored line must be an error: an ignore that ignores nothing is one (`warn_unused_ignores`).
"""

from pathlib import Path
from typing import assert_type

from peft import LoraConfig
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import TrainOutput

from hf_dwt import DistillationArguments, DistillationTrainer, from_weak_teacher
from hf_dwt.callbacks import PushRun
from hf_dwt.growth import GrowthReport, plan_growth
from hf_dwt.schedules import SCHEDULES
from hf_dwt.stages import Stage, StagePlan, plan_stages, run_stages
from hf_dwt.teachers import ColumnTeacher, CorrectedTeacher, ReinforcedSelection, SeveralTeachers


def training(model: PreTrainedModel, args: DistillationArguments, plain: TrainingArguments) -> None:
    trainer = DistillationTrainer(model, args, teacher_model="some/teacher", callbacks=[PushRun("me/student")])
    assert_type(trainer.train(), TrainOutput)
    DistillationTrainer(model, plain)
    DistillationTrainer("some/student", args, peft_config=LoraConfig(target_modules="all-linear"))
    DistillationTrainer(model, args, teacher_modle="some/teacher")  # type: ignore[arg-type]
    DistillationTrainer(model, args, trian_dataset=[])  # type: ignore[arg-type]
    DistillationTrainer(model, args, callbacks="none")  # type: ignore[arg-type]
    DistillationTrainer(model, args, peft_config="lora")  # type: ignore[arg-type]
    several = SeveralTeachers({"a": "some/teacher", "b": model}, ReinforcedSelection(warmup=0.1))
    DistillationTrainer(model, args, teacher_model=several)
    DistillationTrainer(
        model, args, teacher_model=SeveralTeachers([CorrectedTeacher(model, "revise"), several], [1, 2])
    )
    DistillationTrainer(model, args, teacher_model=ColumnTeacher(aligned="position", name="some/teacher"))
    SeveralTeachers([model], weighting=3)  # type: ignore[arg-type]
    DistillationArguments("out", soft_weight_schedule=lambda progress: (1.0, progress))
    DistillationArguments("out", temperture=3.0)  # type: ignore[call-arg]
    DistillationArguments("out", temperature="3.0")  # type: ignore[arg-type]
    assert_type(SCHEDULES["cosine"](0.5, until=0.8), tuple[float, float])
    SCHEDULES["cosine"]("half")  # type: ignore[arg-type]


def growing() -> None:
    student = from_weak_teacher("some/teacher", hidden_size=1024)
    assert_type(student.growth_report, GrowthReport)
    student.save_pretrained("student")
    assert_type(plan_growth("some/teacher", hidden_size=1024).apply().growth_report, GrowthReport)
    from_weak_teacher("some/teacher", tokenizer="some/tokenizer", teacher_tokenizer=Path("old"))
    from_weak_teacher("some/teacher", tokenizer=3)  # type: ignore[arg-type]
    from_weak_teacher("some/teacher", hidden_size="1024")  # type: ignore[arg-type]
    plan_growth("some/teacher", depth=3)  # type: ignore[arg-type]


def stages(model: PreTrainedModel, args: DistillationArguments) -> None:
    found = [Stage(steps=5, grow={"hidden_size": 64}, teacher="previous", hard_weight=0.5), Stage(steps=5)]
    assert_type(run_stages(found, model, teacher="some/teacher", args=args), PreTrainedModel)
    assert_type(plan_stages(found, "some/student", args=args), StagePlan)
    run_stages(found, model, techer="some/teacher", args="out")  # type: ignore[arg-type]
    Stage(steps="5")  # type: ignore[arg-type]
