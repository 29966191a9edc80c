"""The trace: summed axes are found however an operation is written, and unknown operations are told."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hf_dwt.growth.width.trace import trace

WRITINGS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...], set[int]]] = {
    "linear": (lambda x, w: nn.functional.linear(x, w), (6, 4), {1}),
    "matmul": (lambda x, w: x @ w, (4, 6), {0}),
    "einsum": (lambda x, w: torch.einsum("bsd,edf->ebsf", x, w), (3, 4, 6), {1}),
    "expert": (lambda x, w: x @ w[1].T, (3, 6, 4), {2}),
    "chunk": (lambda x, w: x @ w.chunk(2, 1)[0].contiguous(), (4, 6), {0}),
    "cast": (lambda x, w: x @ w.double().float(), (4, 6), {0}),
    "conv": (lambda x, w: nn.functional.conv1d(x.transpose(1, 2), w), (6, 4, 1), {1}),
    "scale": (lambda x, w: x * w, (4,), set()),
    "norm": (lambda x, w: nn.functional.layer_norm(x, (4,), w), (4,), set()),
}


class Model(nn.Module):
    def __init__(self, shape: tuple[int, ...], function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


@pytest.mark.parametrize("name", WRITINGS)
def test_summed_axes(name: str) -> None:
    function, shape, summed = WRITINGS[name]
    usage = trace(Model(shape, function), {"x": torch.randn(2, 5, 4)})["weight"]
    assert usage.used and usage.summed == summed and not usage.unknown and not usage.looked_up


def test_a_table_is_looked_up() -> None:
    usage = trace(Model((7, 4), lambda x, w: nn.functional.embedding(x, w) @ w.T), {"x": torch.tensor([[1, 2]])})
    assert usage["weight"].looked_up and usage["weight"].summed == {1}


def test_a_matrix_that_writes_and_reads_leaves_what_it_sums_over() -> None:
    both = trace(Model((6, 4), lambda x, w: (x @ w.T) @ w), {"x": torch.randn(2, 5, 4)})["weight"]
    assert both.summed == {0, 1} and both.free == {0, 1}
    reads = trace(Model((6, 4), lambda x, w: x @ w.T), {"x": torch.randn(2, 5, 4)})["weight"]
    assert reads.summed == {1} and reads.free == {0}


def test_rows_joined_to_a_table_are_used_as_it_is() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.more = nn.Parameter(torch.randn(7, 4)), nn.Parameter(torch.randn(2, 7))

        def forward(self, ids: Tensor, tied: bool = True) -> Tensor:
            x = nn.functional.embedding(ids, self.table) if tied else torch.ones(1, 2, 4)
            return nn.functional.pad(x, (0, 2)) @ torch.cat([self.table.T, self.more])

    ids = torch.tensor([[1, 2]])
    assert trace(Head(), {"ids": ids})["more"].looked_up
    assert not trace(Head(), {"ids": ids, "tied": False})["more"].looked_up


def test_what_was_normalised_is_no_weight() -> None:
    def learned(x: Tensor, w: Tensor, norm: bool = True) -> Tensor:
        query = nn.functional.layer_norm(w, (4,)) if norm else w * 2
        return query @ x.transpose(1, 2)

    def plain(x: Tensor, w: Tensor) -> Tensor:
        return learned(x, w, norm=False)

    x = {"x": torch.randn(2, 5, 4)}
    assert trace(Model((3, 4), learned), x)["weight"].summed == set()
    assert trace(Model((3, 4), plain), x)["weight"].summed == {1}


def test_an_operation_that_is_not_known_is_named() -> None:
    usage = trace(Model((4, 4), lambda x, w: x @ torch.linalg.inv(w)), {"x": torch.randn(2, 4)})["weight"]
    assert usage.unknown
    usage = trace(Model((4,), lambda x, w: x * w.softmax(0)), {"x": torch.randn(2, 4)})["weight"]
    assert usage.unknown == {"_softmax"}
