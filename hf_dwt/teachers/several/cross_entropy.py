"""Weights by how near each teacher is to the labels."""

import torch
from torch import Tensor

from ...parts import OWN, Reference
from .means import group_means
from .record import Figures, Weighting


def cross_entropy(figures: Figures, temperature: float) -> Tensor:
    """softmax over the teachers of -CE / temperature, CE being the mean over the rows of a group.

    Ours: the rule of arXiv 2010.05445 with cross-entropies in place of perplexities, whose differences of tens leave
    one teacher alone.
    """
    return torch.softmax(group_means(figures.log_probs, figures.groups) / temperature, 1)


CROSS_ENTROPY = Weighting(
    "cross_entropy",
    "softmax of the negative cross-entropy of the labels",
    cross_entropy,
    "equal for equal teachers; towards the best as the temperature goes to 0, towards the mean as it grows",
    (Reference("weights by cross-entropy", OWN),),
)
