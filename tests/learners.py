"""A teacher that learns and has no model: one vector of logits, whose own loss is the labels' cross-entropy."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_dwt.forward.rows import Rows
from hf_dwt.objective import Targets
from hf_dwt.teachers.composed import LearningPart

from .models import VOCAB


class Counts(nn.Module):
    """The module of `Learner`: logits (VOCAB,), and what it counts at the end of each step."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.steps, self.rows, self.seen = (torch.zeros(()) for _ in range(3))

    @property
    def counted(self) -> dict[str, Tensor]:
        return {"steps": self.steps, "rows": self.rows, "seen": self.seen}

    def stepped(self, mean: Callable[[Tensor], Tensor]) -> None:
        self.steps += 1
        self.rows += mean(self.seen)
        self.seen.zero_()


class CrossEntropy:
    """The own loss, as a watch."""

    def __init__(self, module: Counts) -> None:
        self.module, self.total = module, torch.zeros(())

    def __call__(self, rows: slice, student: Tensor, labels: Tensor, teacher: Any, _: float) -> None:
        with torch.enable_grad():
            self.total = self.total - torch.log_softmax(self.module.logits, 0)[labels].sum()
        self.module.seen += len(labels)

    def loss(self) -> Tensor:
        return self.total

    def figures(self) -> Mapping[str, Tensor]:
        return {"teacher_own_loss": self.total.detach()}


class Learner:
    """A teacher of a user's own that learns.

    Args:
        rate: its learning rate.
        seed: of its first values.
        decay: its weight decay.
    """

    columns: frozenset[str] = frozenset()

    def __init__(self, rate: float = 1e-2, seed: int = 0, decay: float = 0.0) -> None:
        self.module = Counts(seed)
        self.learning_parts = {
            "counts": LearningPart(self.module, rate, decay, self.module.counted, self.module.stepped)
        }
        self.progress: list[float] = []

    def at(self, progress: float) -> None:
        self.progress.append(progress)

    def targets(self, batch: Any, rows: Rows) -> Targets:
        logits = self.module.logits.detach().expand(len(rows.labels), VOCAB)
        return Targets(logits, watches=((slice(None), CrossEntropy(self.module)),))
