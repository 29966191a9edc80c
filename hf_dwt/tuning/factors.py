"""The two factors of LoRA's change of a matrix, with a sparse residual in further ranks.

Legend: W (m, n) is what is adapted, r the rank, k the entries of the residual at (rows[i], columns[i]).

A residual of k entries is a matrix of rank k at most: S = sum_i values[i] e_rows[i] e_columns[i]^T. So B A + S is one
product of factors of rank r + k, whose last k rows of A are unit vectors and whose last k columns of B have one entry
each. Only A's and B's first r ranks and the k values are parameters. peft reads `weight`, as of any linear layer: it
runs, merges and saves the whole product by its own code, and what it saves is an adapter of LoRA of rank r + k, which
loads without this package.
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_OTHER = (
    "the adapter has entries of its sparse residual at other places. Attach with the rank, residual, support and seed "
    "that it was made with, to the same model"
)


class Factor(nn.Module):
    """One factor: a linear layer that is made of fewer parameters than its `weight` has numbers."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x (..., inputs) -> (..., outputs)."""
        return F.linear(x, self.weight)

    def _take(self, weight: Tensor) -> bool:
        """Set the parameters to those that `weight` is made of; False where there are none."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: MutableMapping[str, Any], prefix: str, keep_vars: bool) -> None:
        weight = self.weight
        destination[f"{prefix}weight"] = weight if keep_vars else weight.detach()

    def _load_from_state_dict(
        self,
        state_dict: MutableMapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = f"{prefix}weight"
        if name not in state_dict:
            missing_keys.append(name)
        elif state_dict[name].shape != self.weight.shape:
            shapes = f"{tuple(state_dict[name].shape)}, and not {tuple(self.weight.shape)}"
            error_msgs.append(f"{name} has the shape {shapes}: the adapter has another rank or residual.")
        elif not self._take(state_dict[name]):
            error_msgs.append(f"{name}: {_OTHER}.")


class Reads(Factor):
    """A: what the change reads of the inputs.

    Args:
        low: (r, n).
        columns: (k,) inputs that the residual reads.
    """

    columns: Tensor

    def __init__(self, low: Tensor, columns: Tensor) -> None:
        super().__init__()
        self.low = nn.Parameter(low)
        self.register_buffer("columns", columns.to(low.device), persistent=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # that of a linear layer is a parameter
        """(r + k, n)."""
        return torch.cat([self.low, F.one_hot(self.columns, self.low.shape[1]).to(self.low)])

    @torch.no_grad()
    def _take(self, weight: Tensor) -> bool:
        low, units = weight.split([len(self.low), len(self.columns)])
        if not torch.equal(units.to(self.low), self.weight[len(self.low) :]):
            return False
        self.low.copy_(low)
        return True


class Writes(Factor):
    """B: where the change writes.

    Args:
        low: (m, r).
        rows: (k,) outputs that the residual writes.
        values: (k,) of the residual.
    """

    rows: Tensor

    def __init__(self, low: Tensor, rows: Tensor, values: Tensor) -> None:
        super().__init__()
        self.low, self.values = nn.Parameter(low), nn.Parameter(values.to(low))
        self.register_buffer("rows", rows.to(low.device), persistent=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(m, r + k)."""
        sparse = self.values.new_zeros(len(self.low), len(self.rows))
        place = (self.rows, torch.arange(len(self.rows), device=self.rows.device))
        return torch.cat([self.low, sparse.index_put(place, self.values)], 1)

    @torch.no_grad()
    def _take(self, weight: Tensor) -> bool:
        low, sparse = weight.to(self.low).split([self.low.shape[1], len(self.rows)], 1)
        values = sparse.gather(0, self.rows[None])[0]
        if int(sparse.count_nonzero()) != int(values.count_nonzero()):
            return False
        self.low.copy_(low)
        self.values.copy_(values)
        return True
