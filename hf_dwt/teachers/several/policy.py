"""A policy that learns which of several teachers to follow, by the reward of what it chose."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import DistillationError, TeacherError, raise_all, unknown_name
from ...forward.calls import Batch
from ...forward.rows import Rows
from ...kinds import Bounds
from ...objective.targets import Made
from ..cache.keys import example_keys
from ..composed import LearningPart
from .record import Figures
from .rewards import REWARDS, Reward

_BOUNDS = {"warmup": Bounds(0, 1), "learning_rate": Bounds(), "baseline": Bounds(0, 1)}


@dataclass(frozen=True)
class ReinforcedSelection:
    """Reinforced multi-teacher selection (RL-KD, Yuan et al., arXiv 2012.06048), as a weighting of `SeveralTeachers`.

    Each teacher k is chosen for a group of rows (an example, by default) with the probability
    pi_k = sigmoid(A_k . s_k + b_k), independently of the others; the chosen ones are mixed in equal parts. Where none
    would be chosen, the likeliest is. REINFORCE raises the log-probability of choices whose reward is above a moving
    mean. A and b start at 0. In an evaluation the policy chooses as it does in training.

    The state s_k is what the teacher shows by itself, each as a difference from the mean of all teachers: the mean
    log-probability of the labels, the entropy, and on which share of the rows it agrees with each other teacher about
    the likeliest class. **The label is an input**: that a policy finds the teacher with the lower cross-entropy is no
    discovery, since "cross_entropy" has it from the same input without learning.

    What is the paper's: a Bernoulli choice for each teacher, its cross-entropy as state, warm-up, REINFORCE, both
    rewards. Ours: the other two figures of the state (the paper has the example's representation), no empty choice,
    the moving mean, and that the student's cross-entropy is looked up one step ahead. In a trainer the choice comes
    before the student learns from it, so that the present cross-entropy does not depend on it and has nothing to
    reward: see `hf_dwt.teachers.several.rewards`.

    Draws depend on the example's content and on the number of steps that the policy has taken, and on no global random
    numbers: neither the split of a step nor a resume changes them.

    Args:
        reward: a name of `REWARDS`: "student", or "both", which subtracts the divergence from the mixture.
        warmup: share of training in which all teachers are chosen and nothing is learnt but the moving mean.
        learning_rate: of the policy's AdamW at its highest; it follows the student's schedule. At 0 the warm-up does
            not end: there is nothing to explore for, and all teachers count the same, bit for bit as "equal".
        baseline: how much of the moving mean of the rewards is kept at each step.

    Raises:
        TeacherError: an unknown reward, or a number out of its bounds.
    """

    reward: str = "student"
    warmup: float = 0.05
    learning_rate: float = 0.05
    baseline: float = 0.9

    def __post_init__(self) -> None:
        problems: list[DistillationError] = []
        if self.reward not in REWARDS:
            problems.append(unknown_name("reward", self.reward, REWARDS, error=TeacherError))
        for name, bounds in _BOUNDS.items():
            if (value := getattr(self, name)) not in bounds:
                problems.append(TeacherError(name, value, "is out of range.", f"Give a number {bounds}."))
        raise_all(problems)


class Policy(nn.Module):
    """(G, K, F) states -> (G, K) log-odds of each choice."""

    def __init__(self, teachers: int, features: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(teachers, features))
        self.bias = nn.Parameter(torch.zeros(teachers))

    def forward(self, states: Tensor) -> Tensor:
        return (states * self.weight).sum(-1) + self.bias


def filled(odds: Tensor, chosen: Tensor) -> Tensor:
    """(G, K) choices, where none is chosen the likeliest of (G, K) log-odds."""
    none = ~chosen.any(1, keepdim=True)
    return chosen | (none & F.one_hot(odds.argmax(1), odds.shape[1]).bool())


def log_probability(odds: Tensor, chosen: Tensor) -> Tensor:
    """(G,) log-probability of (G, K) choices that are not empty, with that of the empty one where it leads to them."""
    each = F.logsigmoid(torch.where(chosen, odds, -odds)).sum(1)
    nobody = F.logsigmoid(-odds).sum(1)
    stands_in = (chosen == filled(odds, torch.zeros_like(chosen))).all(1)
    return torch.where(stands_in, torch.logaddexp(each, nobody), each)


class Selecting:
    """The policy of a run; on the CPU: it is a few numbers for each example.

    Args:
        settings: of the user.
        teachers: K.
    """

    def __init__(self, settings: ReinforcedSelection, teachers: int) -> None:
        self._settings, self.policy = settings, Policy(teachers)
        self._steps = torch.zeros((), dtype=torch.int64)
        self._mean = torch.zeros(2, dtype=torch.float64)  # sum and weight of the moving mean
        self._seen = torch.zeros(2, dtype=torch.float64)  # rewards and rows of this step
        state = {"steps": self._steps, "mean": self._mean, "seen": self._seen}
        self.part = LearningPart(self.policy, settings.learning_rate, state=state, stepped=self._stepped)
        self._progress = 0.0

    def at(self, progress: float) -> None:
        """Of training, from 0 to 1."""
        self._progress = progress

    @property
    def _chooses(self) -> bool:
        return self._settings.learning_rate > 0 and self._progress >= self._settings.warmup

    def choose(
        self, figures: Figures, batch: Batch, columns: frozenset[str], rows: Rows
    ) -> tuple[Tensor, "Rewarding"]:
        """(n, K) weights, and what waits for their reward.

        Args:
            figures: of the teachers.
            batch, columns, rows: what the teachers read of it; draws are made of that.
        """
        present, groups = torch.unique(figures.groups.cpu(), return_inverse=True)
        states = states_of(figures, groups, len(present))
        with torch.no_grad():
            odds = self.policy(states)
        chosen = torch.ones_like(odds, dtype=torch.bool)
        if self._chooses:
            drawn = self._draws(example_keys(batch, columns, rows), groups, odds.shape[1])
            chosen = filled(odds, drawn < torch.sigmoid(odds))
        weights = chosen / chosen.sum(1, keepdim=True)
        reward = REWARDS[self._settings.reward]
        return weights[groups].to(figures.groups.device), Rewarding(
            self, states, chosen, groups, figures.known, reward
        )

    def _draws(self, keys: list[tuple[bytes, int]], groups: Tensor, teachers: int) -> Tensor:
        """(G, K) from 0 to 1: each group's of the content of its example, or of its row, or of all examples."""
        count = int(groups.max()) + 1 if len(groups) else 0
        numbers, lengths = [int.from_bytes(key, "little") for key, _ in keys], [length for _, length in keys]
        steps = int(self._steps)
        if count == len(keys):
            drawn = [np.random.default_rng([number, steps]).random(teachers) for number in numbers]
        elif count == len(groups):
            each = zip(numbers, lengths, strict=True)
            drawn = [row for n, length in each for row in np.random.default_rng([n, steps]).random((length, teachers))]
        else:
            drawn = [np.random.default_rng([sum(numbers), steps]).random(teachers)]
        return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, teachers)

    def loss(self, waiting: "Rewarding") -> Tensor:
        """REINFORCE over the rows of a batch: a sum, in which each group counts by its rows."""
        known = waiting.rows_of_groups
        self._seen += torch.stack([(known * waiting.rewards).sum(), known.sum()]).double()
        if not self._chooses:
            return torch.zeros(())
        usual = (self._mean[0] / self._mean[1].clamp(min=1e-9)).float()
        log_probs = log_probability(self.policy(waiting.states), waiting.chosen)
        return -(known * (waiting.rewards - usual) * log_probs).sum()

    def _stepped(self, mean: Callable[[Tensor], Tensor]) -> None:
        total, rows = mean(self._seen.float()).double().cpu()
        self._seen.zero_()
        if rows > 0:
            kept = self._settings.baseline
            self._mean.mul_(kept).add_(torch.stack([total / rows, torch.ones_like(rows)]), alpha=1.0 - kept)
            self._steps += 1


def states_of(figures: Figures, groups: Tensor, count: int) -> Tensor:
    """(G, K, 3) on the CPU, with a mean of 0 over the K teachers: what `ReinforcedSelection` names."""
    likeliest, teachers = figures.likeliest, figures.shape[1]
    same = (likeliest.unsqueeze(2) == likeliest.unsqueeze(1)).float().sum(2) - 1.0
    entropies = figures.entropies  # before log_probs, so that the logits are made once for both
    each = torch.stack([figures.log_probs, entropies, same / max(1, teachers - 1)], 2).cpu().float()
    known = figures.known.cpu().float()
    sums = torch.zeros(count, *each.shape[1:]).index_add(0, groups, each * known.view(-1, 1, 1))
    rows = torch.zeros(count).index_add(0, groups, known)
    means = sums / rows.clamp(min=1.0).view(-1, 1, 1)
    return means - means.mean(1, keepdim=True)


class Rewarding:
    """An `OwnLoss`: sees what a choice would do to the student, and has the policy's loss."""

    def __init__(
        self, policy: Selecting, states: Tensor, chosen: Tensor, groups: Tensor, known: Tensor, reward: Reward
    ) -> None:
        self._policy, self.states, self.chosen = policy, states, chosen
        self._groups, self._known, self._reward = groups, known, reward
        self._of_rows = torch.zeros(len(known), device=known.device)

    def __call__(self, rows: slice, student: Tensor, labels: Tensor, teacher: Made, temperature: float) -> None:
        """See the rows of a chunk."""
        assert isinstance(teacher, Tensor)
        rewards = self._reward(student, labels, teacher / temperature, temperature)
        # Where a student overflows, which fp16 survives, the policy learns nothing.
        counts = self._known[rows] & torch.isfinite(rewards)
        self._of_rows[rows] = torch.where(counts, rewards, 0.0).to(self._of_rows)

    def _of_groups(self, values: Tensor) -> Tensor:
        return torch.zeros(len(self.states)).index_add(0, self._groups, values.cpu().float())

    @property
    def rows_of_groups(self) -> Tensor:
        """(G,) rows whose label is known."""
        return self._of_groups(self._known)

    @property
    def rewards(self) -> Tensor:
        """(G,) means over those rows."""
        return self._of_groups(self._of_rows) / self.rows_of_groups.clamp(min=1.0)

    def loss(self) -> Tensor:
        """See `OwnLoss`."""
        return self._policy.loss(self)

    def figures(self) -> dict[str, Tensor]:
        """The rewards' sum over the rows."""
        return {"teacher_reward": self._of_rows.sum()}
