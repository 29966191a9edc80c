"""A frozen teacher with a module that learns beside the student: online distillation."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..adapting import with_adapter
from ..errors import DistillationError, TeacherError, raise_all
from ..forward.calls import Batch
from ..forward.rows import Rows
from ..kinds import SEED, Bounds, number
from ..objective import Targets, Weights
from ..objective.chunked import Gradients
from ..objective.divergences.forward_kl import FORWARD_KL, forward_kl_slope
from ..objective.logits import LinearLogits, Logits
from ..objective.sparse import SparseTargets
from ..objective.targets import Made
from ..objective.terms import Form, tensor_terms
from ..parts import Reference
from ..tasks import is_compiled
from .composed import LearningPart, Shown
from .frozen import FrozenTeacher
from .placement.layers import is_placed, twin
from .protocol import Teacher

if TYPE_CHECKING:
    from peft import PeftConfig  # whose import takes seconds

_FORM = Form(FORWARD_KL)
_WEIGHT = number(Bounds(), "is not a weight.")
_NUMBERS = {
    "learning_rate": number(Bounds(), "is no learning rate."),
    "follow": _WEIGHT,
    "anchor": _WEIGHT,
    "seed": SEED,
}


class OnlineTeacher(Shown):
    """A frozen model with a module of peft that learns beside the student: `teacher_model=OnlineTeacher(...)`.

        L(module) = CE(label, p) + follow * KL(sg[p_S] || p) + anchor * KL(p_T || p)

    with p the teacher's distribution with its module, p_T without, p_S the student's, and sg[.] a constant. The
    student is trained on p as on any teacher. Neither loss has a gradient on the other's parameters.

    A frozen backbone with small modules that are trained concurrently with the student is the idea of Online Knowledge
    Distillation (arXiv 2409.12512), of which we know the abstract alone. The first two terms are those of deep mutual
    learning (arXiv 1706.00384), with a weight. The third has the purpose that PromptKD (arXiv 2402.12842)
    gives its regularisation by the frozen teacher; there it is a reverse KL whose weight falls to 0, here a forward KL
    of constant weight. That they are put together so is ours: the labels let a weak teacher go on learning.

    The cost is a backward pass through the teacher's layers; with `anchor`, also the frozen teacher's forward pass.
    Dropout is off in both. Rows whose label the teacher does not know are left out of its loss.

    Args:
        teacher: Hub id, path or model, which stays as it is.
        peft_config: of the module, such as `LoraConfig(r=8, target_modules="all-linear")`. It must leave the frozen
            parameters as they are: no `bias`, no virtual tokens.
        learning_rate: of its AdamW, without weight decay; follows the student's schedule. At 0 the run is that of the
            frozen teacher.
        follow: weight of the divergence from the student, at least 0.
        anchor: weight of the divergence from the frozen teacher, at least 0.
        seed: of the module's initialisation.

    Raises:
        TeacherError: a teacher that is no model, or has an adapter already; numbers out of range.
        ArgumentError: when the trainer is made: peft cannot make the module for this model.
    """

    same_tokenizer = True
    caches = False
    why_not_cached = "they change while it learns"
    references = (
        Reference("a frozen teacher with a module that learns beside the student", "Online KD", "2409.12512"),
        Reference("labels and the other model as its loss", "Deep Mutual Learning", "1706.00384"),
    )

    def __init__(
        self,
        teacher: str | os.PathLike[str] | nn.Module,
        peft_config: "PeftConfig",
        learning_rate: float = 1e-3,
        follow: float = 0.5,
        anchor: float = 0.0,
        seed: int = 0,
    ) -> None:
        given = {"learning_rate": learning_rate, "follow": follow, "anchor": anchor, "seed": seed}
        problems = [
            kind.error(name, given[name], error=TeacherError)
            for name, kind in _NUMBERS.items()
            if not kind.is_right(given[name])
        ]
        raise_all([*_teacher_problems(teacher), *_config_problems(peft_config), *problems])
        self.sources = {"": teacher}
        self.peft_config, self.learning_rate, self.seed = peft_config, learning_rate, seed
        self.follow, self.anchor = follow, anchor

    @property
    def description(self) -> str:
        """How it learns, as run.json and cards have it."""
        kind = getattr(self.peft_config.peft_type, "value", self.peft_config.peft_type)
        numbers = f"learning_rate {self.learning_rate:g}, follow {self.follow:g}, anchor {self.anchor:g}"
        return f"learns beside the student, by a module of peft ({kind}; {numbers})"

    def opened(self, teachers: Mapping[str, Teacher]) -> Teacher:
        """The teacher with its module, which shares the frozen one's memory.

        Raises:
            DistillationError: the model cannot have this module.
        """
        (frozen,) = teachers.values()
        assert isinstance(frozen, FrozenTeacher)  # of a model
        return LearningModel(frozen, self.with_module(frozen.model), self)

    def with_module(self, frozen: nn.Module) -> nn.Module:
        """A model with its module, in the memory of the one without it, which stays as it is.

        Raises:
            DistillationError: the model cannot have this module.
        """
        raise_all(_model_problems(frozen))
        model = with_adapter(twin(frozen), self.peft_config, self.seed)
        own = {parameter.data_ptr() for parameter in frozen.parameters()}
        learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if shared := [name for name, parameter in learning.items() if parameter.data_ptr() in own]:
            problem = f"lets parameters of the frozen model learn, such as {shared[0]}."
            raise TeacherError("peft_config", type(self.peft_config).__name__, problem, "Leave bias='none'.")
        return model


class LearningModel:
    """An `OnlineTeacher` that is run.

    Attributes:
        model: with the module.
        frozen: the same without it.
    """

    def __init__(self, frozen: FrozenTeacher, model: nn.Module, settings: OnlineTeacher) -> None:
        self.model, self.frozen, self.columns = model, frozen, frozen.columns
        self._weights = Weights(1.0, settings.follow), Weights(0.0, settings.anchor)
        self._run = FrozenTeacher(model, frozen.task, frozen.shared_classes, frozen.autocast, frozen.known)
        self.learning_parts = {"online": LearningPart(model, settings.learning_rate)}

    def at(self, progress: float) -> None:
        """As `LearningTeacher`: nothing here follows progress."""

    def targets(self, batch: Batch, rows: Rows) -> Targets:
        """As of a frozen teacher; where gradients are enabled, with a watch that forms those of the module."""
        if not torch.is_grad_enabled():
            return self._run.targets(batch, rows)
        logits = self._run.logits(batch, rows)
        anchor = self.frozen.targets(batch, rows).cast() if self._weights[1].soft else None
        watch = OwnLoss(logits, anchor, *self._weights)
        return Targets(logits.detach(), watches=((slice(None), watch),))


class OwnLoss:
    """The module's loss, formed chunk by chunk while the logits of student and teacher are there.

    Where the teacher's head is linear, the gradient is that of the student's objective with the roles exchanged, and
    goes back through the head at once: neither its product nor the logits are made a second time.

    Args:
        logits: (n, P) of the teacher, with their gradient.
        anchor: the frozen teacher's, or None.
        weights: of the labels and of the student.
        anchored: of the frozen teacher.
    """

    def __init__(self, logits: Logits, anchor: Targets | None, weights: Weights, anchored: Weights) -> None:
        self._logits, self._anchor, self._weights, self._anchored = logits, anchor, weights, anchored
        self._gradients: Gradients | None = None
        zero = torch.zeros((), device=(logits if isinstance(logits, Tensor) else logits.hidden).device)
        self._sums = dict.fromkeys(("loss", "hard_loss", "soft_loss", *(["anchor_loss"] if anchor else [])), zero)

    def __call__(self, rows: slice, student: Tensor, labels: Tensor, teacher: Made, temperature: float) -> None:
        """See a chunk; see `hf_dwt.objective.targets.Watch`. The temperature is of the student's soft term alone."""
        assert not isinstance(teacher, SparseTargets)
        classes = teacher.shape[1]
        self._cut(classes)
        known: Tensor | slice = slice(None)
        if classes < student.shape[1]:
            known = labels < classes
            student, labels = student[known], labels[known]
        towards = [(Targets(student[:, :classes]), self._weights)]
        if self._anchor is not None:
            frozen = self._anchor.part(rows).made()
            assert isinstance(frozen, Tensor)
            towards.append((Targets(frozen[known, :classes]), self._anchored))
        with torch.set_grad_enabled(self._gradients is None):
            if self._gradients is None:
                self._add_traced(self._logits[rows][known], labels, towards)
            else:
                self._add_formed(rows, known, teacher, labels, towards, self._gradients)

    def _cut(self, classes: int) -> None:
        """Before the first chunk: keep the classes that are seen, which are fewer in a mixture of several teachers."""
        if self._gradients is not None:
            return
        with torch.enable_grad():
            linear = isinstance(self._logits, LinearLogits)
            self._logits = self._logits.first(classes) if linear else self._logits[:, :classes]  # type: ignore[union-attr,index]
        if isinstance(self._logits, LinearLogits) and self._logits.hidden.requires_grad:
            with torch.no_grad():
                self._gradients, self._cast = Gradients(self._logits), self._logits.detach().cast()

    def _add_traced(self, teacher: Tensor, labels: Tensor, towards: list[tuple[Targets, Weights]]) -> None:
        for targets, weights in towards:
            self._add(tensor_terms(teacher, labels, targets, weights, _FORM), weights)

    def _add_formed(
        self,
        rows: slice,
        known: Tensor | slice,
        teacher: Tensor,
        labels: Tensor,
        towards: list[tuple[Targets, Weights]],
        gradients: Gradients,
    ) -> None:
        whole: Tensor | None = None
        for targets, weights in towards:
            terms, slope = forward_kl_slope(teacher[known], labels, targets, weights, _FORM, None, True)
            self._add(terms, weights)
            assert slope is not None
            whole = slope if whole is None else whole.add_(slope)
        assert whole is not None
        if isinstance(known, Tensor):
            whole = torch.zeros_like(teacher).masked_scatter_(known.unsqueeze(1), whole)
        logits = teacher if self._cast.cap is None else teacher.clone()  # which is used up
        gradients.add(rows, logits, whole, self._cast)

    def _add(self, terms: Mapping[str, Tensor], weights: Weights) -> None:
        own = {"loss": "loss", "soft_loss": "soft_loss" if weights.hard else "anchor_loss"}
        own |= {"hard_loss": "hard_loss"} if weights.hard else {}
        for name, key in own.items():
            self._sums[key] = self._sums[key] + terms[name]

    def loss(self) -> Tensor:
        """The sum over the rows, with a gradient on what the teacher's logits depend on."""
        total = self._sums["loss"]
        if self._gradients is None:
            return total
        assert isinstance(self._logits, LinearLogits)
        return self._gradients.given_to(total, self._logits)

    def figures(self) -> Mapping[str, Tensor]:
        """`teacher_own_loss` and its terms, without their weights."""
        named = {"loss": "teacher_own_loss"}
        return {named.get(key, f"teacher_{key}"): value.detach() for key, value in self._sums.items()}


def _teacher_problems(teacher: object) -> list[DistillationError]:
    if not isinstance(teacher, str | os.PathLike | nn.Module):
        problem = f"is of type {type(teacher).__name__}, which has no modules that an adapter could be added to."
        return [TeacherError("teacher", type(teacher).__name__, problem, "Give a Hub id, a path, or a model.")]
    return []


def _config_problems(config: object) -> list[DistillationError]:
    kind, example = type(config).__name__, "Give one of peft, such as LoraConfig(target_modules='all-linear')."
    if not hasattr(config, "peft_type") or isinstance(config, type | nn.Module):
        return [TeacherError("peft_config", kind, "is no config of an adapter.", example)]
    if getattr(config, "is_prompt_learning", False):
        problem = "puts virtual tokens before the text: even untrained ones change what the teacher predicts."
        return [TeacherError("peft_config", kind, problem, example)]
    return []


def _model_problems(model: nn.Module) -> list[DistillationError]:
    kind, problem = type(model).__name__, ""
    if getattr(model, "peft_config", None):
        problem, fix = "has an adapter already.", "Give the model with it merged: model.merge_and_unload()."
    elif is_placed(model):
        problem = "is quantised, sharded, offloaded or dispatched by device_map: an adapter needs its layers whole."
        fix = "Give a smaller teacher or one in bfloat16, with teacher_placement='replicate' (or 'auto')."
    elif is_compiled(model):
        problem, fix = "is compiled: an adapter would not be seen.", "Give the model that is not compiled."
    return [TeacherError("teacher", kind, problem, fix)] if problem else []


__all__ = ["OnlineTeacher"]
