"""Terms on hidden states: the formulas over rows, which layers belong together, and what they may be called."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_dwt.errors import ArgumentError
from hf_dwt.growth.depth.rules import DEPTHS
from hf_dwt.objective.hidden import HIDDEN_TERMS, get_hidden_term
from hf_dwt.objective.hidden.layers import Depths, numbered, read_layers

EXAMPLES = torch.tensor([0, 0, 0, 2, 3, 3])
"""Of six rows: three, one and two; example 1 has none."""


def drawn(width: int, seed: int) -> Tensor:
    return torch.randn(len(EXAMPLES), width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(student: Tensor, supervisor: Tensor, pool: bool = False) -> list[float]:
    """Number by number."""
    found = []
    for row, example in enumerate(EXAMPLES.tolist()):
        pair = []
        for hidden in (student, supervisor):
            vector = hidden[example == EXAMPLES].mean(0) if pool else hidden[row]
            pair.append([x / math.sqrt(sum(y * y for y in vector.tolist())) for x in vector.tolist()])
        found.append(sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) / len(pair[0]))
    return found


def cosines(student: Tensor, supervisor: Tensor) -> list[float]:
    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    return [1 - cosine(a, b) for a, b in zip(student, supervisor, strict=True)]


def related(student: Tensor, supervisor: Tensor) -> list[float]:
    """For two widths the mean of products, times the square root of the supervisor's width."""

    def of(hidden: Tensor, row: int, width: int) -> Tensor:
        same = EXAMPLES[row] == EXAMPLES
        products = torch.stack([(hidden[row] * other).mean() * math.sqrt(width) for other in hidden[same]])
        return products.exp() / products.exp().sum()

    found = []
    for row in range(len(EXAMPLES)):
        p, q = (of(hidden, row, supervisor.shape[1]) for hidden in (supervisor, student))
        found.append(float((p * (p / q).log()).sum()))
    return found


def normalised(student: Tensor, supervisor: Tensor) -> list[float]:
    def of(row: Tensor) -> Tensor:
        return (row - row.mean()) / torch.sqrt(((row - row.mean()) ** 2).mean() + 1e-5)

    return [float(((of(a) - of(b)) ** 2).mean()) for a, b in zip(student, supervisor, strict=True)]


@pytest.mark.parametrize(
    ("name", "kwargs", "by_hand", "width"),
    [
        ("masked_features", {}, features, 5),
        ("masked_features", {"pool": True}, lambda a, b: features(a, b, pool=True), 5),
        ("late_to_early", {}, cosines, 5),
        ("relations", {}, related, 5),
        ("relations", {}, related, 10),
        ("self_features", {}, normalised, 5),
    ],
)
def test_a_term_is_its_formula(name: str, kwargs: dict[str, Any], by_hand: Any, width: int) -> None:
    student, supervisor = drawn(width, 1), drawn(5, 2)
    term = get_hidden_term(name, kwargs)
    assert term is not None
    found = term(student, supervisor, EXAMPLES)
    torch.testing.assert_close(found, torch.tensor(by_hand(student, supervisor), dtype=torch.float64))
    assert found.max() > 1e-2 and term(student[:0], supervisor[:0], EXAMPLES[:0]).shape == (0,)
    copies = torch.cat([supervisor] * (width // 5), 1)
    torch.testing.assert_close(term(copies, supervisor, EXAMPLES), torch.zeros_like(found), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", HIDDEN_TERMS)
def test_examples_are_apart(name: str) -> None:
    """What a batch is made of changes nothing for an example."""
    term, (student, supervisor) = HIDDEN_TERMS[name], (drawn(5, 1), drawn(5, 2))
    alone = [term(student[part], supervisor[part], EXAMPLES[part]) for part in (slice(0, 3), slice(3, 4), slice(4, 6))]
    torch.testing.assert_close(torch.cat(alone), term(student, supervisor, EXAMPLES))


@pytest.mark.parametrize(
    ("rule", "old", "new", "expected"),
    [
        ("append", 2, 4, {1: 1, 4: 2}),  # the new layers behind layer 2 put out what it does
        ("interleave", 2, 4, {2: 1, 4: 2}),
        ("interleave", 3, 5, {1: 1, 3: 2, 5: 3}),
        ("stack", 2, 4, {1: 1, 4: 2}),
        ("repeat_each", 2, 4, {2: 1, 4: 2}),
        ("repeat_last", 3, 5, {1: 1, 2: 2, 5: 3}),
    ],
)
def test_a_layer_stands_for_the_one_that_it_was_made_from(
    rule: str, old: int, new: int, expected: dict[int, int]
) -> None:
    made_from = tuple(source + 1 for source, _ in DEPTHS[rule](old, new))
    assert Depths(new, old, made_from).map() == expected


def test_new_layers_of_another_kind_than_the_last_stand_for_no_other() -> None:
    """Kinds alternate, so that the layers behind the last were made from earlier ones; all are identities."""
    assert Depths(6, 4, (1, 2, 3, 4, 3, 4)).map() == {1: 1, 2: 2, 3: 3, 6: 4}
    assert Depths(5, 3, (1, 2, 2, 3, 3)).map() == {1: 1, 3: 2, 5: 3}


def test_layers_at_equal_shares_belong_together_where_nothing_is_known() -> None:
    assert Depths(6, 3).map() == {2: 1, 4: 2, 6: 3} and Depths(3, 3).map() == {1: 1, 2: 2, 3: 3}
    assert Depths(6, 3, (1, 1, 1, 1, 1, 1)).map() == {2: 1, 4: 2, 6: 3}
    assert [Depths(6, 3).opposite(layer) for layer in (1, 3, 6, "last")] == [1, 2, 3, "last"]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, None),
        ({1: "last", -1: 2}, [(1, "last"), (-1, 2)]),
        ('{"1": "last"}', [(1, "last")]),
        ([(1, 2), ["last", -1]], [(1, 2), ("last", -1)]),
        ("[2, 4]", [2, 4]),
        ((2, 4), [2, 4]),
    ],
)
def test_layers_may_be_given_in_several_forms(given: Any, read: Any) -> None:
    assert read_layers(given) == read


@pytest.mark.parametrize("given", ["{", [], {}, 3, [0], [1.5], ["first"], [(1, 2, 3)], [()], [True], {"a": 1}, "1"])
def test_what_is_no_layer_is_refused(given: Any) -> None:
    with pytest.raises(ArgumentError, match="^hidden_layers=.*(Give {student's layer: teacher's layer})"):
        read_layers(given)


def test_numbers_below_0_count_from_the_last() -> None:
    assert [numbered(layer, 4) for layer in (1, 4, -1, -4, "last", 5, -5)] == [1, 4, 4, 1, "last", None, None]
