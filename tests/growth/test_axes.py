"""Axes: what grow and restrict promise for every map, whatever the model."""

import pytest
import torch

from hf_dwt.growth.axes import Axis, Segment, grow, restrict

PLAIN = Axis.whole(4, 8)
FUSED = Axis((Segment(2, 4), Segment(1, 2), Segment(1, 2)))
UNEVEN = Axis.whole(3, 5)
SAME = Axis.whole(4, 4)
AXES = {"plain": PLAIN, "fused": FUSED, "uneven": UNEVEN, "same": SAME}


@pytest.mark.parametrize("symmetry", [0.0, 0.5])
@pytest.mark.parametrize("inputs", AXES)
@pytest.mark.parametrize("outputs", AXES)
def test_restrict_undoes_grow(outputs: str, inputs: str, symmetry: float) -> None:
    axes = (AXES[outputs], AXES[inputs])
    weight = torch.randn(axes[0].old, axes[1].old, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    grown = grow(weight, axes, frozenset({1}), symmetry, generator)
    assert grown.shape == (axes[0].new, axes[1].new)
    assert torch.allclose(restrict(grown, axes, frozenset({1})), weight, atol=1e-14)
    if axes[1].grows:  # counter-case: read the wrong way round it is not undone
        assert not torch.allclose(restrict(grown, axes, frozenset()), weight, atol=1e-2)


@pytest.mark.parametrize("symmetry", [0.0, 0.5])
@pytest.mark.parametrize("inputs", AXES)
def test_copies_in_give_copies_out(inputs: str, symmetry: float) -> None:
    axes = (FUSED, AXES[inputs])
    weight, x = torch.randn(4, axes[1].old, dtype=torch.float64), torch.randn(axes[1].old, dtype=torch.float64)
    grown = grow(weight, axes, frozenset({1}), symmetry, torch.Generator().manual_seed(0))
    wanted = (weight @ x)[FUSED.source]
    assert torch.allclose(grown @ x[axes[1].source], wanted, atol=1e-13)
    if axes[1].grows:
        assert not torch.allclose(grow(weight, axes) @ x[axes[1].source], wanted, atol=1e-2)


def test_copies_are_tiled_within_segments() -> None:
    assert PLAIN.source.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert FUSED.source.tolist() == [0, 1, 0, 1, 2, 2, 3, 3]
    assert UNEVEN.copies.tolist() == [2, 2, 1, 2, 2]


def test_shares_differ_only_where_symmetry_is_broken() -> None:
    weight = torch.ones(2, 4)
    axes = (SAME.whole(2, 2), PLAIN)
    equal = grow(weight, axes, frozenset({1}))
    parted = grow(weight, axes, frozenset({1}), 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(equal[:, :4], equal[:, 4:])
    assert (parted[:, :4] - parted[:, 4:]).abs().min() > 1e-3
    with pytest.raises(ValueError, match="generator"):
        grow(weight, axes, frozenset({1}), 0.5)


def test_nothing_shrinks() -> None:
    with pytest.raises(ValueError, match="cannot grow from 4 to 3"):
        Segment(4, 3)
