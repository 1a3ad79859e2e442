"""Padded tables: their rows there and back, where rows stand among others, and what a GPU computes."""

import pytest
import torch

from minimaskrcnn.padded import RowFeatures, Rows, gather_rows, rows_to_compute

VALID = torch.tensor([[True, False, True], [False, True, False]])


def test_rows_on_the_cpu_are_the_valid_ones():
    rows = rows_to_compute(VALID)
    assert rows.shape == (2, 3)
    assert list(zip(rows.image.tolist(), rows.column.tolist())) == [(0, 0), (0, 2), (1, 1)]


def test_a_gpu_computes_all_rows_unless_told_otherwise():
    with torch.device("meta"):
        everything = rows_to_compute(torch.ones(2, 3, dtype=torch.bool))
    assert everything.image.shape == everything.column.shape == (6,)


def test_there_and_back():
    rows = rows_to_compute(VALID)
    table = torch.arange(12.0).view(2, 3, 2)
    taken = rows.of(table)
    assert taken.tolist() == [table[0, 0].tolist(), table[0, 2].tolist(), table[1, 1].tolist()]
    assert torch.equal(rows.to_table(taken), table * VALID[..., None])
    # A table with more columns has these rows too.
    assert rows.of(torch.arange(8).view(2, 4)).tolist() == [0, 2, 5]


def test_rows_among_others():
    every = rows_to_compute(torch.ones_like(VALID))
    some = rows_to_compute(VALID)
    assert every.places_of(some).tolist() == [0, 2, 4]
    # Also of a table of fewer columns.
    few = Rows(torch.tensor([1, 0]), torch.tensor([1, 0]), (2, 2))
    assert some.places_of(few).tolist() == [2, 0]
    values = torch.arange(6.0).view(6, 1, 1, 1)
    found = RowFeatures(every, values).at(some)
    assert found.rows is some and found.values.flatten().tolist() == [0, 2, 4]


def test_gradients_go_to_their_rows():
    rows = rows_to_compute(VALID)
    values = torch.ones(3, requires_grad=True)
    (rows.to_table(values) * torch.arange(6.0).view(2, 3)).sum().backward()
    assert values.grad.tolist() == [0, 2, 4]


@pytest.mark.parametrize("valid", [torch.zeros(2, 3) > 0, torch.zeros(2, 0) > 0])
def test_no_rows(valid):
    rows = rows_to_compute(valid)
    assert rows.of(torch.zeros(*valid.shape, 4)).shape == (0, 4)
    assert torch.equal(rows.to_table(torch.zeros(0, 4)), torch.zeros(*valid.shape, 4))


def test_gather_rows():
    table = torch.arange(24.0).view(2, 4, 3)
    index = torch.tensor([[3, 0, 0], [1, 2, 1]])
    found = gather_rows(table, index)
    assert [[row.tolist() for row in image] for image in found] == [
        [table[b, k].tolist() for k in index[b].tolist()] for b in range(2)
    ]
    assert gather_rows(table[..., 0], index).tolist() == [[9, 0, 0], [15, 18, 15]]
