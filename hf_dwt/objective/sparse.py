"""The soft term from a few classes of the teacher's distribution instead of all of them.

Shapes: n rows, k stored classes a row, P classes that student and teacher share. In nats, in fp32 or wider.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseTargets:
    """What is known of the teacher's distribution on n rows; `targets[part]` is the same for a slice of rows."""

    ids: Tensor

    def __getitem__(self, part: slice) -> "SparseTargets":
        return type(self)(*(getattr(self, field.name)[part] for field in fields(self)))

    @property
    def likeliest(self) -> Tensor:
        """(n,) the teacher's most likely class."""
        raise NotImplementedError

    def kl(self, student_log_probs: Tensor) -> Tensor:
        """KL(teacher || student) of each row.

        Args:
            student_log_probs: (n, P).

        Returns:
            (n,) divergences in nats, or estimates of them.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class TopK(SparseTargets):
    """The teacher's k most likely classes, the most likely first.

        KL = sum_{i in K} p_i (log p_i - log q_i) + r (log r - log s),  r = 1 - sum_K p_i,  s = 1 - sum_K q_i

    All classes but the stored ones are taken together as one: a lower bound of the full divergence, and equal to it
    at k = P or where the student shares out the rest as the teacher does. Without the last part the student would be
    taught to leave nothing to the rest.

    ids: (n, k) classes.
    log_probs: (n, k) their log-probabilities.
    rest: (n,) r, the probability of all other classes together; 0 at k = P.
    """

    log_probs: Tensor
    rest: Tensor

    @property
    def likeliest(self) -> Tensor:
        return self.ids[:, 0]

    def kl(self, student_log_probs: Tensor) -> Tensor:
        known = student_log_probs.gather(-1, self.ids)
        log_p, rest = self.log_probs.to(known.dtype), self.rest.to(known.dtype)
        stored = (log_p.exp() * (log_p - known)).sum(-1)
        # log(1 - e^x) by whichever form keeps its digits; x = 0 would be a student that leaves nothing at all.
        mass = known.logsumexp(-1).clamp(max=-torch.finfo(known.dtype).eps)
        log_s = torch.where(mass > -0.6931, (-torch.expm1(mass)).log(), torch.log1p(-mass.exp()))
        return stored + torch.xlogy(rest, rest) - rest * log_s


@dataclass(frozen=True)
class Sampled(SparseTargets):
    """Draws from the teacher's distribution (sparse logit sampling, arXiv 2503.16870).

        KL ~ -H(p) - mean over the k draws of log q: unbiased, and so is its gradient; a single one may be below 0

    ids: (n, k) classes drawn independently with replacement.
    entropy: (n,) H(p), of the whole distribution.
    top: (n,) the teacher's most likely class.
    """

    entropy: Tensor
    top: Tensor

    @property
    def likeliest(self) -> Tensor:
        return self.top

    def kl(self, student_log_probs: Tensor) -> Tensor:
        drawn = student_log_probs.gather(-1, self.ids)
        return -self.entropy.to(drawn.dtype) - drawn.mean(-1)
