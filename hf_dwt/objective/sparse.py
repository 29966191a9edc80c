"""A few classes of the teacher's distribution in place of all of them.

Shapes: n rows, k stored classes a row, P classes that student and teacher share. In nats, in fp32 or wider; p is the
teacher's distribution and q the student's. Of the student's log-probabilities only those of the stored classes are
read, (n, k), and the gradient with respect to its logits (n, P) is q times a number a row, plus a number at each
stored class: no (n, P) tensor of the teacher exists.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseTargets:
    """What is known of the teacher's distribution; `[part]` is the same for a slice of rows.

    ids: (n, k) classes.
    classes: P.
    truth: (n,) log-probability of the label at tau = 1; minus infinity where it is not known; of no meaning where the
        label is not among the P classes.
    """

    ids: Tensor
    classes: int
    truth: Tensor

    @property
    def shape(self) -> torch.Size:
        """(n, P), as of the logits in whose place it stands."""
        return torch.Size((len(self.ids), self.classes))

    def __getitem__(self, part: slice) -> "SparseTargets":
        tensors = {f.name: getattr(self, f.name)[part] for f in fields(self) if f.name != "classes"}
        return replace(self, **tensors)

    @property
    def likeliest(self) -> Tensor:
        """(n,) the teacher's most likely class."""
        raise NotImplementedError

    def kl(self, known: Tensor) -> Tensor:
        """KL(teacher || student) of each row, (n,), from the student's log-probabilities of the stored classes."""
        raise NotImplementedError

    def slope(self, known: Tensor) -> tuple[Tensor | float, Tensor]:
        """Its gradient with respect to the student's logits: the factor of q, (n, 1), and what is added at `ids`."""
        raise NotImplementedError

    def margin(self, truth: Tensor, known: Tensor) -> Tensor:
        """(n,) log p(label) - log q(label).

        Args:
            truth: (n,) the student's log-probability of the label.
            known: (n, k) its log-probabilities of the stored classes, at tau = 1.
        """
        return self.truth - truth


@dataclass(frozen=True)
class TopK(SparseTargets):
    """The teacher's k most likely classes, the most likely first.

        KL = sum_{i in K} p_i (log p_i - log q_i) + r (log r - log s),  r = 1 - sum_K p_i,  s = 1 - sum_K q_i

    All classes but the stored ones are taken together as one: a lower bound of the full divergence, and equal to it
    at k = P or where the student shares out the rest as the teacher does. Without the last part the student would be
    taught to leave nothing to the rest. Rows may have fewer than k stored classes, or none: KL = 0 for lack of any.

    log_probs: (n, k) of the stored classes; minus infinity, behind all others, where a row has fewer.
    rest: (n,) r, the probability of all other classes together; 0 at k = P.
    """

    log_probs: Tensor
    rest: Tensor

    @property
    def likeliest(self) -> Tensor:
        return self.ids[:, 0].masked_fill(self._absent[:, 0], -1)

    def kl(self, known: Tensor) -> Tensor:
        rest = self.rest.to(known.dtype)
        stored = self.log_probs.exp() * (self.log_probs - known)
        stored = stored.masked_fill(self._absent, 0.0).sum(-1)
        return stored + torch.xlogy(rest, rest) - rest * self._left_over(known).log()

    def slope(self, known: Tensor) -> tuple[Tensor, Tensor]:
        share = (self.rest.to(known.dtype) / self._left_over(known)).unsqueeze(-1)
        own = known.exp().masked_fill(self._absent, 0.0)
        return 1.0 - share, own * share - self.log_probs.exp()

    def margin(self, truth: Tensor, known: Tensor) -> Tensor:
        """Where the label's probability is not known, log r - log s: both models have the label in the rest.

        So what is unknown counts for neither of them: it is as if the teacher shared out the rest as the student does.
        The bound log r of the label's own probability would let the teacher look better than it is.
        """
        rest = self.rest.to(known.dtype).clamp(min=torch.finfo(known.dtype).eps)
        ahead = rest.log() - self._left_over(known).log()
        return torch.where(self.truth.isneginf(), ahead, self.truth - truth)

    @property
    def _absent(self) -> Tensor:
        """(n, k) where a row has no stored class."""
        return self.log_probs.isneginf()

    def _left_over(self, known: Tensor) -> Tensor:
        """(n,) s, what the student leaves to the other classes; at least the rounding error of a sum."""
        total = known.masked_fill(self._absent, -torch.inf).logsumexp(-1)
        return (-torch.expm1(total)).clamp(min=torch.finfo(known.dtype).eps)


@dataclass(frozen=True)
class Sampled(SparseTargets):
    """Draws from the teacher's distribution (sparse logit sampling, arXiv 2503.16870).

        KL ~ -H(p) - mean over the k draws of log q: unbiased, and so is its gradient; a single one may be below 0

    ids: (n, k) classes drawn independently, with replacement.
    entropy: (n,) H(p), of the whole distribution.
    top: (n,) the teacher's most likely class.
    """

    entropy: Tensor
    top: Tensor

    @property
    def likeliest(self) -> Tensor:
        return self.top

    def kl(self, known: Tensor) -> Tensor:
        return -self.entropy - known.mean(-1)

    def slope(self, known: Tensor) -> tuple[float, Tensor]:
        return 1.0, torch.full_like(known, -1.0 / known.shape[-1])
