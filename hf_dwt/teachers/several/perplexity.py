"""Weights by the teachers' perplexities, as in Collective Wisdom."""

from torch import Tensor

from ...parts import Reference
from .means import group_means, weights_of
from .record import Figures, Weighting

MOST_NATS = 80.0
"""Cross-entropies above it count as it: their perplexity is more than a number of 32 bits holds."""


def perplexity(figures: Figures, temperature: float) -> Tensor:
    """softmax over the teachers of -exp(CE) / temperature, CE being the mean over the rows of a group.

    Collective Wisdom (Saleh et al., arXiv 2010.05445) has such weights over the student's mini-batch, which is
    `over="batch"`; the formula is given from memory, since the paper's text could not be had. It is exact, and so
    one teacher has all the weight wherever perplexities differ by tens: see `cross_entropy`.
    """
    means = group_means(figures.log_probs, figures)
    return weights_of(-means.neg().clamp(max=MOST_NATS).exp(), temperature)


PERPLEXITY = Weighting(
    "perplexity",
    "softmax of the negative perplexity of the labels",
    perplexity,
    "all for one teacher where perplexities differ by tens",
    (Reference("weights by perplexity", "Collective Wisdom", "2010.05445"),),
)
