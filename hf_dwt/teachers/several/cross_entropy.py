"""Weights by how near each teacher is to the labels."""

from torch import Tensor

from ...parts import OWN, Reference
from .means import group_means, weights_of
from .record import Figures, Weighting


def cross_entropy(figures: Figures, temperature: float) -> Tensor:
    """softmax over the teachers of -CE / temperature, CE being the mean over the rows of a group, in nats.

    Ours: the rule of `perplexity` with cross-entropies in place of perplexities, whose differences of tens leave one
    teacher alone. Over each row and at temperature 1 a weight is a share of the teachers' probabilities of the label.
    """
    return weights_of(group_means(figures.log_probs, figures), temperature)


CROSS_ENTROPY = Weighting(
    "cross_entropy",
    "softmax of the negative cross-entropy of the labels",
    cross_entropy,
    "equal for equal teachers; towards the best as the temperature goes to 0, towards the mean as it grows",
    (
        Reference("weights by how well each teacher predicts the labels", "Collective Wisdom", "2010.05445"),
        Reference("weights by cross-entropies in place of perplexities", OWN),
    ),
)
