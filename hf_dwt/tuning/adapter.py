"""The adapter of a `DualSparse`: peft's LoRA, whose factors hold the sparse residual in further ranks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .factors import Reads, Writes

ADAPTER = "default"
"""The name that peft gives the first adapter of a model."""

Choose = Callable[[Tensor, int], Tensor]
"""(W (m, n), a count) -> (count,) places in the flattened W."""


@dataclass(frozen=True)
class Dual:
    """The change of one matrix W (m, n): scale (B A + S).

    Args:
        a: (r, n).
        b: (m, r).
        rows, columns, values: (k,) the entries of S.
    """

    a: Tensor
    b: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor

    def kept(self, outputs: Tensor | None, inputs: Tensor | None, weight: Tensor, choose: Choose) -> "Dual":
        """The change of what is left of W.

        Entries of S that are not left are replaced by others, as `choose` wants them, whose values are 0: so each
        matrix keeps as many.

        Args:
            outputs, inputs: those that are left, None for all.
            weight: what is left of W.
            choose: of the support.
        """
        a = self.a if inputs is None else self.a[:, inputs.to(self.a.device)]
        b = self.b if outputs is None else self.b[outputs.to(self.b.device)]
        rows, columns = _places(self.rows, outputs), _places(self.columns, inputs)
        left = (rows >= 0) & (columns >= 0)
        rows, columns, values = rows[left], columns[left], self.values[left]
        if (gone := len(left) - len(rows)) > 0:
            wanted = choose(weight, len(left))
            new = wanted[~torch.isin(wanted, rows * weight.shape[1] + columns)][:gone]
            rows = torch.cat([rows, new // weight.shape[1]])
            columns = torch.cat([columns, new % weight.shape[1]])
            values = torch.cat([values, values.new_zeros(gone)])
        return Dual(a, b, rows, columns, values)


def _places(old: Tensor, left: Tensor | None) -> Tensor:
    """Where old channels are among those that are left; -1 where they are not."""
    if left is None:
        return old
    found = old[:, None] == left.to(old.device)
    return torch.where(found.any(1), found.int().argmax(1), -1)


def is_matrix(module: nn.Module) -> bool:
    """Whether peft's LoRA of a module is a product of two matrices, and its weight is numbers to choose entries by."""
    return isinstance(module, nn.Linear | Conv1D) and module.weight.is_floating_point()


def matrix(layer: nn.Module) -> Tensor:
    """W (outputs, inputs) of a linear layer."""
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    return weight.T if isinstance(layer, Conv1D) else weight


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name in the plain model, peft's layer) of each matrix that is adapted."""
    from peft.tuners.lora import LoraLayer

    base: PreTrainedModel = model.get_base_model()  # type: ignore[operator]
    for name, layer in base.named_modules():
        if isinstance(layer, LoraLayer):
            yield name, layer


def read(layer: Any) -> Dual | None:
    """The change of an adapted matrix; None where it is not of a `DualSparse`."""
    a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    if not (isinstance(a, Reads) and isinstance(b, Writes)):
        return None
    return Dual(a.low.detach(), b.low.detach(), b.rows, a.columns, b.values.detach())


def write(layer: Any, dual: Dual) -> None:
    """Give an adapted matrix this change; its factors become those of a `DualSparse`."""
    trains = layer.lora_A[ADAPTER].weight.requires_grad
    layer.lora_A[ADAPTER] = Reads(dual.a.clone(), dual.columns).requires_grad_(trains)
    layer.lora_B[ADAPTER] = Writes(dual.b.clone(), dual.rows, dual.values.clone()).requires_grad_(trains)
