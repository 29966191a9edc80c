"""The way of every program: flags, student, data, training, table, and a look at what was saved."""

import copy
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import DistillationArguments
from .flags import Defaults, Flags, parse
from .measuring import Clock, Row, curve_of, seconds_of, table
from .options import SIZES, ModelArguments
from .record import Model, Program

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from peft import PeftConfig
    from transformers import DataCollator, PreTrainedModel

    from ..training.trainer import DistillationTrainer


def run_program(
    program: Program,
    argv: Sequence[str] | None = None,
    *,
    defaults: Defaults | None = None,
    purpose: str = "",
    prog: str | None = None,
) -> dict[str, Row]:
    """Train a student as the flags say: what it and its teachers reach on held-out data, and what it cost.

    Args:
        program: one of `PROGRAMS`.
        argv: the command line; that of the script by default.
        defaults: what is run where nothing is named.
        purpose: for the help.
        prog: the name of the program in usage and errors.

    Returns:
        a row for each model, as in results.json; none under `teacher_cache_only`.

    Raises:
        DistillationError: anything that is wrong with models, data or settings.
        SystemExit: with code 2, for flags that are wrong.
    """
    flags = parse(program, sys.argv[1:] if argv is None else argv, defaults, purpose, prog)
    models, options, args = flags
    if defaults is not None and options.train_file == defaults.data["train_file"]:
        defaults.make_data()
    if defaults is not None and models.teacher == defaults.values["teacher"]:
        _use_one_thread()
        defaults.make_teacher()
    args.dataloader_pin_memory &= args.device.type != "cpu"  # torch warns otherwise
    run = _Run.of(program, flags)
    student, source = run.student, run.source
    if args.teacher_cache_only:  # of the run that the same flags without it start
        print(f"The teacher's cache: {run.trainer(student, source).build_teacher_cache()}")
        return {}
    results = run.teachers()
    trainer, results["student"] = run.trained(student, source)
    if models.baseline:
        results["baseline"] = run.baseline()
        trainer.recorder.baseline = {name: results["baseline"][name] for name in program.figures}  # for the card
        trainer.recorder.save(trainer.args, trainer.state)
    if trainer.is_world_process_zero():
        place = Path(str(args.output_dir))
        (place / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"\n{table(results, program.figures)}")
        program.show(options, str(place))
    if args.push_to_hub:
        print(f"On the Hub: {trainer.push_to_hub()}")
    return results


def _use_one_thread() -> None:
    """A step of models as small as those of the examples takes up to ten times longer on two threads than on one."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)
        print("The example's models are tiny: one thread is fastest. Set OMP_NUM_THREADS for another number.")


def make_student(program: Program, flags: Flags) -> "PreTrainedModel":
    """The checkpoint that was named, or a student grown from the teacher."""
    from ..growth.api import from_weak_teacher

    models, options, args = flags
    auto_class = auto_class_of(program)
    if models.student:
        loading = program.loading(options, models.student)
        named: PreTrainedModel = auto_class.from_pretrained(models.student, **loading)
        return named
    given = {name: getattr(models, name) for name in (*SIZES, "rest") if getattr(models, name) is not None}
    # The class is said because not every checkpoint's config names one.
    given["auto_class"] = auto_class
    name = (models.teacher or [""])[0]
    student = from_weak_teacher(name, init=models.init, seed=args.seed, **given, **_loading(args))
    return student if program.adapter is None else _kept(student, name, args)


def _kept(base: "PreTrainedModel", teacher: str, args: DistillationArguments) -> "PreTrainedModel":
    """A grown student, saved and loaded: an adapter is saved without it, and names where it lies."""
    from transformers import AutoTokenizer

    folder = Path(str(args.output_dir)) / "base"
    with args.main_process_first(desc="the student that gets an adapter"):
        if args.process_index == 0:
            base.save_pretrained(folder)
            AutoTokenizer.from_pretrained(teacher).save_pretrained(folder)
    kept: PreTrainedModel = type(base).from_pretrained(folder)
    return kept


def auto_class_of(program: Program) -> Any:
    """The class of transformers that loads the models of a program."""
    import transformers

    return getattr(transformers, program.auto_class)


@dataclass
class _Run:
    """The models and data of a run, and the trainers that it makes of them.

    looked_at: the held-out examples that are evaluated while training.
    """

    program: Program
    models: ModelArguments
    args: DistillationArguments
    student: "PreTrainedModel"
    model: Model
    data: "DatasetDict"
    looked_at: "Dataset"
    collator: "DataCollator"
    adapter: "PeftConfig | None" = None

    @classmethod
    def of(cls, program: Program, flags: Flags) -> "_Run":
        """Load models and data."""
        from transformers import AutoTokenizer

        models, options, args = flags
        student = make_student(program, flags)
        tokenizer = AutoTokenizer.from_pretrained(models.teacher[0] if models.teacher else models.student)
        longest = min(tokenizer.model_max_length, getattr(student.config, "max_position_embeddings", 512), 512)
        model = Model(tokenizer, student.config, options.max_seq_length or longest, args.seed)
        with args.main_process_first(desc="tokenisation"):
            data = program(options, model)
        held_out = data["validation"]
        some = held_out.select(range(0, len(held_out), max(1, len(held_out) // options.curve_samples)))
        adapter = None if program.adapter is None else program.adapter(options)
        return cls(program, models, args, student, model, data, some, program.collate(options, model), adapter)

    @property
    def source(self) -> Any:
        """The teacher that trains the student: none, one by name, or several."""
        from ..teachers import SeveralTeachers

        teachers = self.models.teacher or []
        return SeveralTeachers([*teachers]) if len(teachers) > 1 else next(iter(teachers), None)

    def trainer(self, model: "PreTrainedModel", teacher: Any = None, **changes: Any) -> "DistillationTrainer":
        """A trainer on the data of the run, with changes of its arguments."""
        from ..training.trainer import DistillationTrainer

        own = copy.copy(self.args)
        vars(own).update(changes)
        if teacher is None and self.models.teacher:  # the teacher's own figures, and the baseline
            own.hidden_term = own.hidden_weight = own.hidden_layers = own.hidden_term_kwargs = None
        adapter = self.adapter if model is self.student else None
        data: dict[str, Any] = {"train_dataset": self.data["train"], "eval_dataset": self.looked_at}
        data |= {"data_collator": self.collator, "processing_class": self.model.tokenizer}
        return DistillationTrainer(model, own, teacher_model=teacher, peft_config=adapter, **data)

    def teachers(self) -> dict[str, Row]:
        """A row for each teacher."""
        names, rows = self.models.teacher or [], {}
        for number, name in enumerate(names):
            teacher = auto_class_of(self.program).from_pretrained(name, **_loading(self.args))
            figures = self.measured(teacher, self.trainer(teacher, push_to_hub=False).evaluate)
            rows[f"teacher {number}" if len(names) > 1 else "teacher"] = {**figures, "seconds": seconds_of(name)}
        return rows

    def trained(
        self, model: "PreTrainedModel", teacher: Any = None, **changes: Any
    ) -> tuple["DistillationTrainer", Row]:
        """Train, save and measure: the trainer, and a row of the table with the curve of the held-out loss."""
        trainer = self.trainer(model, teacher, **changes)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
        trainer.save_model()
        trainer.save_state()
        curve = curve_of(trainer.state.log_history)
        figures = {**self.measured(trainer.model, trainer.evaluate), "seconds": round(clock.seconds, 1)}
        return trainer, {**figures, f"curve_{self.program.unit}": len(self.looked_at), "curve": curve}

    def baseline(self) -> Row:
        """The row of the student's architecture, trained from scratch without a teacher."""
        from transformers import set_seed

        set_seed(self.args.seed)
        scratch = auto_class_of(self.program).from_config(self.student.config)
        apart: dict[str, Any] = {"output_dir": f"{self.args.output_dir}-baseline", "push_to_hub": False}
        apart["learning_rate"] = self.models.baseline_learning_rate or self.args.learning_rate
        apart["resume_from_checkpoint"] = self.args.resume_from_checkpoint and "last"
        return self.trained(scratch, **apart)[1]

    def measured(self, model: Any, evaluate: Callable[..., dict[str, float]]) -> Row:
        """Figures on all held-out examples, the same for every model: for a masked LM under the same masks."""
        held_out = self.data["validation"]
        figures = evaluate(held_out)
        row = {name: round(figures[f"eval_{name}"], 4) for name in self.program.figures}
        return {"parameters": model.num_parameters(), self.program.unit: len(held_out), **row}


def _loading(args: DistillationArguments) -> Any:
    """Arguments of `from_pretrained` for a teacher."""
    return args.teacher_model_init_kwargs or {}
