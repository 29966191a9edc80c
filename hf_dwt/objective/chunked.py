"""Head and objective in one pass over chunks of rows: no logits of all rows exist, of student or teacher.

The gradient of a loss that is a sum over rows is known as soon as a chunk's logits are: it is formed there, carried
back through the head to hidden states, weight and bias, and the logits are dropped. The backward pass only scales it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .divergences import forward_kl
from .logits import LinearLogits, Logits
from .sparse import SparseTargets
from .terms import Form, Targets, Weights, teacher_margin, tensor_terms

BYTES_ON_CPU = 8 << 20
LEAST_ROWS = 48
"""Below it passing over a head's weight, once for each chunk, takes longer than all the rest (151,936 classes)."""
SHARE_OF_DEVICE = 1 / 256
LIFT_OF_FP16 = 2.0**8
"""Factor of the gradients of logits while they are fp16: most are below its smallest number, none far above 1."""

Slope = tuple[dict[str, Tensor], Tensor | None]
"""Sums over a chunk, and the gradient of its loss with respect to its logits."""
ChunkLoss = Callable[[Tensor, Tensor, Targets | None, Weights, Form, bool], Slope]


def chunks(logits: Logits) -> list[slice]:
    """Slices of rows whose logits take about as much memory as pays off on the device; at least one slice.

    Larger chunks pass over the head's weight less often; smaller ones stay in the caches of a CPU.
    """
    rows, classes = logits.shape
    device, dtype = (t := logits if isinstance(logits, Tensor) else logits.hidden).device, t.dtype
    budget = float(BYTES_ON_CPU)
    if device.type == "cuda":
        budget = torch.cuda.get_device_properties(device).total_memory * SHARE_OF_DEVICE
    size = max(LEAST_ROWS, int(budget / (classes * torch.promote_types(dtype, torch.float32).itemsize)))
    return [slice(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]


def chunked_terms(
    student: LinearLogits, labels: Tensor, targets: Targets | None, weights: Weights, form: Form, loss: ChunkLoss
) -> dict[str, Tensor]:
    """`distillation_terms` chunk by chunk; "loss" alone has a gradient, and for one backward pass."""
    leaves = (student.hidden, student.weight, student.bias)
    wanted = torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves)
    with torch.no_grad():
        gradients = Gradients(student) if wanted else None
        own, targets = student.cast(), None if targets is None else targets.cast()
        names = ["hard_loss", "loss", *(["soft_loss", "agreement", "teacher_margin"] if targets is not None else [])]
        kind = torch.float64 if student.weight.dtype == torch.float64 else torch.float32
        terms = dict.fromkeys(names, student.hidden.new_zeros((), dtype=kind))
        for part in chunks(student):
            logits = own[part]
            said = None if targets is None else targets.part(part)
            sums, slope = loss(logits, labels[part], said, weights, form, wanted)
            terms = {name: terms[name] + sums[name] for name in names}
            if gradients is not None and slope is not None:
                gradients.add(part, logits, slope, own)
    if gradients is not None:
        terms["loss"] = _WithGradients.apply(terms["loss"], gradients, *leaves)
    return terms


class Gradients:
    """Of hidden states (n, H), weight (C, H) and bias (C,), summed up over chunks in at least fp32; None if frozen."""

    def __init__(self, student: LinearLogits) -> None:
        def zeros(leaf: Tensor | None) -> Tensor | None:
            if leaf is None or not leaf.requires_grad:
                return None
            return torch.zeros_like(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32))

        self.hidden, self.weight, self.bias = map(zeros, (student.hidden, student.weight, student.bias))

    def add(self, part: slice, logits: Tensor, slope: Tensor, own: LinearLogits) -> None:
        """Add a chunk, given its logits and the gradient with respect to them, (m, C), which is used up."""
        if own.cap is not None:
            slope.mul_(logits.div_(own.cap).square_().neg_().add_(1.0))
        hidden, scale = own.hidden[part], own.scale
        if self.bias is not None:
            self.bias.add_(slope.sum(0), alpha=scale)
        if own.weight.dtype == torch.float16:
            # A loss scaler's factor comes with the backward pass, too late for what is lost here.
            slope, scale = slope.mul_(LIFT_OF_FP16), scale / LIFT_OF_FP16
        slope = slope.to(own.weight.dtype)
        if self.hidden is not None:
            self.hidden[part].copy_(slope @ own.weight).mul_(scale)
        if self.weight is not None and self.weight.dtype == slope.dtype:
            self.weight.addmm_(slope.t(), hidden, alpha=scale)
        elif self.weight is not None:
            # In half precision a sum over rows may overflow where their mean does not.
            rows = hidden.shape[0]
            self.weight.add_(slope.t() @ (hidden / rows), alpha=scale * rows)

    def scaled(self, factor: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else g.mul_(factor) for g in (self.hidden, self.weight, self.bias))


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients were formed with it."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Gradients, *leaves: Tensor | None) -> Tensor:
        ctx.gradients = gradients
        ctx.dtypes = [None if leaf is None else leaf.dtype for leaf in leaves]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Any, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("The gradients of this loss were used up by a backward pass: compute the loss again.")
        scaled = zip(gradients.scaled(factor), ctx.dtypes, strict=True)
        return None, None, *(None if g is None else g.to(dtype) for g, dtype in scaled)


def traced_slope(
    logits: Tensor, labels: Tensor, targets: Targets | None, weights: Weights, form: Form, wanted: bool
) -> Slope:
    """The gradient by automatic differentiation: right for any soft term."""
    with torch.set_grad_enabled(wanted):
        leaf = logits.detach().requires_grad_(wanted)
        terms = tensor_terms(leaf, labels, targets, weights, form)
        slope = torch.autograd.grad(terms["loss"], leaf)[0] if wanted else None
    return {name: value.detach() for name, value in terms.items()}, slope


def forward_kl_slope(
    logits: Tensor, labels: Tensor, targets: Targets | None, weights: Weights, form: Form, wanted: bool
) -> Slope:
    """The gradient of the forward KL in closed form: a difference of softmaxes, in few passes over the logits.

    With q the student's probabilities and p the teacher's, (m, C), d CE = q - label and d KL = (q_tau - p_tau) / tau.
    """
    places, epsilon = labels.unsqueeze(1), form.label_smoothing
    own = _softmax(logits, 1.0)
    hard = (own.log_sum - logits.gather(1, places).squeeze(1)).sum()
    if epsilon:
        hard = (1.0 - epsilon) * hard + epsilon * (own.log_sum - logits.mean(1)).sum()
    terms = {"hard_loss": hard, "loss": weights.hard * hard}
    if targets is None:
        slope = own.probs.mul_(weights.hard) if wanted else None
    else:
        slope = _add_soft(terms, logits, labels, own, targets, weights, form, wanted)
    if slope is not None:
        if epsilon:
            slope.sub_(weights.hard * epsilon / logits.shape[1])
        label = slope.new_full((), -weights.hard * (1.0 - epsilon))  # filled in on the device: no wait for a copy
        slope.scatter_add_(1, places, label.expand_as(places))
    return terms, slope


def _add_soft(
    terms: dict[str, Tensor],
    logits: Tensor,
    labels: Tensor,
    own: "_Softmax",
    targets: Targets,
    weights: Weights,
    form: Form,
    wanted: bool,
) -> Tensor | None:
    """Add the soft term's sums; return the gradient of both terms but for the hard term's labels."""
    teacher: Any = targets.logits
    tau, shared = form.temperature, teacher.shape[1]
    same_softmax = tau == 1.0 and shared == logits.shape[1]
    warm = own if same_softmax else _softmax(logits[:, :shared], tau)
    if isinstance(teacher, SparseTargets):
        terms["teacher_margin"] = teacher_margin(logits, teacher, labels, own.log_sum)
        return _add_sparse(terms, logits, own, warm, targets, weights, form, wanted)
    said = _softmax(teacher, tau)
    difference = teacher - logits[:, :shared]
    rows = torch.linalg.vecdot(said.probs, difference) / tau - said.log_sum + warm.log_sum
    agreement = (own.likely == said.likely).sum().to(rows.dtype)
    if targets.row_weight is not None:
        rows = rows * targets.row_weight
    soft = rows.sum() * form.soft_scale
    terms.update(soft_loss=soft, agreement=agreement, loss=terms["loss"] + weights.soft * soft)
    sums = own.log_sum, said.log_sum if tau == 1.0 else None
    terms["teacher_margin"] = teacher_margin(logits, teacher, labels, *sums)
    if not wanted:
        return None
    factor = weights.soft * form.soft_scale / tau
    if targets.row_weight is None and same_softmax:
        return own.probs.mul_(weights.hard + factor).sub_(said.probs, alpha=factor)
    per_row = factor if targets.row_weight is None else (factor * targets.row_weight.to(logits.dtype)).unsqueeze(1)
    gap = torch.sub(warm.probs, said.probs, out=difference).mul_(per_row)
    slope = own.probs.mul_(weights.hard)
    slope[:, :shared].add_(gap)
    return slope


def _add_sparse(
    terms: dict[str, Tensor],
    logits: Tensor,
    own: "_Softmax",
    warm: "_Softmax",
    targets: Targets,
    weights: Weights,
    form: Form,
    wanted: bool,
) -> Tensor | None:
    """As `_add_soft`, from a few classes of the teacher's."""
    teacher: Any = targets.logits
    known = logits.gather(1, teacher.ids) / form.temperature - warm.log_sum.unsqueeze(1)
    weight = known.new_ones(len(known)) if targets.row_weight is None else targets.row_weight.to(known.dtype)
    soft = (teacher.kl(known) * weight).sum() * form.soft_scale
    agreement = (own.likely == teacher.likeliest).sum().to(soft.dtype)
    terms.update(soft_loss=soft, agreement=agreement, loss=terms["loss"] + weights.soft * soft)
    if not wanted:
        return None
    factor = (weights.soft * form.soft_scale / form.temperature * weight).unsqueeze(1)
    of_probs, at_ids = teacher.slope(known)
    if own is warm:
        slope = own.probs.mul_(weights.hard + factor * of_probs)
    else:
        slope = own.probs.mul_(weights.hard)
        slope[:, : teacher.classes].addcmul_(warm.probs, factor * of_probs)
    return slope.scatter_add_(1, teacher.ids, factor * at_ids)


class _Softmax(NamedTuple):
    """Of logits (m, C) over tau: probabilities (m, C), their log-normaliser (m,), and the most likely class (m,)."""

    probs: Tensor
    log_sum: Tensor
    likely: Tensor


def _softmax(logits: Tensor, tau: float) -> _Softmax:
    peak, likely = logits.max(1)
    probs = torch.softmax(logits if tau == 1.0 else logits / tau, 1)
    # The most likely class has a probability of 1 / C or more, so its logarithm is safe.
    return _Softmax(probs, peak / tau - probs.gather(1, likely.unsqueeze(1)).squeeze(1).log(), likely)


SLOPES: dict[Any, ChunkLoss] = {forward_kl: forward_kl_slope}
"""Soft terms whose gradient is known in closed form; that of the others is traced."""
