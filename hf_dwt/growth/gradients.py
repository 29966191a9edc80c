"""What a growth by whole copies does to gradients, and so to Adam's moments.

With L' the loss of the student and G the growth, L'(G(theta)) = L(theta) for every theta. So, by the chain rule, the
gradients of all that is made from one element of the teacher's, each times the share with which it is made, add up
to that element's gradient. Where copies share equally they can be exchanged without a change of the student, and so
their gradients are equal: each is the teacher's, divided by the sum of the shares. The shares of an axis that is
summed over add up to 1, so that a matrix is divided by the copies of its outputs alone, and by its gain:

    g'[i', j'] = g[i, j] / (copies of i * gain)

This holds at each step that the teacher took, so first moments are mapped in the same way, and second ones by its
square. Where shares differ (`symmetry` above 0) gradients of copies differ: this is then their expectation.

In an identity layer only what writes has a gradient, which the teacher's do not determine: all of it starts anew. In a
post-norm model its last norm has the affine of the layer before, with the gradient of that.

Staged training (arXiv 2203.06211) grows Adam's state with the model. Its public code doubles widths by blocks on the
diagonal and halves the first moments (the norm before a tied head keeps them), quarters the second: the factors that
this map has for a doubled width. The derivation, other ratios, tied weights and gains by the plan are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import GrowthError
from .axes import grow
from .building import build
from .depth.rules import Deepening, find_deepening
from .plan import GrowthPlan
from .width.mapping import Plan, kind


@dataclass(frozen=True)
class GradientMap:
    """From gradients of the teacher's parameters to those of the student's.

    Args:
        steps: how each parameter of the student is made.
        sources: name of a student's parameter -> the teacher's whose gradient it has; without those that start anew.
    """

    steps: Plan
    sources: Mapping[str, str]

    def __call__(self, name: str, gradient: Tensor, power: int = 1) -> Tensor:
        """The gradient of the student's parameter `name`, from that of its source.

        Args:
            name: among `sources`.
            gradient: of the teacher's parameter, in its shape; or a mean of its powers.
            power: 1 of a gradient and the first moment, 2 of the second.
        """
        step = self.steps[name]
        found = grow(gradient, step.axes)
        for dim, axis in enumerate(step.axes):
            if axis.grows and dim not in step.summed:
                shape = [-1 if d == dim else 1 for d in range(found.ndim)]
                found = found / axis.copies.to(found).view(shape) ** power
        return found if step.gain is None else found / step.gain.factor**power


def gradient_map(plan: GrowthPlan) -> GradientMap:
    """The map of a growth; no weight is read.

    Raises:
        GrowthError: the growth does not say what becomes of gradients: it is not by whole copies, it adds rows of
            tokens, or some copies are not read.
    """
    fix = "Use init='clone' without a new vocabulary, or optimizer='fresh'."
    if plan.init != "clone":
        problem = (
            "leaves open what gradients of the larger model would have been: that is known of whole copies alone."
        )
        raise GrowthError("init", plan.init, problem, fix)
    if plan.work.shares or plan.work.transplant is not None:
        raise GrowthError("vocab_size", plan.config.vocab_size, "adds rows of tokens, which have no moments.", fix)
    steps = plan.steps
    unread = [n for n, step in steps.items() if any(a.grows and not bool(a.read.all()) for a in step.axes)]
    if unread:
        problem = f"leaves copies of heads unread, as those of {unread[0]}."
        raise GrowthError("num_attention_heads", None, problem, "Keep the heads, or use optimizer='fresh'.")
    skeleton, options = plan.work.teacher.skeleton, plan.work.options
    student = build(type(skeleton), plan.config, "meta")
    deeper = find_deepening(skeleton, student, str(options["depth"]), options["proxies"])  # type: ignore[arg-type]
    names = dict(student.named_parameters())
    return GradientMap(steps, {n: steps[n].source for n in names if n in steps and _has_gradient(n, steps, deeper)})


def _has_gradient(name: str, steps: Plan, deeper: Deepening) -> bool:
    """Whether a parameter has the gradient of its source: it is in no new layer, or is an affine that moved there."""
    if steps[name].constant is not None:
        return False
    moved = any(kind(name) in identity.last_norm for identity in deeper.identities.values())
    return moved or deeper.source(name) is not None
