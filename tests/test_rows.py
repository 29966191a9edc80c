"""From labels to rows, against loops that cannot be wrong."""

import pytest
import torch

from hf_dwt.errors import DataError
from hf_dwt.forward.rows import select_rows

LABELS = torch.tensor([[7, -100, 3, -100], [-100, 5, -100, 2], [-100, -100, -100, -100]])


def by_hand(labels: torch.Tensor, shifts: bool) -> list[tuple[int, int]]:
    """(place in the flattened batch, label) of every counted position."""
    found = []
    for example in range(labels.shape[0]):
        for place in range(labels.shape[1] - (1 if shifts else 0)):
            label = int(labels[example, place + 1 if shifts else place])
            if label != -100:
                found.append((example * labels.shape[1] + place, label))
    return found


@pytest.mark.parametrize("shifts", [False, True])
def test_rows_are_the_labelled_positions(shifts: bool) -> None:
    rows = select_rows(LABELS, shifts)
    assert list(zip(rows.positions.tolist(), rows.labels.tolist(), strict=True)) == by_hand(LABELS, shifts)
    assert by_hand(LABELS, True) != by_hand(LABELS, False)


def test_a_shift_does_not_reach_into_the_next_example() -> None:
    rows = select_rows(torch.tensor([[-100, -100], [9, -100]]), shifts=True)
    assert rows.positions.numel() == 0


@pytest.mark.parametrize("shifts", [False, True])
def test_take_and_examples_follow_the_rows(shifts: bool) -> None:
    hidden = torch.arange(3 * 4 * 2.0).reshape(3, 4, 2)
    rows = select_rows(LABELS, shifts)
    expected = [hidden[place // 4, place % 4].tolist() for place, _ in by_hand(LABELS, shifts)]
    assert rows.take(hidden).tolist() == expected
    assert rows.examples.tolist() == [place // 4 for place, _ in by_hand(LABELS, shifts)]


def test_classes_of_whole_examples() -> None:
    rows = select_rows(torch.tensor([2, -100, 0]), shifts=False)
    assert rows.positions.tolist() == [0, 2] and rows.labels.tolist() == [2, 0] and rows.examples.tolist() == [0, 2]


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"labels=torch\.float32.*Give integer labels"):
        select_rows(torch.tensor([[0.5, 1.0]]), shifts=False)
