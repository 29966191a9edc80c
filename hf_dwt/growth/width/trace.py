"""Which axis of a parameter is summed over: read off the operations of one forward pass, not off names.

A `TorchDispatchMode` sees every operation as one of the few hundred that PyTorch's kernels implement: a linear layer,
a 1x1 convolution, an einsum and a mixture of experts all end in mm, bmm or convolution. Their operands are matched to
parameters by storage, and the summed dimension to the parameter's axis by stride. What is computed from parameters
alone (a cast, a negated exponential) is followed too. Operations that neither sum nor work element by element are
reported with the parameter they touch: growing it would be a guess.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # torch has no other place for it

from ..proxy.activations import tensors_in
from ..proxy.batches import Batch

# operation -> for each tensor operand that may be a weight: the dimensions of it that are summed over.
SUMMED: dict[str, dict[int, tuple[int, ...]]] = {
    "mm": {0: (1,), 1: (0,)},
    "addmm": {1: (1,), 2: (0,)},
    "bmm": {0: (2,), 1: (1,)},
    "baddbmm": {1: (2,), 2: (1,)},
    "mv": {0: (1,), 1: (0,)},
    "addmv": {1: (1,), 2: (0,)},
    "dot": {0: (0,), 1: (0,)},
    "_grouped_mm": {0: (-1,), 1: (-2,)},
    "convolution": {1: (1,)},
    "_scaled_dot_product_flash_attention_for_cpu": {0: (3,), 1: (3,)},
}
LOOKUPS = {"embedding", "index", "index_select", "gather", "_embedding_bag", "_unsafe_index"}
"""Rows are picked by index."""

_ELEMENTWISE = """
mul add sub div pow neg exp expm1 log log1p sigmoid tanh softplus silu gelu relu elu sin cos sqrt rsqrt abs sign erf
reciprocal where clamp clamp_min clamp_max maximum minimum lerp addcmul addcdiv masked_fill rsub square prelu mish
leaky_relu hardswish hardsigmoid hardtanh logaddexp log_sigmoid_forward _prelu_kernel tril triu
add_ mul_ sub_ div_ masked_fill_ fill_ zero_ addcmul_ sigmoid_ exp_ neg_ copy_ index_put_
_to_copy clone copy cat stack repeat expand slice select flip roll constant_pad_nd detach _unsafe_view split
split_with_sizes unbind contiguous scatter slice_scatter index_put index_copy
zeros_like ones_like full_like empty_like new_zeros new_ones new_empty new_full
equal eq ne lt gt le ge isnan isinf logical_not logical_and bitwise_not bitwise_and any all _local_scalar_dense
_assert_async
native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit _batch_norm_no_update
_native_batch_norm_legit_no_training _fused_rms_norm
upsample_bilinear2d upsample_bicubic2d upsample_nearest2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""Work element by element, copy, or only look at a tensor's shape or truth; a norm's weight and bias act so too."""


@dataclass
class Usage:
    """How one parameter is used in a forward pass.

    Args:
        summed: its axes that are summed over together with an activation's.
        free: its axes that are left by a sum over others; one that is both is of a matrix that reads and writes.
        looked_up: whether rows of it are picked by index.
        unknown: names of operations that are none of the known ones.
        used: whether it was seen at all.
    """

    summed: set[int] = field(default_factory=set)
    free: set[int] = field(default_factory=set)
    looked_up: bool = False
    unknown: set[str] = field(default_factory=set)
    used: bool = False


@dataclass(frozen=True)
class _Alias:
    """A tensor that is a parameter, or was computed from parameters alone."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    axes: tuple[int, ...]  # the parameter's axis behind each dimension, -1 for none
    tensor: Tensor  # kept alive, so that no other tensor gets its storage


class Operation(Protocol):
    """One of torch's operators, such as aten::mm."""

    def name(self) -> str: ...

    def __call__(self, *args: object, **kwargs: object) -> object: ...


Operand = tuple[int, Tensor, _Alias]
"""(position among the arguments, the tensor, what it was computed from)."""


class Trace(TorchDispatchMode):
    """Records the operations that run inside it; `usage` then holds how each parameter was used."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.usage: dict[str, Usage] = {}
        self._aliases: dict[int, _Alias] = {}
        for name, parameter in (*model.named_parameters(), *model.named_buffers()):
            self.usage[name] = Usage()
            if parameter.numel():
                self._remember((name,), parameter, tuple(range(parameter.ndim)))

    def __torch_dispatch__(
        self,
        func: Operation,
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operation = func.name().split("::")[-1].split(".")[0]
        operands = [(n, leaf) for n, value in enumerate((*args, *kwargs.values())) for leaf in tensors_in(value)]
        found = [(position, tensor, alias) for position, tensor in operands if (alias := self._alias(tensor))]
        # Of two parameters in a product, such as a learned query and a matrix, the second is the matrix.
        matrix = max((position for position, *_ in found if position in SUMMED.get(operation, {})), default=-1)
        for position, tensor, alias in found:
            self._note(operation, position, tensor, alias, args, matrix)
        # Only a copy or an element-wise result has its operands' axes; views share storage and need no entry. What was
        # normalised is no weight any more: copies that shared it would be made large again.
        followed = operation in ELEMENTWISE and "_norm" not in operation
        if found and len(found) == len([t for _, t in operands if t.ndim]) and followed:
            self._follow(operation, found, out)
        return out

    def _note(
        self, operation: str, position: int, tensor: Tensor, alias: _Alias, args: tuple[object, ...], matrix: int
    ) -> None:
        for name in alias.names:
            usage = self.usage[name]
            usage.used = True
            if operation in SUMMED:
                dims = SUMMED[operation].get(position, ()) if position == matrix else ()
                if operation == "convolution" and len(args) > 6 and args[6] and position == 1:
                    dims = (0,)  # transposed
                now = {axis for dim in dims for axis in _axes_behind(tensor, dim, alias)}
                usage.summed |= now
                usage.free |= set(alias.axes) - now if now else set()
            elif operation in LOOKUPS:
                usage.looked_up = True
            elif operation not in ELEMENTWISE and not _is_view(operation):
                usage.unknown.add(operation)

    def _follow(self, operation: str, found: list[Operand], out: object) -> None:
        names = tuple(dict.fromkeys(name for _, _, alias in found for name in alias.names))
        if operation == "cat" and any(self.usage[name].looked_up for name in names):
            for name in names:  # a head that joins the tied embedding to further rows reads both alike
                self.usage[name].looked_up = True
        for result in tensors_in(out):
            if not result.numel() or self._alias(result):
                continue
            axes = [-1] * result.ndim
            for _, tensor, alias in found:
                offset = result.ndim - tensor.ndim
                for dim in range(max(0, -offset), tensor.ndim):
                    behind = _axes_behind(tensor, dim, alias)
                    if behind and tensor.shape[dim] > 1:
                        axes[dim + offset] = min(behind)
            self._remember(names, result, tuple(axes))

    def _remember(self, names: tuple[str, ...], tensor: Tensor, axes: tuple[int, ...]) -> None:
        self._aliases[tensor.untyped_storage().data_ptr()] = _Alias(
            names, tuple(tensor.shape), tuple(tensor.stride()), axes, tensor
        )

    def _alias(self, tensor: Tensor) -> _Alias | None:
        return self._aliases.get(tensor.untyped_storage().data_ptr())


def trace(model: nn.Module, batch: Batch) -> dict[str, Usage]:
    """How each parameter and buffer of `model` is used in one forward pass over `batch`."""
    traced = Trace(model)
    with torch.no_grad(), traced:
        model(**batch)
    return traced.usage


def _axes_behind(view: Tensor, dim: int, alias: _Alias) -> set[int]:
    """The parameter's axes that dimension `dim` of a view runs along, by stride."""
    step, length = view.stride(dim), view.shape[dim]
    if length == 1:
        return set()
    reach = step * (length - 1)
    return {
        axis
        for size, stride, axis in zip(alias.shape, alias.stride, alias.axes, strict=True)
        if size > 1 and axis >= 0 and stride <= reach and step < stride * size
    }


def _is_view(operation: str) -> bool:
    views = "view t transpose permute expand squeeze unsqueeze as_strided alias reshape unfold diagonal movedim narrow"
    return operation in views.split() or operation.startswith(("view", "_reshape_alias", "sym_"))
