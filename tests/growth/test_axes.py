"""Axes: what grow and restrict promise for every map, whatever the model."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from hf_dwt.growth import axes as module
from hf_dwt.growth.axes import Axis, Segment, grow
from hf_dwt.growth.width.mapping import Gain, Step, make_tensor


def restrict(weight: Tensor, axes: Sequence[Axis], contracted: frozenset[int] = frozenset()) -> Tensor:
    """The inverse of `grow`: first copies of outputs, sums over copies of inputs."""
    small = weight
    for dim, axis in enumerate(axes):
        if not axis.grows:
            continue
        if dim in contracted:
            shape = [*small.shape[:dim], axis.old, *small.shape[dim + 1 :]]
            small = small.new_zeros(shape).index_add_(dim, axis.source.to(small.device), small)
        else:
            small = small.index_select(dim, axis.first.to(small.device))
    return small


PLAIN = Axis.whole(4, 8)
FUSED = Axis((Segment(2, 4), Segment(1, 2), Segment(1, 2)))
UNEVEN = Axis.whole(3, 5)
SAME = Axis.whole(4, 4)
SPREAD = Axis((Segment(4, 12, heads=(2, 6)),))
WIDER_HEADS = Axis((Segment(4, 16, heads=(2, 4)),))
SINES = Axis((Segment(2, 6, heads=(2, 6), sines=True),) * 2)
AXES = {"plain": PLAIN, "fused": FUSED, "uneven": UNEVEN, "same": SAME}
AXES |= {"spread": SPREAD, "wider": WIDER_HEADS, "sines": SINES}


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
    if axes[1].copies.max() > 1:  # counter-case: read the wrong way round it is not undone
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


def test_heads_that_differ_by_place_are_spread_and_the_others_are_not_read() -> None:
    assert SPREAD.source.tolist() == [0, 1, 0, 1, 2, 3, 2, 3, 0, 1, 0, 1]
    assert SPREAD.read.nonzero()[:, 0].tolist() == SPREAD.first.tolist() == [2, 3, 6, 7]
    assert WIDER_HEADS.read.nonzero()[:, 0].tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    assert WIDER_HEADS.first.tolist() == [4, 5, 12, 13]
    weight, x = torch.randn(3, 4), torch.randn(12)
    grown = grow(weight, (SAME.whole(3, 3), SPREAD), frozenset({1}), 0.5, torch.Generator().manual_seed(0))
    assert torch.allclose(grown @ x, weight @ x[SPREAD.first], atol=1e-6)
    assert not torch.allclose(grown @ x, weight @ x[:4], atol=1e-2)


@pytest.mark.parametrize("heads", [2, 4])
def test_the_places_are_those_of_equal_slopes(heads: int) -> None:
    """Press et al. 2022: over n heads, n a power of 2, slopes fall from 2^(-8/n) to 2^(-8)."""

    def slopes(n: int) -> torch.Tensor:
        return 2.0 ** (-8.0 / n * torch.arange(1, n + 1))

    axis = Axis((Segment(heads, 4 * heads, heads=(heads, 4 * heads)),))
    assert torch.equal(slopes(4 * heads)[axis.first], slopes(heads))
    assert not torch.equal(slopes(4 * heads)[Axis.whole(heads, 4 * heads).first], slopes(heads))


@pytest.mark.parametrize("heads", range(1, 10))
@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_the_places_are_those_of_the_slopes_of_any_number_of_heads(heads: int, times: int) -> None:
    """As two models of transformers compute them; no two heads of the teacher share a place."""
    mask = torch.ones(1, 5)
    larger = times * heads + (times == 1)
    first = Axis((Segment(heads, larger, heads=(heads, larger)),)).first
    for slopes in (
        lambda n: build_alibi_tensor(mask, n, torch.float32)[:, 0, -1],
        lambda n: build_mpt_alibi_tensor(n, 5)[:, 0, 0],
    ):
        assert torch.allclose(slopes(larger)[first], slopes(heads), rtol=1e-6)
    assert len(set(first.tolist())) == heads


@pytest.mark.parametrize("times", [2, 3])
def test_the_places_are_those_of_equal_frequencies(times: int) -> None:
    """Transformer-XL: 10000^(-i/n), i = 0 .. n - 1, of which sines and then cosines are taken."""

    def frequencies(n: int) -> torch.Tensor:
        return (10000.0 ** (-torch.arange(n, dtype=torch.float64) / n)).repeat(2)

    axis = Axis((Segment(4, 4 * times, heads=(4, 4 * times), sines=True),) * 2)
    assert torch.allclose(frequencies(4 * times)[axis.first], frequencies(4), atol=1e-15)
    assert not torch.allclose(frequencies(4 * times)[Axis.whole(8, 8 * times).first], frequencies(4))


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


@pytest.mark.parametrize("contracted", [frozenset(), frozenset({0}), frozenset({1}), frozenset({0, 1})])
@pytest.mark.parametrize("inputs", AXES)
@pytest.mark.parametrize("outputs", AXES)
def test_made_in_parts_it_is_the_same(
    outputs: str, inputs: str, contracted: frozenset[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = (AXES[outputs], AXES[inputs])
    weight = torch.randn(axes[0].old, axes[1].old)
    whole = grow(weight, axes, contracted)
    monkeypatch.setattr(module, "PART", 3)
    assert torch.equal(grow(weight, axes, contracted), whole)
    # Shares that differ along two axes at once do not sum to 1 over both.
    symmetry = 0.5 if len(contracted) < 2 else 0.0
    parted = grow(weight, axes, contracted, symmetry, torch.Generator().manual_seed(0))
    assert torch.allclose(restrict(parted, axes, contracted), weight, atol=1e-6)


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("dim", [0, 1])
def test_tiling_is_indexing(name: str, dim: int) -> None:
    axis = AXES[name]
    tensor = torch.randn(axis.old, axis.old)
    assert torch.equal(axis.tile(tensor, dim), tensor.index_select(dim, axis.source))


class Made(TorchDispatchMode):
    """The most elements of any tensor made while it is on, views of what was there before left out."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.most = max(self.most, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("contracted", [frozenset({0}), frozenset({1})])
def test_beside_weight_and_result_it_needs_little_memory(
    contracted: frozenset[int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = (Axis.whole(64, 128), Axis.whole(64, 128))
    weight, out = torch.randn(64, 64).to(dtype), torch.empty(128, 128, dtype=dtype)
    monkeypatch.setattr(module, "PART", 512)
    with Made(weight, out) as made:
        grow(weight, axes, contracted, 0.5, torch.Generator().manual_seed(0), out)
    assert 0 < made.most <= 512
    # Counter-case: in one part it needs tensors as large as the result.
    monkeypatch.setattr(module, "PART", 2**20)
    with Made(weight, out) as made:
        grow(weight, axes, contracted, 0.5, torch.Generator().manual_seed(0), out)
    assert made.most >= out.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("symmetry", [0.0, 0.5])
def test_shares_of_half_precision_are_formed_in_fp32(symmetry: float, dtype: torch.dtype) -> None:
    axes = (Axis.whole(8, 24), Axis.whole(8, 24))
    weight = torch.randn(8, 8).to(dtype)
    half, full = (
        grow(w, axes, frozenset({1}), symmetry, torch.Generator().manual_seed(0)) for w in (weight, weight.float())
    )
    assert half.dtype is dtype
    assert torch.equal(half, full.to(dtype))


def test_a_gain_on_one_plus_weight_is_formed_in_fp32() -> None:
    """Gemma's norms: in bf16 the sum 1 + w would lose most digits of w."""
    weight, out = (torch.randn(64) * 0.01).bfloat16(), torch.empty(128, dtype=torch.bfloat16)
    step = Step("norm.weight", (Axis.whole(64, 128),), frozenset(), Gain(0.99, unit=True))
    make_tensor("norm.weight", step, weight, 0.5, seed=0, out=out)
    wanted = ((1 + weight.float()) * 0.99 - 1).repeat(2).bfloat16()
    assert torch.equal(out, wanted)
    assert not torch.equal(((1 + weight) * 0.99 - 1).repeat(2), wanted)
