"""Head and objective in one pass over chunks of rows: no logits of all rows exist, of student or teacher.

The gradient of a loss that is a sum over rows is known as soon as a chunk's logits are: it is formed there, carried
back through the head to hidden states, weight and bias, and the logits are dropped. The backward pass only scales it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .logits import LinearLogits, Logits
from .mapped import MappedLogits
from .targets import Mixture, Targets
from .terms import ChunkLoss, Form, Slope, Weights, tensor_terms

BYTES_ON_CPU = 8 << 20
LEAST_ROWS = 48
"""Below it passing over a head's weight, once for each chunk, takes longer than all the rest (151,936 classes)."""
SHARE_OF_DEVICE = 1 / 256
LIFT_OF_FP16 = 2.0**8
"""Factor of the gradients of logits while they are fp16: most are below its smallest number, none far above 1."""


def chunks(logits: Logits | MappedLogits | Mixture) -> list[slice]:
    """Slices of rows whose logits take about as much memory as pays off on the device; at least one slice.

    Larger chunks pass over the head's weight less often; smaller ones stay in the caches of a CPU.
    """
    rows, classes = logits.shape
    numbers = logits if isinstance(logits, Tensor) else logits.made_of
    device, dtype = numbers.device, numbers.dtype
    budget = float(BYTES_ON_CPU)
    if device.type == "cuda":
        budget = torch.cuda.get_device_properties(device).total_memory * SHARE_OF_DEVICE
    size = max(LEAST_ROWS, int(budget / (classes * torch.promote_types(dtype, torch.float32).itemsize)))
    return [slice(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]


def chunked_terms(
    student: LinearLogits,
    labels: Tensor,
    targets: Targets | None,
    weights: Weights,
    form: Form,
    loss: ChunkLoss,
    row_weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """`distillation_terms` chunk by chunk; "loss" alone has a gradient, and for one backward pass."""
    wanted = torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in _leaves(student))
    with torch.no_grad():
        gradients = Gradients(student) if wanted else None
        own, targets = student.cast(), None if targets is None else targets.cast()
        names = ["hard_loss", "loss", *(["soft_loss", "agreement", "teacher_margin"] if targets is not None else [])]
        names += ["teacher_rows"] if targets is not None and targets.known is not None else []
        names += [] if row_weight is None else ["hard_rows"]
        kind = torch.float64 if student.weight.dtype == torch.float64 else torch.float32
        terms = dict.fromkeys(names, student.hidden.new_zeros((), dtype=kind))
        for part in chunks(student):
            logits = own[part]
            chunk, function = None, loss
            if targets is not None:
                chunk = targets.part(part).resolved(logits, labels[part], form.temperature, form.progress)
                function = loss if chunk.divergence is None else traced_slope
            factor = None if row_weight is None else row_weight[part]
            sums, slope = function(logits, labels[part], chunk, weights, form, factor, wanted)
            terms = {name: terms[name] + sums[name] for name in names}
            if gradients is not None and slope is not None:
                gradients.add(part, logits, slope, own)
    if gradients is not None:
        terms["loss"] = gradients.given_to(terms["loss"], student)
    return terms


class Gradients:
    """Of hidden states (n, H), weight (C, H) and bias (C,), summed up over chunks in at least fp32; None if frozen.

    Args:
        logits: those that the loss is of.
    """

    def __init__(self, logits: LinearLogits) -> None:
        def zeros(leaf: Tensor | None) -> Tensor | None:
            if leaf is None or not leaf.requires_grad:
                return None
            return torch.zeros_like(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32))

        self.hidden, self.weight, self.bias = map(zeros, _leaves(logits))

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
        if self.weight is not None:
            _add_product(self.weight, slope.t(), hidden, scale)

    def given_to(self, loss: Tensor, logits: LinearLogits) -> Tensor:
        """The loss of these logits, with these gradients, for one backward pass."""
        joined: Tensor = _WithGradients.apply(loss, self, *_leaves(logits))
        return joined

    def scaled(self, factor: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else g.mul_(factor) for g in (self.hidden, self.weight, self.bias))


def _leaves(logits: LinearLogits) -> tuple[Tensor, Tensor, Tensor | None]:
    return logits.hidden, logits.weight, logits.bias


def _add_product(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add `scale * left @ right` to `total`, in place."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=scale)
    elif _adds_to(total, left.dtype):
        torch.ops.aten.addmm.dtype_out(total, left, right, total.dtype, alpha=scale, out=total)
    else:
        # In half precision a sum over rows may overflow where their mean does not.
        rows = right.shape[0]
        total.add_(left @ (right / rows), alpha=scale * rows)


def _adds_to(total: Tensor, dtype: torch.dtype) -> bool:
    """Whether products of `dtype` are summed in fp32 `total` itself: on CUDA, as of torch 2.10.

    It is tried each time, on one number: what fails with such a product comes and goes (torch's FlopCounterMode does).
    """
    if not total.is_cuda:
        return False
    one = total.new_ones(1, 1)
    try:
        torch.ops.aten.addmm.dtype_out(one, one.to(dtype), one.to(dtype), total.dtype, out=one)
    except (AttributeError, TypeError, RuntimeError):
        return False
    return True


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
    logits: Tensor,
    labels: Tensor,
    targets: Targets | None,
    weights: Weights,
    form: Form,
    row_weight: Tensor | None,
    wanted: bool,
) -> Slope:
    """The gradient by automatic differentiation: right for any soft term."""
    with torch.set_grad_enabled(wanted):
        leaf = logits.detach().requires_grad_(wanted)
        terms = tensor_terms(leaf, labels, targets, weights, form, row_weight)
        slope = torch.autograd.grad(terms["loss"], leaf)[0] if wanted else None
    return {name: value.detach() for name, value in terms.items()}, slope
