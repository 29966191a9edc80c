"""The term on hidden states in a run: what is hooked, projected and added to the loss."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from ..arguments import DistillationArguments
from ..forward.head import Sums
from ..forward.hidden_states import HiddenStates
from ..forward.row_logits import RowLogits
from ..objective.hidden.layers import Pair
from ..objective.logits import at_least_fp32
from ..schedules.record import Curve
from ..teachers.composed import LearningPart
from .setup.hidden_plan import HiddenPlan


class HiddenSupervision:
    """The hidden term of a run; without a plan all of it does nothing.

    Where widths differ a linear map from the student's to the supervisor's is learnt beside the student, one for each
    pair of layers. Its gradient comes with the student's backward pass.

    Args:
        plan: which layers are compared, and how; None without a term.
        options: of distillation.
        args: of the run.
    """

    def __init__(self, plan: HiddenPlan | None, options: DistillationArguments, args: TrainingArguments) -> None:
        self.plan, self._options, self._args = plan, options, args
        self.projectors = nn.ModuleDict() if plan is None else plan.projectors(args.seed).to(args.device)
        self._own: HiddenStates | None = None
        self._theirs: HiddenStates | None = None
        self.read()

    def read(self) -> None:
        """Read the settings, which a search may have changed."""
        term = self._options.hidden()
        self._weight = 0.0 if term is None else term.weight
        self._curve: Curve = self._options.hidden_schedule()

    def weight(self, progress: float) -> float:
        """Of the term, at a progress from 0 at the first step to 1 at the last."""
        return self._weight * self._curve(progress)[1] if self.plan is not None else 0.0

    @property
    def layers(self) -> tuple[Pair, ...]:
        """(the student's layer, the one that supervises it) of each pair."""
        return self.plan.pairs if self.plan is not None else ()

    @property
    def learning_parts(self) -> Mapping[str, LearningPart]:
        """The projectors, where there are any."""
        rate = self._args.learning_rate
        return {"hidden_projector": LearningPart(self.projectors, rate)} if len(self.projectors) else {}

    def asks_teacher(self, weight: float) -> bool:
        """Whether the teacher is run for this term, which has that weight."""
        return self.plan is not None and self.plan.term.needs_teacher and weight > 0

    # ---- a step ----

    @contextmanager
    def watching_teacher(self, model: RowLogits | None, weight: float) -> Iterator[None]:
        """In the block a call of the teacher gives what supervises."""
        self._theirs = None
        if self.plan is None or model is None or not self.asks_teacher(weight):
            yield
            return
        with model.giving({other for _, other in self.plan.pairs}) as self._theirs:
            yield

    @contextmanager
    def watching_student(self, model: RowLogits, weight: float) -> Iterator[None]:
        """In the block a call of the student gives what is supervised, and without a teacher what supervises."""
        if self.plan is None or not weight > 0:
            yield
            return
        layers = {one for one, _ in self.plan.pairs}
        if not self.plan.term.needs_teacher:
            layers |= {other for _, other in self.plan.pairs}
        try:
            with model.giving(layers) as self._own:
                yield
        finally:
            self._own = self._theirs = None

    def added(self, terms: Sums, weight: float) -> Sums:
        """The terms with "hidden_loss", a sum over the rows, whose weighted sum is added to "loss"."""
        if self.plan is None or self._own is None:
            return terms
        loss = self._loss(self.plan, self._own, self._theirs or self._own)
        return {**terms, "hidden_loss": loss, "loss": terms["loss"] + weight * loss}

    def _loss(self, plan: HiddenPlan, own: HiddenStates, supervisor: HiddenStates) -> Tensor:
        """The sum over the rows of the mean over the pairs of layers."""
        total = None
        with torch.autocast(self._args.device.type, enabled=False):
            for one, other in plan.pairs:
                student, constant = at_least_fp32(own[one]), at_least_fp32(supervisor[other]).detach()
                if (name := plan.name_of(one, other)) in self.projectors:
                    student = self.projectors[name](student.float())
                rows = plan.term(student, constant, own.examples)
                rows = rows if own.shares is None else rows * own.shares
                total = rows.sum() if total is None else total + rows.sum()
        assert total is not None
        return total / len(plan.pairs)
