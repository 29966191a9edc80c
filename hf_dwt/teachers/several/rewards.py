"""What a choice of teachers is worth: one line of `REWARDS` each.

RL-KD (arXiv 2012.06048) takes the student's negative cross-entropy after it has learnt from the choice. A step of a
trainer has that of before alone, which is the same whatever is chosen: times the log-probability of the choice its
expected gradient is 0. So the step is made on the logits themselves, as the soft term would make it: in logits the
gradient of KL(p || q) at temperature tau is (q - p) / tau.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...parts import OWN, Part, Reference, registry

Reward = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(student's logits (m, C), labels (m,), mixture's logits (m, P) at tau, tau) -> (m,) in nats."""


def student(logits: Tensor, labels: Tensor, mixture: Tensor, temperature: float) -> Tensor:
    """How much likelier the label becomes when the student's logits take a step of length 1 to the mixture.

    The cross-entropy before the step, which no choice changes, is subtracted: it is noise.
    """
    shared, places = mixture.shape[1], labels.unsqueeze(1)
    own = torch.softmax(logits[:, :shared] / temperature, 1)
    moved = logits.clone()
    moved[:, :shared] += torch.softmax(mixture, 1) - own
    before, after = ((each.gather(1, places).squeeze(1) - each.logsumexp(1)) for each in (logits, moved))
    return after - before


def both(logits: Tensor, labels: Tensor, mixture: Tensor, temperature: float) -> Tensor:
    """`student`, less the divergence KL(mixture || student) at tau."""
    theirs = torch.log_softmax(mixture, 1)
    own = torch.log_softmax(logits[:, : mixture.shape[1]] / temperature, 1)
    return student(logits, labels, mixture, temperature) - (theirs.exp() * (theirs - own)).sum(1)


_REWARDED = Reference("rewards of the chosen teachers", "RL-KD", "2012.06048")
_AHEAD = Reference("looked up one step of the logits ahead", OWN)
REWARDS: dict[str, Part[[Tensor, Tensor, Tensor, float], Tensor]] = registry(
    Part("student", "-CE of the student after a step to the mixture", student, "what it gains", (_REWARDED, _AHEAD)),
    Part("both", "the same, less the soft term", both, "prefers what is near the student", (_REWARDED, _AHEAD)),
)
