"""The teachers of a run: the part of the trainer that puts them together, runs them, and lets them learn."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..batches.proposing import plain_of
from ..errors import raise_all
from ..forward.calls import Batch
from ..forward.rows import Rows
from ..objective import Targets, Weights
from ..objective.targets import Correct, members
from ..tasks import Outcome
from ..teachers import Teacher
from ..teachers.composed import LearningPart, LearningTeacher, own_losses
from ..teachers.frozen import FrozenTeacher
from .adaptive import AdaptiveSchedule
from .caching import Caching
from .hidden import HiddenSupervision
from .learning import LearningParts
from .meter import Stopwatch
from .opening import PrintAssessment
from .placing import placed
from .setup.hidden_plan import HiddenPlan, scaling_problems
from .setup.misuse import truth_problems
from .setup.sources import Loaded, OneTeacher, put_together


class Teaching(Caching):
    """The part of `DistillationTrainer` that runs its teachers.

    frozen_teachers: the models among them that are run, by name; "" is the name of a single one.
    """

    teacher_clock: Stopwatch
    _adaptive: AdaptiveSchedule
    _correct: Correct | None

    def _set_up_teacher(self, loaded: Loaded | None, hidden: HiddenPlan | None = None) -> None:
        self.frozen_teachers: dict[str, FrozenTeacher] = {}
        self._assessed: dict[str, FrozenTeacher] = {}  # those that read the student's batches
        self._loaded_teacher = loaded
        self._own_loss_now: Tensor | None = None
        self.teacher = None if loaded is None else put_together(loaded, self._frozen)
        if self._assessed and self.task.outcome is Outcome.CLASS:
            prints = PrintAssessment(self._assessed, self.task, self.options, lambda: plain_of(self.data_collator))
            self.add_callback(prints)
        raise_all(scaling_problems(hidden, self.is_deepspeed_enabled, self.accelerator.mixed_precision))
        self.hidden = HiddenSupervision(hidden, self.options, self.args)
        learning: Mapping[str, LearningPart] = self.hidden.learning_parts
        if isinstance(self.teacher, LearningTeacher):
            learning = self.teacher.learning_parts
        self.learning = LearningParts(learning, self.accelerator, self.args)
        self.add_callback(self.learning)
        self._set_up_cache()

    def _frozen(self, name: str, found: OneTeacher) -> Teacher:
        """A loaded model as a teacher that is run; an object that is a teacher already as it is."""
        if not isinstance(found.teacher, nn.Module):
            return found.teacher
        model = placed(self.options, found.teacher, self.model, self.accelerator)
        frozen = FrozenTeacher(model, self.task, found.shared_classes, self.accelerator.autocast, found.known)
        self.frozen_teachers[name] = frozen
        if found.reads_batches:
            self._assessed[name] = frozen
        return frozen

    def _progress(self, step: int) -> float:
        """Of training at a step: 0 at the first, 1 at the last."""
        return min(1.0, step / max(1, self.state.max_steps))

    @property
    def _adapts(self) -> bool:
        """Whether the weights follow the teacher margin; see `DistillationTrainer`."""
        raise NotImplementedError

    def _targets(self, inputs: Batch, rows: Rows, weights: Weights) -> Targets | None:
        """The teacher's targets, as long as they have a weight or their margin is followed.

        It is also run for the hidden states of its layers, as long as their term has a weight.
        """
        teacher = self.cached_teacher or self.teacher
        predicts = weights.soft > 0 or (self._adapts and self._adaptive.runs_teacher)
        if teacher is None or not (predicts or self.hidden.asks_teacher(weights.hidden)):
            return None
        if rows.hard is not None:
            raise_all(truth_problems(self.options, self.teacher_source))
        if isinstance(teacher, LearningTeacher):
            teacher.at(self._progress(self.state.global_step))
        model = next((one.row_logits for one in self.frozen_teachers.values()), None)
        with self.bookkeeping.timed(self.teacher_clock), self.hidden.watching_teacher(model, weights.hidden):
            targets = teacher.targets(inputs, rows)
        if not predicts:
            return None
        targets = targets.weighted(rows.soft)
        return targets if self._correct is None else targets._replace(correct=self._correct)

    # ---- what learns beside the student ----

    def _let_teacher_learn(self, targets: Targets | None, terms: dict[str, Tensor], share: Tensor) -> None:
        """Keep the teacher's own loss of a micro-batch for the backward pass, and add its sums to the terms."""
        if targets is None:
            return
        terms.update({f"teacher_weight_{name}": weights.sum() for name, _, weights in members(targets)})
        for name, own in own_losses(targets):
            terms.update({f"{key}_{name}" if name else key: value for key, value in own.figures().items()})
            loss = own.loss() * share
            self._own_loss_now = loss if self._own_loss_now is None else self._own_loss_now + loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `Trainer.training_step`; then the backward pass of the teacher's own loss, which shares no gradient."""
        self._own_loss_now = None  # of a step that was broken off
        loss: Tensor = super().training_step(*args, **kwargs)
        own, self._own_loss_now = self._own_loss_now, None
        if own is not None:
            self.learning.backward(own)
        return loss

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self.learning.save(output_dir, self.args.should_save)
        self.proposals.save(output_dir, self.args.should_save)
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.learning.load(checkpoint)
            self.proposals.load(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.learning.load_best(str(self.state.best_model_checkpoint))
