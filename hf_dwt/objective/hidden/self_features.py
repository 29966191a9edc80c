"""The student's own last layer for its earlier ones, without a teacher."""

from torch import Tensor
from torch.nn import functional as F

from ...parts import OWN, Reference
from .layers import LAST
from .record import HiddenTerm


def self_features(student: Tensor, supervisor: Tensor, examples: Tensor) -> Tensor:
    """The mean over channels of (LN(h_l) - LN(h_L))^2, with LN a layer norm without weights and h_L a constant.

    The inter-layer term of Tf-FD (Li, ECCV 2022), which compares images' features after pooling: here both have the
    same width, and are normalised instead. Tf-FD's term within a layer is left out. The idea of deep features for
    shallow ones is also in "Self-Feature Regularization" (arXiv 2103.07350), which its authors withdrew: no figure of
    it counts. Between identity layers of a pre-norm student the term is 0, and nothing is learnt from it.

    Args:
        student: (n, H) of layer l.
        supervisor: (n, H) of layer L.
        examples: not read.

    Returns:
        (n,) losses, from 0 to 4.
    """
    shape = student.shape[-1:]
    return (F.layer_norm(student, shape) - F.layer_norm(supervisor, shape)).square().mean(-1)


def thirds(depth: int) -> list[int]:
    """The layers at one and two thirds of the depth."""
    return sorted({max(1, depth // 3), max(1, 2 * depth // 3)})


SELF_FEATURES = HiddenTerm(
    name="self_features",
    title="the student's own last layer for its earlier ones, without a teacher",
    function=self_features,
    promise="from 0 to 4; no gradient into the last layer by way of what it gives",
    references=(
        Reference("deep features for shallow ones (Li, ECCV 2022)", "Tf-FD"),
        Reference("in place of pooling a layer norm, at the rows", OWN),
    ),
    weight=5e-4,
    needs_teacher=False,
    layers=thirds,
    supervisor=LAST,
)
